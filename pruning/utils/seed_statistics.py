"""Means over seeds, their spread, and how far a mean can be trusted.

Student's t is computed exactly for whole degrees of freedom by its finite series, so that no further library is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

BISECTIONS = 100  # halvings of an angle: far beyond the precision of a float


@dataclass(frozen=True)
class Interval:
    """A confidence interval, in the unit of the values it was made from."""

    low: float
    high: float

    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Summary:
    """Mean, sample standard deviation (None for a single value) and number of some values."""

    mean: float
    std: float | None
    n: int


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean. Raises ValueError for no values."""
    if not values:
        raise ValueError("the mean of no values")
    return math.fsum(values) / len(values)


def sample_std(values: Sequence[float]) -> float | None:
    """The sample standard deviation (divided by n - 1); None for fewer than two values."""
    if len(values) < 2:
        return None
    centre = mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def summarise(values: Sequence[float]) -> Summary:
    """Mean, spread and number. Raises ValueError for no values."""
    return Summary(mean(values), sample_std(values), len(values))


def confidence_interval(values: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """The interval that holds the mean these values were drawn around, by Student's t; None for fewer than two values.

    `confidence` lies between 0 and 1. The values are taken as independent and normally distributed.
    """
    spread = sample_std(values)
    if spread is None:
        return None
    margin = t_quantile(confidence, len(values) - 1) * spread / math.sqrt(len(values))
    centre = mean(values)
    return Interval(centre - margin, centre + margin)


def t_quantile(confidence: float, degrees: int) -> float:
    """The t for which a fraction `confidence` of Student's distribution lies between -t and t.

    `degrees` of freedom are whole and at least 1. Raises ValueError for values out of range.
    """
    if not 0 < confidence < 1 or degrees < 1:
        raise ValueError(f"no t for confidence {confidence} and {degrees} degrees of freedom")
    low, high = 0.0, math.pi / 2
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if _within(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees) * math.tan((low + high) / 2)


def _within(angle: float, degrees: int) -> float:
    """The probability of -t to t, for t = sqrt(degrees) tan(angle): Abramowitz and Stegun 1964, 26.7.3 and 26.7.4."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    series = 0.0
    for k in range(2 if odd else 1, degrees, 2):
        series += term
        term *= cosine**2 * k / (k + 1)
    return (angle + sine * series) * 2 / math.pi if odd else sine * series
