"""Masks: counts, applying, holding through training, saving and loading."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

import pruning
from pruning import Masks, PruningError
from pruning.core.masks import FORMAT


def small(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).to(dtype)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        inputs = torch.randn(8, 6, dtype=next(model.parameters()).dtype)
        functional.cross_entropy(model(inputs), torch.randint(3, (8,))).backward()
        optimizer.step()


def removed_are_zero(model: nn.Module, masks: Masks) -> bool:
    return all(not model.get_parameter(name)[~mask].any() for name, mask in masks.items())


def test_masks_are_a_mapping_with_counts_and_sparsity() -> None:
    masks = Masks({"a": torch.tensor([[True, False], [False, False]]), "b": torch.tensor([True])})
    assert list(masks) == ["a", "b"]
    assert (masks.total, masks.removed, masks.sparsity) == (5, 3, 0.6)
    first = masks.layers()[0]
    assert (first.name, first.shape, first.weights, first.nonzero, first.sparsity) == (
        "a",
        (2, 2),
        4,
        1,
        0.75,
    )
    assert masks == Masks(dict(masks))
    assert masks != Masks({"a": masks["a"]})
    assert "3 of 5" in repr(masks)


def test_masks_that_are_not_bool_are_refused() -> None:
    with pytest.raises(PruningError, match=r"mask of a is torch\.float32"):
        Masks({"a": torch.ones(2)})


def test_apply_zeroes_removed_weights_in_place_and_nothing_else() -> None:
    model = nn.Linear(2, 2)
    weight = model.weight
    before = weight.detach().clone()
    masks = Masks({"weight": torch.tensor([[True, False], [False, True]])})
    assert masks.apply(model) is masks
    assert model.weight is weight
    assert weight.tolist() == [[before[0, 0].item(), 0.0], [0.0, before[1, 1].item()]]
    assert list(model.state_dict()) == ["weight", "bias"]


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (
            {"0.weight": torch.ones(5, 6, dtype=torch.bool), "conv": torch.ones(2, dtype=torch.bool)},
            "no parameter conv",
        ),
        (
            {
                "0.weight": torch.zeros(5, 6, dtype=torch.bool),
                "2.weight": torch.zeros(2, 3, dtype=torch.bool),
            },
            "2x3.*4x5",
        ),
    ],
)
def test_masks_of_another_network_are_refused_before_anything_changes(
    masks: dict[str, torch.Tensor], message: str
) -> None:
    model = small()
    before = model[0].weight.detach().clone()
    with pytest.raises(PruningError, match=message):
        Masks(masks).apply(model)
    assert torch.equal(model[0].weight, before)


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    "sgd foreach": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, foreach=True),
    "sgd fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_removed_weights_are_exactly_zero_after_every_step(name: str) -> None:
    model = small()
    optimizer = OPTIMIZERS[name](list(model.parameters()))
    train(model, optimizer)  # momentum that would bring removed weights back
    masks = pruning.prune(model, "global_mag", sparsity=0.5)
    masks.hold(optimizer)
    for _ in range(4):
        kept = model[0].weight.detach().clone()
        train(model, optimizer, steps=1)
        assert removed_are_zero(model, masks)
        assert not torch.equal(kept, model[0].weight)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    assert list(model.state_dict()) == list(small().state_dict())


def test_hold_ends_when_its_handle_is_removed() -> None:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    masks = pruning.prune(model, "global_mag", sparsity=0.5)
    masks.hold(optimizer).remove()
    train(model, optimizer)
    assert not removed_are_zero(model, masks)


def test_hold_zeroes_removed_weights_immediately() -> None:
    model = small()
    masks = pruning.prune(model, "global_mag", sparsity=0.5)
    model.load_state_dict(small().state_dict())
    masks.hold(torch.optim.SGD(model.parameters(), lr=0.1))
    assert removed_are_zero(model, masks)


def test_hold_does_not_hide_nan_weights() -> None:
    model = nn.Linear(2, 2)
    masks = Masks({"weight": torch.tensor([[True, False], [True, True]])}).apply(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    masks.hold(optimizer)
    model.weight.grad = torch.full((2, 2), torch.nan)
    optimizer.step()
    assert model.weight.isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_hold_keeps_half_precision_weights_in_half_precision(dtype: torch.dtype) -> None:
    model = small(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    masks = pruning.prune(model, "global_mag", sparsity=0.5)
    masks.hold(optimizer)
    train(model, optimizer)
    assert removed_are_zero(model, masks)
    assert model[0].weight.dtype == dtype


def test_tied_weights_are_held_under_either_name() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    masks = pruning.prune(model, "global_mag", sparsity=0.5)
    assert list(masks) == ["0.weight"]
    assert masks.total == 9
    renamed = Masks({"1.weight": masks["0.weight"]}).apply(model)
    assert removed_are_zero(model, renamed)


def test_loaded_masks_equal_the_saved_ones_and_hold_after_apply(tmp_path: Path) -> None:
    model = small()
    masks = pruning.prune(model, "global_mag", sparsity=0.8)
    masks.save(tmp_path / "masks.safetensors")
    loaded = Masks.load(tmp_path / "masks.safetensors")
    assert loaded == masks
    assert list(loaded) == list(masks)
    assert loaded.layers() == masks.layers()
    another = small()
    optimizer = torch.optim.SGD(another.parameters(), lr=0.1, momentum=0.9)
    with pytest.raises(PruningError, match=r"not bound .*apply\(model\)"):
        loaded.hold(optimizer)
    loaded.apply(another).hold(optimizer)
    train(another, optimizer)
    assert removed_are_zero(another, loaded)


def test_dependent_masks_keep_their_names_in_files(tmp_path: Path) -> None:
    """The prefix is part of the file format: files that were written before must stay readable."""
    masks = {"weight": torch.tensor([[True, False]]), "along:bias": torch.tensor([False])}
    save_file(masks, tmp_path / "masks.safetensors", metadata={"format": "pruning masks 1"})
    loaded = Masks.load(tmp_path / "masks.safetensors")
    assert (list(loaded), list(loaded.dependent_masks), loaded.total) == (["weight"], ["bias"], 2)
    loaded.save(tmp_path / "again.safetensors")
    assert load_file(tmp_path / "again.safetensors").keys() == masks.keys()


def test_an_optimizer_of_another_model_is_refused() -> None:
    masks = pruning.prune(small(), "global_mag", sparsity=0.5)
    with pytest.raises(PruningError, match="none of the weights"):
        masks.hold(torch.optim.SGD(small().parameters(), lr=0.1))


def test_loading_a_file_without_masks_is_refused(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    save_file({"weight": torch.ones(2)}, weights)
    with pytest.raises(PruningError, match=str(weights)):
        Masks.load(weights)
    lying = tmp_path / "lying.safetensors"
    save_file({"weight": torch.ones(2)}, lying, metadata=FORMAT)
    with pytest.raises(PruningError, match=r"torch\.float32"):
        Masks.load(lying)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not a safetensors file")
    for path in (broken, tmp_path / "missing.safetensors", tmp_path):
        with pytest.raises(PruningError, match=f"Cannot read masks from {path}"):
            Masks.load(path)


def test_saving_to_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PruningError, match="Cannot write masks"):
        Masks({"a": torch.ones(2, dtype=torch.bool)}).save(tmp_path / "missing" / "masks.safetensors")
