"""The pruning step through its public API: masks by hand, exact counts, comparison with torch, errors."""

from __future__ import annotations

import copy
from inspect import signature
from typing import Any

import pytest
import torch
from conftest import Register, masks_of, scoring_arguments
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

import pruning
from pruning import Masks, PruningError
from pruning.axes.methods import check, names, split
from pruning.axes.scoring import Weights
from pruning.core.layers import prunable_layers
from pruning.registry import SCORES


def goes_with_weights(method: str) -> bool:
    try:
        check(method, "weight")
    except PruningError:
        return False
    return True


METHODS = [method for method in names() if goes_with_weights(method)]


def lenet() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def small() -> nn.Sequential:
    """The same with fewer neurons, where every method is tried."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(4), nn.Conv2d(6, 16, 3), nn.ReLU(), nn.MaxPool2d(4),
        nn.Flatten(), nn.Linear(16, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 10),
    )  # fmt: skip


def batches() -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(8, 1, 28, 28), torch.randint(10, (8,))) for _ in range(2)]


def by_hand(*rows: list[float]) -> nn.Sequential:
    """One linear layer without bias for each row of weights, and a classifier that is left alone."""
    model = nn.Sequential(*(nn.Linear(len(row), 1, bias=False) for row in rows), nn.Linear(1, 1))
    for layer, row in zip(model, rows, strict=False):
        layer.weight.data[:] = torch.tensor(row)  # type: ignore[union-attr, operator]
    return model


def kept(masks: Masks) -> list[list[bool]]:
    return [mask.flatten().tolist() for mask in masks.values()]


# Masks worked out by hand


def test_global_magnitude_by_hand_with_ties() -> None:
    model = by_hand([-3.0, 1.0, 2.0], [2.0, -0.5, 2.0, 5.0])
    assert kept(masks_of(model, "global_mag", count=4)) == [[True, False, False], [False, False, True, True]]


def test_layerwise_magnitude_by_hand_with_ties() -> None:
    model = by_hand([1.0, -1.0, 1.0, 1.0], [3.0, -2.0, 1.0, 4.0])
    assert kept(masks_of(model, "layer_mag", sparsity=0.5)) == [
        [False, False, True, True],
        [True, False, False, True],
    ]


def test_gradient_magnitude_by_hand() -> None:
    """L = w1 x1 + w2 x2 + w3 x3, so that dL/dw = x and the scores are abs(w x): 6, 0.5, 4."""
    model = nn.Linear(3, 1, bias=False)
    model.weight.data[:] = torch.tensor([2.0, -5.0, 1.0])
    data = [(torch.tensor([[3.0, 0.1, -4.0]]), torch.zeros(1))]
    masks = masks_of(
        model, "global_grad", count=1, batches=data, loss=lambda outputs, targets: outputs.mean()
    )
    assert kept(masks) == [[True, False, True]]


def test_a_count_above_a_layers_size_removes_the_whole_layer() -> None:
    model = by_hand([1.0, 2.0], [1.0, 2.0, 3.0, 4.0])
    assert kept(masks_of(model, "layer_mag", count=3)) == [[False, False], [False, False, False, True]]
    assert masks_of(model, "global_mag", count=100).sparsity == 1.0


# Exact counts


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sparsity", [0.0, 0.123, 0.9, 0.98])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_exactly_the_rounded_fraction_is_removed(method: str, sparsity: float, dtype: torch.dtype) -> None:
    model = small().to(dtype)
    masks = pruning.prune(model, method, sparsity, **scoring_arguments(method, model, batches()))
    if method.startswith("layer_"):
        expected = sum(round(sparsity * layer.weights) for layer in masks.layers())
        assert all(
            layer.weights - layer.nonzero == round(sparsity * layer.weights) for layer in masks.layers()
        )
    else:
        expected = round(sparsity * masks.total)
    assert masks.removed == expected
    if method.startswith("uniform_plus"):
        assert masks.layers()[0].sparsity == 0
    assert sum(int((model.get_parameter(name) == 0).sum()) for name in masks) >= expected


@pytest.mark.parametrize("method", ["global_mag", "layer_grad", "erk_taylor", "lamp", "synflow", "random"])
def test_sparsity_one_removes_all_weights(method: str) -> None:
    assert masks_of(lenet(), method, 1.0, batches=batches()).sparsity == 1.0


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=4),
    sparsity=st.floats(0, 1),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
    distinct=st.sampled_from([2, 5, 1000]),
    seed=st.integers(0, 99),
)
def test_masks_are_those_of_a_stable_sort(
    shapes: list[tuple[int, int]], sparsity: float, dtype: torch.dtype, distinct: int, seed: int
) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(*(nn.Linear(inputs, outputs) for outputs, inputs in shapes)).to(dtype)
    for layer in model:
        layer.weight.data.copy_(torch.randint(-distinct, distinct + 1, layer.weight.shape) / 8)  # type: ignore
    flat = torch.cat([layer.weight.detach().abs().float().flatten() for layer in model])  # type: ignore
    expected = torch.ones(len(flat), dtype=torch.bool)
    expected[flat.sort(stable=True).indices[: round(sparsity * len(flat))]] = False
    masks = masks_of(model, "global_mag", sparsity, prune_classifier=True)
    assert torch.equal(torch.cat([mask.flatten() for mask in masks.values()]), expected)


# Against torch.nn.utils.prune


def wide() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.Conv2d(32, 64, 3, groups=4), nn.Conv2d(64, 9, 1)
    )


def sequence() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleList(
        [nn.Linear(64, 200), nn.ConvTranspose1d(8, 16, 5), nn.Conv3d(2, 8, 3), nn.Linear(200, 300)]
    )


@pytest.mark.parametrize("make", [lenet, wide, sequence])
@pytest.mark.parametrize("sparsity", [0.2, 0.77, 0.95])
def test_magnitude_masks_equal_those_of_torch_prune(make: Any, sparsity: float) -> None:
    ours, theirs = make(), make()
    chosen = masks_of(ours, "global_mag", sparsity)
    modules = [theirs.get_submodule(layer.module) for layer in prunable_layers(theirs)]
    torch_prune.global_unstructured(
        [(module, "weight") for module in modules], torch_prune.L1Unstructured, amount=sparsity
    )
    for mask, module in zip(chosen.values(), modules, strict=True):
        assert torch.equal(mask, module.weight_mask.bool())
    chosen = masks_of(ours, "layer_mag", sparsity)
    for mask, layer in zip(chosen.values(), prunable_layers(ours), strict=True):
        module = torch_prune.l1_unstructured(make().get_submodule(layer.module), "weight", amount=sparsity)
        assert torch.equal(mask, module.weight_mask.bool())


# The cases of the teaching program


def test_random_pruning_of_one_module_by_30_percent() -> None:
    model = lenet()
    masks = pruning.prune(model[3], "random", sparsity=0.3)
    assert masks.removed == round(0.3 * 864)
    assert int((model[3].weight == 0).sum()) == masks.removed


def test_the_3_smallest_biases_are_pruned_by_count() -> None:
    conv = nn.Conv2d(1, 6, 3)
    conv.bias.data[:] = torch.tensor([0.3, -0.1, 0.2, -0.5, 0.05, 0.4])  # type: ignore[index]
    masks = pruning.prune(conv, "layer_mag", count=3, include=["bias"], exclude=["weight"])
    assert kept(masks) == [[True, False, False, True, False, True]]


def test_a_second_pruning_builds_on_the_zeros_of_the_first() -> None:
    model = lenet()
    first = pruning.prune(model, "random", sparsity=0.3)
    for method in ("global_mag", "random", "global_grad"):
        second = masks_of(model, method, sparsity=0.6, batches=batches(), seed=1)
        assert second.removed == round(0.6 * first.total)
        assert not any((second[name] & ~first[name]).any() for name in first)


def test_global_magnitude_pruning_by_20_percent() -> None:
    masks = pruning.prune(lenet(), "global_mag", sparsity=0.2, prune_classifier=True)
    assert (masks.total, masks.removed) == (59_838, 11_968)  # 11,967.6


# Building on earlier masks


@pytest.mark.parametrize("method", METHODS)
def test_weights_that_earlier_masks_removed_stay_removed_with_any_values(method: str) -> None:
    model = small()
    needed = scoring_arguments(method, model, batches())
    first = masks_of(model, method, sparsity=0.5, **needed)
    rewound = small()
    second = pruning.prune(rewound, method, sparsity=0.8, seed=9, masks=first, **needed)
    assert not any((second[name] & ~first[name]).any() for name in first)
    assert second.removed == masks_of(model, method, sparsity=0.8, **needed).removed


def test_earlier_masks_beyond_the_target_are_kept() -> None:
    model = lenet()
    first = masks_of(model, "global_mag", sparsity=0.5)
    assert masks_of(model, "global_mag", sparsity=0.4, masks=first) == first


def test_zero_weights_do_not_count_as_pruned_if_masks_are_given() -> None:
    model = by_hand([0.0, 1.0, 2.0, 3.0])
    earlier = Masks({"0.weight": torch.tensor([[True, True, True, False]])})
    assert kept(masks_of(model, "global_mag", count=2, masks=earlier)) == [[False, True, True, False]]


# The model and its memory


def test_compute_masks_leaves_the_model_unchanged_and_prune_changes_only_removed_weights() -> None:
    model = lenet()
    before = copy.deepcopy(model.state_dict())
    masks_of(model, "global_grad", 0.5, batches=batches())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    masks = pruning.prune(model, "global_mag", 0.5)
    for name, value in model.state_dict().items():
        expected = before[name] * masks[name] if name in masks else before[name]
        assert torch.equal(value, expected)


def test_prune_corrects_the_kept_weights_and_compute_masks_does_not() -> None:
    model, data = lenet(), batches()
    before = copy.deepcopy(model.state_dict())
    chosen = masks_of(model, "global_second_order", 0.5, batches=data)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    masks = pruning.prune(model, "global_second_order", 0.5, batches=data)
    assert masks == chosen
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == (name not in masks)
    for name, mask in masks.items():
        assert not model.get_parameter(name)[~mask].any()
        moved = (model.get_parameter(name).detach() - before[name])[mask].abs()
        assert 0 < float(moved.mean()) < 0.1 * float(before[name][mask].abs().mean())
    plain = copy.deepcopy(model)
    plain.load_state_dict({name: value * masks.get(name, torch.tensor(1)) for name, value in before.items()})

    def loss(net: nn.Module) -> float:
        return sum(nn.functional.cross_entropy(net(inputs), targets).item() for inputs, targets in data)

    whole = lenet()
    assert abs(loss(model) - loss(whole)) < abs(loss(plain) - loss(whole))
    again = pruning.prune(model, "global_second_order", 0.7, batches=data, masks=masks)
    assert not any((again[name] & ~mask).any() for name, mask in masks.items())
    assert all(not model.get_parameter(name)[~mask].any() for name, mask in again.items())


def test_prune_has_the_parameters_of_the_python_contract() -> None:
    names = list(signature(pruning.prune).parameters)
    assert names[:8] == ["model", "method", "sparsity", "count", "batches", "include", "exclude", "seed"]
    assert {"structure", "floor", "masks", "accumulated", "prune_classifier", "loss"} == set(names[8:])


@pytest.mark.parametrize("method", METHODS)
def test_channels_last_weights_get_the_same_masks_in_their_own_layout(method: str) -> None:
    contiguous, channels_last = wide(), wide().to(memory_format=torch.channels_last)
    data = [(torch.randn(2, 3, 8, 8), torch.randint(9, (2, 4, 4)))]
    needed = scoring_arguments(method, contiguous, data)
    expected = masks_of(contiguous, method, 0.7, **needed)
    found = masks_of(channels_last, method, 0.7, **needed)
    _, score = split(method)
    if not SCORES.entry(score).spec.statistics:  # convolutions of another layout add up in another order
        assert found == expected
    assert found["2.weight"].stride() == channels_last.get_parameter("2.weight").stride()


def test_random_depends_on_the_seed_alone() -> None:
    again, other = masks_of(lenet(), "random", 0.5), masks_of(lenet(), "random", 0.5, seed=1)
    torch.manual_seed(99)
    assert masks_of(lenet(), "random", 0.5) == again != other


# User-defined scores


def test_a_score_that_is_not_elementwise_receives_the_layer_in_its_own_shape(register: Register) -> None:
    @register(SCORES, "row_share", elementwise=False, source="this test")
    def row_share(weights: Weights) -> Tensor:
        return weights.value.abs() / weights.value.abs().sum(1, keepdim=True)

    model = nn.Linear(2, 2)
    model.weight.data[:] = torch.tensor([[10.0, 30.0], [2.0, 1.0]])
    assert kept(masks_of(model, "global_row_share", count=2)) == [
        [False, True, True, False]
    ]  # 1/4 3/4, 2/3 1/3
    earlier = Masks({"weight": torch.tensor([[True, False], [True, True]])})
    # Removed weights count as zero: the shares are 1 -, 2/3 1/3.
    assert kept(masks_of(model, "global_row_share", count=2, masks=earlier)) == [[True, False, True, False]]


def test_a_score_that_returns_the_weights_does_not_change_them(register: Register) -> None:
    @register(SCORES, "signed", elementwise=True, source="this test")
    def signed(weights: Weights) -> Tensor:
        return weights.value

    model = by_hand([0.0, -1.0, 2.0, -3.0])
    assert kept(masks_of(model, "global_signed", count=2)) == [[False, True, True, False]]
    assert model[0].weight.flatten().tolist() == [0.0, -1.0, 2.0, -3.0]  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("structure", ["weight", "filter"])
def test_a_score_that_works_in_place_does_not_change_the_model(structure: str, register: Register) -> None:
    if structure == "filter":
        pytest.importorskip("torch_pruning", reason="the extra shrink is not installed")

    @register(SCORES, "in_place", source="this test")
    def in_place(weights: Weights) -> Tensor:
        return weights.value.abs_()

    model = lenet()
    masks_of(model, "layer_in_place", 0.5, batches=batches(), structure=structure)
    assert all(torch.equal(value, lenet().state_dict()[name]) for name, value in model.state_dict().items())


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "global_mga"}, "Did you mean global_mag"),
        ({"sparsity": 1.5}, r"Sparsity 1\.5 .* from 0 to 1"),
        ({"sparsity": 0.5, "count": 3}, "exactly one"),
        ({"sparsity": "a"}, "Sparsity 'a' is not a fraction"),
        ({"sparsity": True}, "Sparsity True is not a fraction"),
        ({"sparsity": {"linear": "a"}}, "Sparsity 'a' is not a fraction"),
        ({"floor": "a"}, "Floor 'a' is not a fraction"),
        ({"count": -3}, "whole number"),
        ({"count": 2.5}, "Count 2.5 is not a number of weights"),
        ({"count": "3"}, "Count '3' is not a number of weights"),
        ({"count": float("inf")}, "Count inf is not a number of weights"),
        ({"method": "layer_grad"}, "layer_grad needs the gradient"),
        ({"method": "layer_grad", "batches": []}, "at least one batch"),
        ({"exclude": ["fc"]}, "matches no parameter"),
        ({"masks": Masks({"conv": torch.ones(2, dtype=torch.bool)})}, "earlier masks have conv"),
        ({"masks": Masks({"0.weight": torch.ones(2, dtype=torch.bool)})}, r"earlier mask of 0\.weight"),
    ],
)
def test_impossible_pruning_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PruningError, match=message):
        pruning.prune(lenet(), **options)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused_by_name(value: float) -> None:
    model = lenet()
    model[3].weight.data[3, 3] = value
    with pytest.raises(PruningError, match=r"scores of 3\.weight are not all finite"):
        pruning.prune(model, "global_mag", 0.5)


def test_finite_scores_whose_sum_overflows_are_accepted() -> None:
    model = by_hand([3e38, 2e38, 3e38])
    assert kept(masks_of(model, "global_mag", count=1)) == [[True, False, True]]


def test_a_floor_above_the_density_of_n_of_m_is_refused() -> None:
    net = nn.Linear(8, 4)
    with pytest.raises(PruningError, match=r"2:4 keeps 0\.5 .*floor is 0\.6"):
        masks_of(net, "layer_mag", structure="2:4", floor=0.6)
    assert masks_of(net, "layer_mag", structure="2:4", floor=0.5).sparsity == 0.5
    assert masks_of(nn.Linear(6, 4), "layer_mag", structure="1:3", floor=1 / 3).removed == 16
