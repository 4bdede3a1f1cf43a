"""From what was asked for (sparsity, compression, count) to the amount of every round."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.allocation import Amount, LayerSize
from pruning.errors import PruningError
from pruning.targets import amounts, sparsity_for_compression

LAYERS = [LayerSize("a", 100), LayerSize("b", 900)]


def test_a_sparsity_grows_as_scheduled() -> None:
    steps = amounts(Amount(sparsity=0.875), "global", "geometric", 3, LAYERS)
    assert [step.sparsity for _, step in steps] == [0.5, 0.75, 0.875]


def test_a_count_grows_in_proportion_and_ends_as_itself() -> None:
    steps = amounts(Amount(count=875), "global", "geometric", 3, LAYERS)
    assert steps == [(0.5, Amount(count=500)), (0.75, Amount(count=750)), (0.875, Amount(count=875))]


def test_a_count_for_each_layer_comes_to_the_sparsity_of_both() -> None:
    # 200 from each layer: all 100 of a, 200 of b, 300 of 1000 in all.
    assert amounts(Amount(count=200), "layer", "one_shot", 1, LAYERS) == [(0.3, Amount(count=200))]


def test_fractions_by_layer_grow_in_proportion_and_end_as_themselves() -> None:
    asked = Amount(by_layer={"a": 0.5, "b": 0.1})  # 50 + 90 of 1000
    steps = amounts(asked, "layer", "linear", 2, LAYERS)
    assert steps == [(0.07, Amount(by_layer={"a": 0.25, "b": 0.05})), (0.14, asked)]


@given(st.integers(0, 1200), st.integers(1, 8), st.sampled_from(["geometric", "linear"]))
def test_the_last_rounds_count_is_the_count_asked_for(count: int, rounds: int, schedule: str) -> None:
    steps = amounts(Amount(count=count), "global", schedule, rounds, LAYERS)
    assert steps[-1][1].count == count
    counts = [step.count or 0 for _, step in steps]
    assert counts == sorted(counts)


def test_compression_counts_all_parameters_but_removes_prunable_ones() -> None:
    # 1000 parameters to 250: 750 must go, out of 900 prunable ones.
    assert sparsity_for_compression(4, 1000, 900) == 750 / 900


def test_a_compression_that_cannot_be_reached_is_refused_with_the_largest_that_can() -> None:
    with pytest.raises(PruningError, match=r"--compression 11 cannot be reached: .* at most 10 "):
        sparsity_for_compression(11, 1000, 900)
