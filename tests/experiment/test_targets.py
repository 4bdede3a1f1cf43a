"""From what was asked for (sparsity, compression, count) to the amount of every round."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.axes.allocation import LayerSize, SparsityTarget
from pruning.errors import PruningError
from pruning.experiment.targets import (
    PruningStep,
    amount_series,
    finetuning_batches,
    search_steps,
    sparsity_for_compression,
    steps_to_amount,
    steps_to_compression,
)

LAYERS = [LayerSize("a", 100), LayerSize("b", 900)]


def test_a_sparsity_grows_as_scheduled() -> None:
    found = steps_to_amount(SparsityTarget(sparsity=0.875), "global", "geometric", 3, LAYERS)
    assert found == [PruningStep(sparsity, SparsityTarget(sparsity)) for sparsity in (0.5, 0.75, 0.875)]


def test_a_count_grows_in_proportion_and_ends_as_itself() -> None:
    found = steps_to_amount(SparsityTarget(count=875), "global", "geometric", 3, LAYERS)
    assert found == [PruningStep(count / 1000, SparsityTarget(count=count)) for count in (500, 750, 875)]


def test_a_count_for_each_layer_comes_to_the_sparsity_of_both() -> None:
    # 200 from each layer: all 100 of a, 200 of b, 300 of 1000 in all.
    assert steps_to_amount(SparsityTarget(count=200), "layer", "one_shot", 1, LAYERS) == [
        PruningStep(0.3, SparsityTarget(count=200))
    ]


def test_fractions_by_layer_grow_in_proportion_and_end_as_themselves() -> None:
    asked = SparsityTarget(by_layer={"a": 0.5, "b": 0.1})  # 50 + 90 of 1000
    found = steps_to_amount(asked, "layer", "linear", 2, LAYERS)
    assert found == [
        PruningStep(0.07, SparsityTarget(by_layer={"a": 0.25, "b": 0.05})),
        PruningStep(0.14, asked),
    ]


@given(st.integers(0, 1200), st.integers(1, 8), st.sampled_from(["geometric", "linear"]))
def test_the_last_rounds_count_is_the_count_asked_for(count: int, rounds: int, schedule: str) -> None:
    found = steps_to_amount(SparsityTarget(count=count), "global", schedule, rounds, LAYERS)
    counts = [step.amount.count or 0 for step in found]
    assert counts[-1] == count
    assert counts == sorted(counts)


def test_compression_counts_all_parameters_but_removes_prunable_ones() -> None:
    # 1000 parameters to 250: 750 must go, out of 900 prunable ones.
    assert sparsity_for_compression(4, 1000, 900) == 750 / 900


def test_a_compression_grows_as_a_ratio_of_all_parameters() -> None:
    assert amount_series("compression", 64, "geometric", 6) == [2, 4, 8, 16, 32, 64]
    assert amount_series("compression", 27, "geometric", 3) == [3, 9, 27]
    assert amount_series("compression", 4, "linear", 3) == [
        pytest.approx(4 / 3),
        2,
        4,
    ]  # a quarter goes each time
    found = steps_to_compression(8, 1000, 900, "geometric", 3)
    assert found == [PruningStep(removed / 900, SparsityTarget(removed / 900)) for removed in (500, 750, 875)]


@pytest.mark.parametrize("rounds", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("base", [2, 3, 4, 10])
def test_ratios_on_the_way_are_the_ratios_themselves(base: int, rounds: int) -> None:
    assert amount_series("compression", base**rounds, "geometric", rounds) == [
        base**i for i in range(1, rounds + 1)
    ]


def test_everything_of_a_network_that_is_all_prunable_can_go() -> None:
    assert [step.target for step in steps_to_compression(1e300, 10, 10, "geometric", 2)] == [1, 1]


def test_a_compression_that_cannot_be_reached_is_refused_with_the_largest_that_can() -> None:
    with pytest.raises(PruningError, match=r"--compression 11 .*at most 10\."):
        sparsity_for_compression(11, 1000, 900)


def test_a_search_that_an_allocation_does_not_allow_is_refused() -> None:
    # uniform_plus spares the first 100 of 1000: three rounds of halving come to 875, four to 937.
    assert search_steps("uniform_plus", "until", 3, LAYERS)[-1] == PruningStep(0.875, SparsityTarget(0.875))
    with pytest.raises(PruningError, match=r"--rounds 4 .*0\.9375.*uniform_plus"):
        search_steps("uniform_plus", "until", 4, LAYERS)


def test_pruning_steps_during_fine_tuning_have_a_fixed_interval_up_to_an_epoch() -> None:
    assert finetuning_batches(epochs=3, until=2, every=50, batches_per_epoch=85) == [
        50,
        100,
        150,
    ]  # 170 batches
    assert finetuning_batches(epochs=3, until=0.5, every=14, batches_per_epoch=85) == [14, 28, 42]
    # Two thirds of 255 batches are 170: twenty pruning steps would be every 8.5 batches.
    assert finetuning_batches(epochs=3, until=None, every=None, batches_per_epoch=85) == list(
        range(8, 171, 8)
    )
    assert finetuning_batches(epochs=1, until=None, every=None, batches_per_epoch=2) == [1]
    with pytest.raises(
        PruningError, match="--prune-every 86 is never reached: pruning ends after 85 batches"
    ):
        finetuning_batches(epochs=3, until=1, every=86, batches_per_epoch=85)
