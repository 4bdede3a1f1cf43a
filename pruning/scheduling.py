"""Axis 3, scheduling: how the sparsity grows over the rounds. No torch in here.

A schedule is a function `(target, rounds) -> [sparsity after round 1, ..., sparsity after the last round]`. Sparsities
are cumulative fractions of the prunable weights, never fall, and the last one is exactly `target`.
"""

from __future__ import annotations

from pruning.registry import SCHEDULES


@SCHEDULES.register("geometric")
def geometric(target: float, rounds: int) -> list[float]:
    """Every round keeps the same fraction of what is left (Frankle and Carbin 2019, arXiv 1803.03635)."""
    return [1 - (1 - target) ** (r / rounds) for r in range(1, rounds)] + [target]


@SCHEDULES.register("linear")
def linear(target: float, rounds: int) -> list[float]:
    """Every round removes the same number of weights."""
    return [target * r / rounds for r in range(1, rounds)] + [target]


@SCHEDULES.register("cubic")
def cubic(target: float, rounds: int) -> list[float]:
    """Fast at first, while there is much to spare, and slower and slower (Zhu and Gupta 2017, arXiv 1710.01878)."""
    return [target * (1 - (1 - r / rounds) ** 3) for r in range(1, rounds)] + [target]


@SCHEDULES.register("one_shot", rounds=1)
def one_shot(target: float, rounds: int) -> list[float]:
    """Everything at once, in a single round."""
    return [target]
