"""Small formatting helpers for messages, tables and reports."""

from __future__ import annotations

from collections.abc import Iterable


def pluralize(count: int, singular: str, plural: str | None = None) -> str:
    """Return `1 epoch` or `2,000 epochs`; `plural` is for irregular nouns."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def format_shape(shape: Iterable[int]) -> str:
    """Return `3x32x32`; `scalar` for a shape without dimensions."""
    return "x".join(map(str, shape)) or "scalar"


def format_duration(seconds: float) -> str:
    """Return a duration in its two largest units: `9.5 s`, `42 s`, `3 min 07 s`, `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60:,} h {minutes % 60:02} min"


def format_range(numbers: Iterable[int]) -> str:
    """Return `3`, or `2-5` from the lowest to the highest number."""
    ordered = sorted(numbers)
    low, high = ordered[0], ordered[-1]
    return str(low) if low == high else f"{low}-{high}"
