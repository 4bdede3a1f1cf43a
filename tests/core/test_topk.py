"""The k smallest over all layers, exactly: against a stable sort of everything, ties by layer and flat index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pruning.core import topk
from pruning.core.topk import bottom_k_masks


class Scores:
    """Scores that lie in a tensor, handed out in slices of `length`."""

    def __init__(self, values: Tensor, length: int = 1000) -> None:
        self.values = values.float().flatten()
        self.length = length
        self.passes = 0

    @property
    def size(self) -> int:
        return self.values.numel()

    @property
    def device(self) -> torch.device:
        return self.values.device

    def slices(self) -> Iterator[tuple[range, Tensor]]:
        self.passes += 1
        for start in range(0, self.size, self.length):
            yield (
                range(start, min(start + self.length, self.size)),
                self.values[start : start + self.length].clone(),
            )

    def at(self, positions: Tensor) -> Tensor:
        return self.values[positions]


def sorted_whole(values: Sequence[Tensor], count: int) -> list[Tensor]:
    """The same by a full stable sort."""
    flat = torch.cat([value.float().flatten() for value in values])
    kept = torch.ones(len(flat), dtype=torch.bool)
    kept[flat.sort(stable=True).indices[:count]] = False
    return list(kept.split([value.numel() for value in values]))


def check(values: Sequence[Tensor], count: int, length: int = 1000) -> None:
    found = bottom_k_masks([Scores(value, length) for value in values], count)
    for mask, expected in zip(found, sorted_whole(values, count), strict=True):
        assert torch.equal(mask, expected)


def test_by_hand_with_ties() -> None:
    first, second = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([2.0, 0.0, 2.0, 5.0])
    masks = bottom_k_masks([Scores(first), Scores(second)], 4)
    # In order: 0 of the second, 1 of the first, then the first two of the three 2s.
    assert masks[0].tolist() == [True, False, False]
    assert masks[1].tolist() == [False, False, True, True]


@pytest.mark.parametrize(("count", "left"), [(-1, 5), (0, 5), (5, 0), (9, 0)])
def test_counts_beyond_the_range_remove_none_or_all(count: int, left: int) -> None:
    (mask,) = bottom_k_masks([Scores(torch.randn(5))], count)
    assert int(mask.sum()) == left


DRAWS = {
    "normal": lambda size: torch.randn(size),
    "few values": lambda size: torch.randint(0, 4, (size,)),
    "bfloat16": lambda size: torch.randn(size).bfloat16(),
    "float16": lambda size: torch.randn(size).half(),
    "mostly zero": lambda size: torch.randn(size) * (torch.rand(size) < 0.1),
    "all equal": lambda size: torch.ones(size),
    "pruned first": lambda size: torch.where(torch.rand(size) < 0.5, topk.LOWEST, torch.randn(size)),
    "spread over magnitudes": lambda size: torch.randn(size).mul(30).exp(),
    "ascending": lambda size: torch.arange(size),
    "zeros of both signs": lambda size: torch.randn(size).sign() * 0.0,
}


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("fraction", [0.0001, 0.3, 0.5, 0.9, 0.98, 0.9999])
def test_masks_equal_those_of_a_full_sort(draw: str, fraction: float) -> None:
    torch.manual_seed(0)
    values = [DRAWS[draw](size) for size in (30_011, 1, 7, 12_345)]
    check(values, round(fraction * 42_364))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9000), min_size=1, max_size=5),
    draw=st.sampled_from(sorted(DRAWS)),
    fraction=st.floats(0, 1),
    length=st.sampled_from([8, 999, 4096, 1 << 20]),
    seed=st.integers(0, 1000),
)
def test_masks_equal_those_of_a_full_sort_for_any_sizes_and_slices(
    sizes: list[int], draw: str, fraction: float, length: int, seed: int
) -> None:
    torch.manual_seed(seed)
    check([DRAWS[draw](size) for size in sizes], round(fraction * sum(sizes)), max(length, max(sizes) // 50))


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.8])
def test_a_bracket_that_misses_is_widened(fraction: float) -> None:
    """The sample sees nothing but ones: the other scores lie where it does not look."""

    class Misleading(Scores):
        def at(self, positions: Tensor) -> Tensor:
            return torch.ones(len(positions))

    values = torch.randn(20_000)
    source = Misleading(values)
    (mask,) = bottom_k_masks([source], round(20_000 * fraction))
    assert torch.equal(mask, sorted_whole([values], round(20_000 * fraction))[0])


def test_distinct_scores_need_one_pass() -> None:
    torch.manual_seed(0)
    source = Scores(torch.randn(100_000))
    bottom_k_masks([source], 90_000)
    assert source.passes == 1


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("draw", DRAWS)
def test_masks_on_a_gpu_equal_those_of_a_full_sort(draw: str) -> None:
    torch.manual_seed(0)
    values = [DRAWS[draw](size) for size in (300_011, 1, 7, 12_345)]
    for count in (0, 31, 281_127, 312_000):
        found = bottom_k_masks([Scores(value.cuda(), 1 << 24) for value in values], count)
        for mask, expected in zip(found, sorted_whole(values, count), strict=True):
            assert torch.equal(mask.cpu(), expected)
