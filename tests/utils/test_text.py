"""Formatting helpers."""

from __future__ import annotations

import pytest

from pruning.utils.text import format_duration, format_range, pluralize


def test_only_a_count_of_one_is_singular() -> None:
    assert [pluralize(count, "epoch") for count in (0, 1, 2)] == ["0 epochs", "1 epoch", "2 epochs"]


def test_an_irregular_plural_is_used_as_given() -> None:
    assert pluralize(2000, "trajectory", "trajectories") == "2,000 trajectories"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.5, "9.5 s"), (42.4, "42 s"), (187, "3 min 07 s"), (7500, "2 h 05 min")],
)
def test_a_duration_is_written_in_its_two_largest_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_a_range_of_equal_numbers_is_one_number() -> None:
    assert (format_range([3, 3]), format_range([5, 2, 3])) == ("3", "2-5")
