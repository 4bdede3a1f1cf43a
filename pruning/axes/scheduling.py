"""Axis 3, scheduling: how the sparsity grows over the rounds. No torch in here.

A schedule is a function `(target, rounds) -> [sparsity after round 1, ..., sparsity after the last round]`. Sparsities
are cumulative fractions of the prunable weights, never fall, and the last one is exactly `target`.

With `within=True` these are not the sparsities after each of several rounds, but after each of several prunings inside
the fine-tuning of a single round; `rounds` is then their number.

A schedule registered with `searches=True` has no target, and decides on each round by those before it: a function
`(tried) -> sparsity of the next round`, where `tried` has each round's sparsity and whether the network held.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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


@SCHEDULES.register("gradual", rounds=1, within=True)
def gradual(target: float, rounds: int) -> list[float]:
    """Inside one fine-tuning, every --prune-every batches until --prune-until: cubic (Zhu and Gupta 2017, eq. 1)."""
    return cubic(target, rounds)


@SCHEDULES.register("one_shot", rounds=1)
def one_shot(target: float, rounds: int) -> list[float]:
    """Everything at once, in a single round."""
    return [target]


@SCHEDULES.register("until", searches=True, usual_rounds=8)
def until(tried: Sequence[tuple[float, bool]]) -> float:
    """As far as validation top-1 stays within --max-drop of dense: halve what is left until that fails, then bisect.

    A round that fails is taken back; the next one keeps the geometric mean of what was kept in the sparsest round that
    held and in the least sparse one that failed.
    """
    held = min((1 - sparsity for sparsity, holds in tried if holds), default=1.0)
    failed = max((1 - sparsity for sparsity, holds in tried if not holds), default=None)
    return 1 - (held / 2 if failed is None else math.sqrt(held * failed))
