"""Means, sample standard deviations and Student's t."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.utils.seed_statistics import (
    Interval,
    Summary,
    confidence_interval,
    sample_std,
    summarize,
    t_quantile,
)

# Two-sided critical values of Student's t as printed in statistical tables.
TABLE = {
    0.90: {1: 6.314, 2: 2.920, 3: 2.353, 4: 2.132, 5: 2.015, 10: 1.812, 30: 1.697, 120: 1.658},
    0.95: {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 10: 2.228, 30: 2.042, 120: 1.980},
    0.99: {1: 63.657, 2: 9.925, 3: 5.841, 4: 4.604, 5: 4.032, 10: 3.169, 30: 2.750, 120: 2.617},
}
FLOATS = st.floats(-1e6, 1e6)


@pytest.mark.parametrize(
    ("confidence", "degrees", "t"), [(c, d, t) for c, row in TABLE.items() for d, t in row.items()]
)
def test_t_quantiles_equal_printed_tables(confidence: float, degrees: int, t: float) -> None:
    assert t_quantile(confidence, degrees) == pytest.approx(t, abs=5.1e-4)


def test_one_and_two_degrees_of_freedom_equal_their_closed_forms() -> None:
    for confidence in (0.5, 0.9, 0.999):
        assert t_quantile(confidence, 1) == pytest.approx(np.tan(np.pi * confidence / 2), rel=1e-9)
        assert t_quantile(confidence, 2) == pytest.approx(
            confidence * np.sqrt(2 / (1 - confidence**2)), rel=1e-9
        )


def test_many_degrees_of_freedom_approach_the_normal_distribution() -> None:
    assert t_quantile(0.95, 100_000) == pytest.approx(1.959964, abs=1e-4)


@pytest.mark.parametrize(("confidence", "degrees"), [(0.0, 3), (1.0, 3), (0.95, 0), (-1.0, 3), (0.95, -2)])
def test_arguments_out_of_range_are_refused(confidence: float, degrees: int) -> None:
    with pytest.raises(ValueError, match=f"{confidence} and {degrees}"):
        t_quantile(confidence, degrees)


def test_a_summary_has_mean_sample_deviation_and_number() -> None:
    summary = summarize([1.0, 2.0, 6.0])
    assert summary == Summary(3.0, summary.std, 3)
    assert summary.std == pytest.approx(7**0.5)


def test_one_value_has_no_deviation_and_no_interval() -> None:
    assert summarize([91.5]) == Summary(91.5, None, 1)
    assert confidence_interval([91.5]) is None


def test_a_summary_is_written_with_digits_and_scale_and_a_single_value_without_deviation() -> None:
    assert summarize([0.5, 0.7]).format(1, scale=100) == "60.0 ± 14.1"
    assert summarize([91.5]).format() == "91.50"


def test_no_values_are_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        summarize([])


def test_the_interval_of_three_values_equals_the_hand_calculation() -> None:
    """1, 2, 3: mean 2, s = 1, so 2 +- 4.303 / sqrt(3)."""
    interval = confidence_interval([1.0, 2.0, 3.0])
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-3)


def test_an_interval_excludes_zero_only_if_both_ends_have_one_sign() -> None:
    assert Interval(0.1, 2).excludes_zero()
    assert Interval(-2, -0.1).excludes_zero()
    assert not Interval(-0.1, 2).excludes_zero()
    assert not Interval(0.0, 0.0).excludes_zero()


@given(st.lists(FLOATS, min_size=2, max_size=20))
def test_summaries_agree_with_numpy(values: list[float]) -> None:
    summary = summarize(values)
    assert summary.mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-6)
    assert sample_std(values) == pytest.approx(np.std(values, ddof=1), rel=1e-9, abs=1e-6)


def test_95_percent_of_the_intervals_contain_the_true_mean() -> None:
    draws = np.random.default_rng(0).normal(3.0, 2.0, size=(4000, 3))
    intervals = [confidence_interval(list(map(float, row))) for row in draws]
    containing = sum(interval is not None and interval.low <= 3.0 <= interval.high for interval in intervals)
    assert containing / 4000 == pytest.approx(0.95, abs=0.012)
