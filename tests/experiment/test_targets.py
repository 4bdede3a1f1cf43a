"""The target of every pruning step, from a sparsity, a compression ratio, a count or fractions by layer."""

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


def test_a_sparsity_follows_the_schedule() -> None:
    found = steps_to_amount(SparsityTarget(sparsity=0.875), "global", "geometric", 3, LAYERS)
    assert found == [PruningStep(sparsity, SparsityTarget(sparsity)) for sparsity in (0.5, 0.75, 0.875)]


def test_a_count_grows_with_the_sparsity_and_ends_exactly() -> None:
    found = steps_to_amount(SparsityTarget(count=875), "global", "geometric", 3, LAYERS)
    assert found == [PruningStep(count / 1000, SparsityTarget(count=count)) for count in (500, 750, 875)]


def test_the_target_of_a_count_per_layer_is_the_sparsity_over_all_layers() -> None:
    # 200 from each layer: all 100 of a, 200 of b, 300 of 1000 in all.
    assert steps_to_amount(SparsityTarget(count=200), "layer", "one_shot", 1, LAYERS) == [
        PruningStep(0.3, SparsityTarget(count=200))
    ]


def test_fractions_by_layer_grow_with_the_sparsity_and_end_exactly() -> None:
    asked = SparsityTarget(by_layer={"a": 0.5, "b": 0.1})  # 50 + 90 of 1000
    found = steps_to_amount(asked, "layer", "linear", 2, LAYERS)
    assert found == [
        PruningStep(0.07, SparsityTarget(by_layer={"a": 0.25, "b": 0.05})),
        PruningStep(0.14, asked),
    ]


@given(st.integers(0, 1200), st.integers(1, 8), st.sampled_from(["geometric", "linear"]))
def test_the_count_of_the_last_round_is_the_requested_one_and_no_count_falls(
    count: int, rounds: int, schedule: str
) -> None:
    found = steps_to_amount(SparsityTarget(count=count), "global", schedule, rounds, LAYERS)
    counts = [step.amount.count or 0 for step in found]
    assert counts[-1] == count
    assert counts == sorted(counts)


def test_a_compression_ratio_over_all_parameters_is_reached_with_prunable_ones() -> None:
    # 1000 parameters to 250: 750 are removed, out of 900 prunable ones.
    assert sparsity_for_compression(4, 1000, 900) == 750 / 900


def test_a_compression_ratio_follows_the_schedule_over_all_parameters() -> None:
    assert amount_series("compression", 64, "geometric", 6) == [2, 4, 8, 16, 32, 64]
    assert amount_series("compression", 27, "geometric", 3) == [3, 9, 27]
    assert amount_series("compression", 4, "linear", 3) == [
        pytest.approx(4 / 3),
        2,
        4,
    ]  # a quarter of the parameters per round
    found = steps_to_compression(8, 1000, 900, "geometric", 3)
    assert found == [PruningStep(removed / 900, SparsityTarget(removed / 900)) for removed in (500, 750, 875)]


@pytest.mark.parametrize("rounds", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("base", [2, 3, 4, 10])
def test_geometric_rounds_to_a_power_pass_every_power_exactly(base: int, rounds: int) -> None:
    assert amount_series("compression", base**rounds, "geometric", rounds) == [
        base**i for i in range(1, rounds + 1)
    ]


def test_a_network_without_unprunable_parameters_can_be_pruned_completely() -> None:
    assert [step.target for step in steps_to_compression(1e300, 10, 10, "geometric", 2)] == [1, 1]


def test_an_impossible_compression_ratio_is_refused_with_the_largest_possible_one() -> None:
    with pytest.raises(PruningError, match=r"--compression 11 .* 10\."):
        sparsity_for_compression(11, 1000, 900)


def test_a_search_beyond_the_largest_sparsity_of_an_allocation_is_refused() -> None:
    # uniform_plus keeps the first 100 of 1000 weights: three halvings remove 875, four 937.
    assert search_steps("uniform_plus", "until", 3, LAYERS)[-1] == PruningStep(0.875, SparsityTarget(0.875))
    with pytest.raises(PruningError, match=r"--rounds 4 .*0\.9375.*uniform_plus"):
        search_steps("uniform_plus", "until", 4, LAYERS)


def test_pruning_steps_of_a_finetuning_have_a_regular_interval_up_to_an_epoch() -> None:
    assert finetuning_batches(epochs=3, until=2, every=50, batches_per_epoch=85) == [
        50,
        100,
        150,
    ]  # 170 batches
    assert finetuning_batches(epochs=3, until=0.5, every=14, batches_per_epoch=85) == [14, 28, 42]
    # Two thirds of 255 batches are 170: twenty steps would need an interval of 8.5 batches.
    assert finetuning_batches(epochs=3, until=None, every=None, batches_per_epoch=85) == list(
        range(8, 171, 8)
    )
    assert finetuning_batches(epochs=1, until=None, every=None, batches_per_epoch=2) == [1]
    with pytest.raises(PruningError, match=r"--prune-every 86 .* 85 batches"):
        finetuning_batches(epochs=3, until=1, every=86, batches_per_epoch=85)
