"""Where scores are compared and how many weights go: pure arithmetic, exact."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from pruning.allocation import Amount, Group, LayerSize, per_layer, whole_network
from pruning.errors import PruningError
from pruning.registry import ALLOCATIONS

LAYERS = [LayerSize("a", 10), LayerSize("b", 5), LayerSize("c", 1)]


def test_global_is_one_group_that_loses_the_rounded_fraction() -> None:
    assert whole_network(LAYERS, Amount(sparsity=0.9)) == [Group(("a", "b", "c"), 14)]  # 14.4


def test_layerwise_rounds_in_every_layer() -> None:
    assert per_layer(LAYERS, Amount(sparsity=0.3)) == [
        Group(("a",), 3),
        Group(("b",), 2),
        Group(("c",), 0),
    ]  # 3, 1.5, 0.3


def test_a_count_is_for_the_network_or_for_each_layer_and_empties_what_is_smaller() -> None:
    assert whole_network(LAYERS, Amount(count=7)) == [Group(("a", "b", "c"), 7)]
    assert whole_network(LAYERS, Amount(count=70)) == [Group(("a", "b", "c"), 16)]
    assert [group.remove for group in per_layer(LAYERS, Amount(count=7))] == [7, 5, 1]


def test_more_weights_than_32_bits_can_count() -> None:
    assert whole_network([LayerSize("a", 3 << 33)], Amount(count=(3 << 33) - 1))[0].remove == (3 << 33) - 1
    assert whole_network([LayerSize("a", 1 << 40)], Amount(sparsity=0.75))[0].remove == 3 << 38


@pytest.mark.parametrize("sparsity", [-0.1, 1.5, math.nan, math.inf])
def test_a_sparsity_is_a_fraction(sparsity: float) -> None:
    with pytest.raises(PruningError, match="from 0 to 1"):
        Amount(sparsity=sparsity)


@pytest.mark.parametrize("count", [-1, 2.5])
def test_a_count_is_a_whole_number(count: float) -> None:
    with pytest.raises(PruningError, match="whole number"):
        Amount(count=count)  # type: ignore[arg-type]


def test_an_amount_is_one_of_the_two() -> None:
    for given in ({}, {"sparsity": 0.5, "count": 3}):
        with pytest.raises(PruningError, match="exactly one"):
            Amount(**given)


@pytest.mark.parametrize("name", ALLOCATIONS.names())
def test_every_allocation_covers_every_layer_once_and_never_asks_for_too_much(name: str) -> None:
    sizes = {layer.name: layer.size for layer in LAYERS}
    for amount in (
        Amount(sparsity=0.0),
        Amount(sparsity=0.37),
        Amount(sparsity=1.0),
        Amount(count=4),
        Amount(count=99),
    ):
        groups = ALLOCATIONS.get(name)(LAYERS, amount)
        assert [layer for group in groups for layer in group.names] == ["a", "b", "c"]
        assert all(0 <= group.remove <= sum(sizes[layer] for layer in group.names) for group in groups)


def test_needs_no_torch() -> None:
    subprocess.run(
        [sys.executable, "-c", "import sys, pruning.allocation; assert 'torch' not in sys.modules"],
        check=True,
    )
