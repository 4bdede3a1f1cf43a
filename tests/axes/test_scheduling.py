"""Schedules: cumulative sparsities, round by round, that end exactly at the target."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.axes.scheduling import cubic, geometric, gradual, linear, one_shot, until
from pruning.registry import SCHEDULES

PLANNED = [name for name, entry in SCHEDULES.entries().items() if not entry.spec.searches]


@pytest.mark.parametrize("name", PLANNED)
@given(target=st.floats(0, 1), rounds=st.integers(1, 30))
def test_every_schedule_rises_to_exactly_the_target(name: str, target: float, rounds: int) -> None:
    rounds = SCHEDULES.entry(name).spec.rounds or rounds
    sparsities = SCHEDULES.get(name)(target, rounds)
    assert len(sparsities) == rounds
    assert sparsities[-1] == target
    assert sparsities == sorted(sparsities)
    assert all(0 <= sparsity <= 1 for sparsity in sparsities)


def test_geometric_keeps_the_same_fraction_every_round() -> None:
    assert geometric(0.875, 3) == [0.5, 0.75, 0.875]


def test_linear_removes_the_same_number_every_round() -> None:
    assert linear(0.75, 3) == [0.25, 0.5, 0.75]


def test_cubic_by_hand() -> None:
    assert cubic(0.8, 4) == pytest.approx([0.8 * (1 - 27 / 64), 0.8 * (1 - 8 / 64), 0.8 * (1 - 1 / 64), 0.8])


def test_gradual_equals_cubic() -> None:
    assert gradual(0.8, 5) == cubic(0.8, 5)


def test_one_shot_prunes_to_the_target_in_one_round() -> None:
    assert one_shot(0.9, 1) == [0.9]


def test_until_halves_the_remaining_weights_until_a_rejected_round_and_then_bisects() -> None:
    assert until([]) == 0.5
    assert until([(0.5, True)]) == 0.75
    assert until([(0.5, True), (0.75, True)]) == 0.875
    tried = [(0.5, True), (0.75, True), (0.9375, False)]
    assert until(tried) == 0.875  # keeps sqrt(1/4 x 1/16) = 1/8
    assert until([*tried, (0.875, False)]) == pytest.approx(1 - 0.03125**0.5)
    assert until([*tried, (0.875, True)]) == pytest.approx(1 - 0.0078125**0.5)
    assert until([(0.5, False)]) == pytest.approx(1 - 0.5**0.5)


@given(st.lists(st.booleans(), max_size=40))
def test_until_stays_between_accepted_and_rejected_sparsities(outcomes: list[bool]) -> None:
    tried: list[tuple[float, bool]] = []
    for holds in outcomes:
        sparsity = until(tried)
        assert max((s for s, accepted in tried if accepted), default=0) <= sparsity
        assert sparsity <= min((s for s, accepted in tried if not accepted), default=1)
        tried.append((sparsity, holds))
