"""Axis 3, scheduling: how the sparsity grows over the rounds. No torch in this file.

A schedule is a function ``(target, rounds) -> [sparsity after round 1, ..., sparsity after the last round]``. The
sparsities are cumulative fractions of the prunable weights, never decrease, and the last one is exactly `target`.

With ``during_finetuning=True`` they are the sparsities after the pruning steps inside the fine-tuning of one round, and
`rounds` is the number of these steps.

A schedule with ``searches=True`` has no target. It is a function ``(tried) -> sparsity of the next round``, where
`tried` holds the sparsity of every round so far and whether the round was accepted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pruning.registry import SCHEDULES


@SCHEDULES.register("geometric")
def geometric(target: float, rounds: int) -> list[float]:
    """Every round keeps the same fraction of the remaining weights (Frankle and Carbin 2019, arXiv 1803.03635)."""
    return [1 - (1 - target) ** (r / rounds) for r in range(1, rounds)] + [target]


@SCHEDULES.register("linear")
def linear(target: float, rounds: int) -> list[float]:
    """Every round removes the same number of weights."""
    return [target * r / rounds for r in range(1, rounds)] + [target]


@SCHEDULES.register("cubic")
def cubic(target: float, rounds: int) -> list[float]:
    """Fast at first, while many weights are redundant, and then slower (Zhu and Gupta 2017, arXiv 1710.01878)."""
    return [target * (1 - (1 - r / rounds) ** 3) for r in range(1, rounds)] + [target]


@SCHEDULES.register("gradual", rounds=1, during_finetuning=True)
def gradual(target: float, rounds: int) -> list[float]:
    """Cubic, in steps of --prune-every batches of one fine-tuning until --prune-until (Zhu and Gupta 2017, eq. 1)."""
    return cubic(target, rounds)


@SCHEDULES.register("one_shot", rounds=1)
def one_shot(target: float, rounds: int) -> list[float]:
    """Prune once, to the target, in a single round."""
    return [target]


@SCHEDULES.register("until", searches=True, default_rounds=8)
def until(tried: Sequence[tuple[float, bool]]) -> float:
    """As sparse as --max-drop allows: halve the remaining weights until a round is rejected, then bisect.

    A round is accepted if validation top-1 stays within --max-drop of the dense network; a rejected round is rolled
    back. The bisection keeps the geometric mean of the fractions that the sparsest accepted round and the least sparse
    rejected round kept.
    """
    accepted = min((1 - sparsity for sparsity, ok in tried if ok), default=1.0)
    rejected = max((1 - sparsity for sparsity, ok in tried if not ok), default=None)
    return 1 - (accepted / 2 if rejected is None else math.sqrt(accepted * rejected))
