"""Timing harness: contenders take turns, and each section reports medians, quartiles and ratios.

Contenders run in turns (A B C, C A B, ...), so that a machine that slows down slows all of them, and no contender
always runs after the one that leaves the caches in the worst state.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Action = Callable[[], Any]
Contender = Callable[[], float]  # does its job once and returns the seconds that it took


@dataclass(frozen=True)
class Timing:
    """Seconds of one contender over all turns.

    Attributes:
        median, lower, upper: Median and quartiles.
        ratio: Median over the turns of this contender's seconds / those of the section's first contender.
        turns: Number of turns.
        extra_bytes: Peak memory above the memory before; None if not measured.
    """

    name: str
    median: float
    lower: float
    upper: float
    ratio: float
    turns: int
    extra_bytes: int | None = None


@dataclass(frozen=True)
class Section:
    """Timings of contenders that do the same job."""

    title: str
    timings: list[Timing]


def timed(action: Action) -> Contender:
    """Return a contender that runs `action`."""

    def contender() -> float:
        start = time.perf_counter()
        action()
        return time.perf_counter() - start

    return contender


def run_in_turns(
    contenders: Mapping[str, Contender], turns: int, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """Return the seconds of every contender in every turn, after a warm-up turn that is not counted.

    Each turn has its own random order, the same in every call.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    order = random.Random(0)
    for turn in range(-1 if warm_up else 0, turns):
        for name in order.sample(list(contenders), len(contenders)):
            seconds = contenders[name]()
            if turn >= 0:
                times[name].append(seconds)
    return times


def summarize(
    title: str, times: Mapping[str, list[float]], extra_bytes: Mapping[str, int | None] | None = None
) -> Section:
    """Summarize the seconds of every contender in every turn (at least two); the first contender is the reference."""
    first = next(iter(times.values()))
    timings = []
    for name, seconds in times.items():
        lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive")
        ratio = statistics.median(own / reference for own, reference in zip(seconds, first, strict=True))
        memory = (extra_bytes or {}).get(name)
        timings.append(Timing(name, median, lower, upper, ratio, len(seconds), memory))
    return Section(title, timings)
