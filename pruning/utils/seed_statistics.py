"""Mean and spread over seeds, and confidence intervals by Student's t.

Student's t is computed here because scipy, which has it, is not a core dependency. For whole degrees of freedom its
distribution is a finite series, so the result is exact to the precision of a float.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

BISECTIONS = 100  # halvings of an angle, far more than the 53 bits of a float


@dataclass(frozen=True)
class Interval:
    """A confidence interval, in the unit of its values."""

    low: float
    high: float

    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Summary:
    """Mean, sample standard deviation (None for a single value) and number of values."""

    mean: float
    std: float | None
    n: int

    def format(self, digits: int = 2, scale: float = 1) -> str:
        """Return `mean ± std` with `digits` decimals, both multiplied by `scale`; a single value has no `± std`."""
        mean = f"{scale * self.mean:.{digits}f}"
        return mean if self.std is None else f"{mean} ± {scale * self.std:.{digits}f}"


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean. Raises ValueError for no values."""
    if not values:
        raise ValueError("the mean of no values")
    return math.fsum(values) / len(values)


def sample_std(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation (divided by n - 1); None for fewer than two values."""
    if len(values) < 2:
        return None
    centre = mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def summarize(values: Sequence[float]) -> Summary:
    """Return mean, sample standard deviation and number. Raises ValueError for no values."""
    return Summary(mean(values), sample_std(values), len(values))


def confidence_interval(values: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """Return the confidence interval of the mean by Student's t; None for fewer than two values.

    Args:
        values: independent and normally distributed values.
        confidence: probability that the interval contains the true mean, between 0 and 1.
    """
    spread = sample_std(values)
    if spread is None:
        return None
    margin = t_quantile(confidence, len(values) - 1) * spread / math.sqrt(len(values))
    centre = mean(values)
    return Interval(centre - margin, centre + margin)


def t_quantile(confidence: float, degrees: int) -> float:
    """Return the t for which P(-t < T < t) = `confidence` under Student's distribution.

    Args:
        confidence: between 0 and 1.
        degrees: degrees of freedom, 1 or more.

    Raises:
        ValueError: an argument is out of range.
    """
    if not 0 < confidence < 1 or degrees < 1:
        raise ValueError(f"no t for confidence {confidence} and {degrees} degrees of freedom")
    low, high = 0.0, math.pi / 2
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if _central_probability(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees) * math.tan((low + high) / 2)


def _central_probability(angle: float, degrees: int) -> float:
    """Return P(-t < T < t) at t = sqrt(degrees) tan(angle): Abramowitz and Stegun 1964, 26.7.3 and 26.7.4."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    series = 0.0
    for k in range(2 if odd else 1, degrees, 2):
        series += term
        term *= cosine**2 * k / (k + 1)
    return (angle + sine * series) * 2 / math.pi if odd else sine * series
