"""A floor in every layer: the minimum number of weights that pruning keeps."""

from __future__ import annotations

import pytest
import torch
from conftest import masks_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pruning import PruningError


def test_a_floor_for_weights_by_hand() -> None:
    """The first layer would be emptied; with a floor it keeps its largest, and the second loses one more."""
    model = nn.Sequential(nn.Linear(3, 1, bias=False), nn.Linear(5, 1, bias=False), nn.Linear(1, 1))
    model[0].weight.data = torch.tensor([[1.0, 2.0, 3.0]])
    model[1].weight.data = torch.tensor([[4.0, 5.0, 6.0, 7.0, 8.0]])
    found = masks_of(model, "global_mag", count=4, floor=0.2)
    assert found["0.weight"].tolist() == [[False, False, True]]
    assert found["1.weight"].tolist() == [[False, False, True, True, True]]
    assert masks_of(model, "global_mag", count=6, floor=0.2).removed == 6
    with pytest.raises(PruningError, match=r"floor of 0\.2 .* 6 weights, but 7"):
        masks_of(model, "global_mag", count=7, floor=0.2)
    with pytest.raises(PruningError, match=r"Floor 1\.5 is not a fraction"):
        masks_of(model, "global_mag", floor=1.5)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    sparsity=st.floats(0, 1),
    floor=st.sampled_from([0.01, 0.1, 0.3]),
    seed=st.integers(0, 99),
)
def test_a_floor_removes_the_lowest_unprotected_weights(
    sizes: list[int], sparsity: float, floor: float, seed: int
) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(*(nn.Linear(size, 1, bias=False) for size in sizes))
    with torch.no_grad():
        for layer in model:
            layer.weight.copy_(torch.randint(1, 9, layer.weight.shape) * (1 + 9 * torch.rand(1)))  # type: ignore
    protected = {i: -(-int(floor * 100) * size // 100) for i, size in enumerate(sizes)}
    remove = round(sparsity * sum(sizes))
    if remove > sum(sizes) - sum(protected.values()):
        with pytest.raises(PruningError, match="floor"):
            masks_of(model, "global_mag", sparsity, floor=floor, prune_classifier=True)
        return
    masks = masks_of(model, "global_mag", sparsity, floor=floor, prune_classifier=True)
    assert masks.removed == remove
    free: list[tuple[float, int, int]] = []
    for i, layer in enumerate(model):
        row = layer.weight.detach().abs().flatten().tolist()  # type: ignore[union-attr, operator]
        order = sorted(range(len(row)), key=lambda j: (row[j], j))
        free += [(row[j], i, j) for j in order[: len(row) - protected[i]]]
    expected = {(i, j) for _, i, j in sorted(free)[:remove]}
    found = {
        (i, j)
        for i, mask in enumerate(masks.values())
        for j, kept in enumerate(mask.flatten().tolist())
        if not kept
    }
    assert found == expected
