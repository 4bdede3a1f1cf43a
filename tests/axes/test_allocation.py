"""Where scores are compared and how many weights go: pure arithmetic, exact."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.axes.allocation import (
    LayerBudget,
    LayerSize,
    SparsityTarget,
    erdos_renyi_kernel,
    per_layer,
    read_by_layer,
    uniform_except_first,
    whole_network,
)
from pruning.errors import PruningError
from pruning.registry import ALLOCATIONS

LAYERS = [LayerSize("a", 10), LayerSize("b", 5), LayerSize("c", 1)]


def test_global_is_one_budget_of_the_rounded_fraction() -> None:
    assert whole_network(LAYERS, SparsityTarget(sparsity=0.9)) == [LayerBudget(("a", "b", "c"), 14)]  # 14.4


def test_layerwise_rounds_in_every_layer() -> None:
    assert per_layer(LAYERS, SparsityTarget(sparsity=0.3)) == [
        LayerBudget(("a",), 3),
        LayerBudget(("b",), 2),
        LayerBudget(("c",), 0),
    ]  # 3, 1.5, 0.3


def test_a_count_applies_to_the_network_or_to_each_layer_and_is_at_most_its_size() -> None:
    assert whole_network(LAYERS, SparsityTarget(count=7)) == [LayerBudget(("a", "b", "c"), 7)]
    assert whole_network(LAYERS, SparsityTarget(count=70)) == [LayerBudget(("a", "b", "c"), 16)]
    assert [budget.remove for budget in per_layer(LAYERS, SparsityTarget(count=7))] == [7, 5, 1]


def test_budgets_exceed_32_bits() -> None:
    assert (
        whole_network([LayerSize("a", 3 << 33)], SparsityTarget(count=(3 << 33) - 1))[0].remove
        == (3 << 33) - 1
    )
    assert whole_network([LayerSize("a", 1 << 40)], SparsityTarget(sparsity=0.75))[0].remove == 3 << 38


@pytest.mark.parametrize("sparsity", [-0.1, 1.5, math.nan, math.inf])
def test_a_sparsity_that_is_not_a_fraction_is_refused(sparsity: float) -> None:
    with pytest.raises(PruningError, match="from 0 to 1"):
        SparsityTarget(sparsity=sparsity)


@pytest.mark.parametrize("count", [-1, 2.5])
def test_a_count_that_is_not_a_whole_number_is_refused(count: float) -> None:
    with pytest.raises(PruningError, match=r"Count .* whole number"):
        SparsityTarget(count=count)  # type: ignore[arg-type]


def test_a_target_without_or_with_both_sparsity_and_count_is_refused() -> None:
    for both in ({}, {"sparsity": 0.5, "count": 3}):
        with pytest.raises(PruningError, match="exactly one"):
            SparsityTarget(**both)


@pytest.mark.parametrize("name", ALLOCATIONS.names())
def test_every_allocation_covers_every_layer_once_within_its_size(name: str) -> None:
    sizes = {layer.name: layer.size for layer in LAYERS}
    spared = name == "uniform_plus"
    most = [] if spared else [SparsityTarget(sparsity=1.0), SparsityTarget(count=99)]
    for target in (
        SparsityTarget(sparsity=0.0),
        SparsityTarget(sparsity=0.37),
        SparsityTarget(count=4),
        *most,
    ):
        budgets = ALLOCATIONS.get(name)(LAYERS, target)
        assert [layer for budget in budgets for layer in budget.layers] == ["a", "b", "c"]
        assert all(0 <= budget.remove <= sum(sizes[layer] for layer in budget.layers) for budget in budgets)


NET = [
    LayerSize("conv1.weight", 54, (6, 1, 3, 3), "conv"),
    LayerSize("conv2.weight", 864, (16, 6, 3, 3), "conv"),
    LayerSize("fc1.weight", 48_000, (120, 400), "linear"),
    LayerSize("fc2.weight", 10_080, (84, 120), "linear"),
]


def test_fractions_by_kind_of_layer_as_in_the_teaching_program() -> None:
    target = SparsityTarget(by_layer=read_by_layer("conv=0.2 linear=0.4"))
    assert [budget.remove for budget in per_layer(NET, target)] == [11, 173, 19_200, 4_032]
    assert whole_network(NET, target) == [
        LayerBudget(("conv1.weight", "conv2.weight"), 184),  # 0.2 x 918 = 183.6
        LayerBudget(("fc1.weight", "fc2.weight"), 23_232),
    ]


def test_the_last_matching_pattern_applies_and_names_match_without_weight() -> None:
    target = SparsityTarget(by_layer={"*": 0.0, "fc*": 0.5, "fc2": 1.0})
    assert {budget.layers[0]: budget.remove for budget in per_layer(NET, target)} == {
        "conv1.weight": 0,
        "conv2.weight": 0,
        "fc1.weight": 24_000,
        "fc2.weight": 10_080,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("conv", "'conv' .*PATTERN=FRACTION"),
        ("conv=lots", "'conv=lots'"),
        ("=0.5", "'=0.5'"),
        ("conv=1.2", "Sparsity 1.2 is not a fraction"),
        ("conv=nan", "Sparsity nan is not a fraction"),
    ],
)
def test_malformed_fractions_by_layer_are_refused(text: str, message: str) -> None:
    with pytest.raises(PruningError, match=message):
        read_by_layer(text)


def test_a_pattern_without_layer_and_a_layer_without_pattern_are_refused() -> None:
    with pytest.raises(PruningError, match=r"Unknown layer or kind of layer 'lineer'\. Did you mean linear"):
        per_layer(NET, SparsityTarget(by_layer={"*": 0.1, "lineer": 0.5}))
    with pytest.raises(PruningError, match=r"conv1\.weight \(conv\)"):
        per_layer(NET, SparsityTarget(by_layer={"linear": 0.5}))
    for divides in (erdos_renyi_kernel, uniform_except_first):
        with pytest.raises(PruningError, match="global or layer"):
            divides(NET, SparsityTarget(by_layer={"*": 0.5}))


def test_uniform_plus_keeps_the_first_layer_dense_and_the_others_lose_its_share() -> None:
    assert uniform_except_first(
        LAYERS, SparsityTarget(sparsity=0.25)
    ) == [  # 4 of 16 weights: 4 x 5/6 and 4 x 1/6
        LayerBudget(("a",), 0),
        LayerBudget(("b",), 3),
        LayerBudget(("c",), 1),
    ]
    with pytest.raises(PruningError, match=r"uniform_plus .* a, .*6 of 16 .*0\.375.*8"):
        uniform_except_first(LAYERS, SparsityTarget(sparsity=0.5))


def test_erdos_renyi_kernel_by_hand() -> None:
    """Dimensions add up to 10, 20 and 30; of 1300 weights 120 stay: e = 2, and so 20, 40 and 60 of them."""
    layers = [LayerSize("a", 100, (5, 5)), LayerSize("b", 300, (10, 4, 3, 3)), LayerSize("c", 900, (15, 15))]
    budgets = erdos_renyi_kernel(layers, SparsityTarget(count=1180))
    assert [budget.remove for budget in budgets] == [80, 260, 840]


def test_erdos_renyi_kernel_keeps_small_layers_dense() -> None:
    """16 weights in `a` for 8 dimensions; 210 stay of 416: e = 210 / 48 would give `a` 35, so that it stays dense."""
    layers = [LayerSize("a", 16, (4, 4)), LayerSize("b", 400, (20, 20))]
    assert [budget.remove for budget in erdos_renyi_kernel(layers, SparsityTarget(count=206))] == [0, 206]


@given(
    shapes=st.lists(st.lists(st.integers(1, 9), min_size=2, max_size=4), min_size=1, max_size=5),
    sparsity=st.floats(0, 1),
)
def test_erdos_renyi_kernel_is_exact_and_its_densities_are_proportional(
    shapes: list[list[int]], sparsity: float
) -> None:
    layers = [LayerSize(str(i), math.prod(shape), tuple(shape)) for i, shape in enumerate(shapes)]
    total = sum(layer.size for layer in layers)
    budgets = erdos_renyi_kernel(layers, SparsityTarget(sparsity=sparsity))
    assert sum(budget.remove for budget in budgets) == round(sparsity * total)
    kept = {
        budget.layers[0]: layer.size - budget.remove for budget, layer in zip(budgets, layers, strict=True)
    }
    factors = [kept[layer.name] / sum(layer.shape) for layer in layers if kept[layer.name] < layer.size - 1]
    slack = max((1 / sum(layer.shape) for layer in layers), default=0)
    assert not factors or max(factors) - min(factors) <= 2 * slack


def test_needs_no_torch() -> None:
    subprocess.run(
        [sys.executable, "-c", "import sys, pruning.axes.allocation; assert 'torch' not in sys.modules"],
        check=True,
    )
