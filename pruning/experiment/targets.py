"""The target of every pruning step on the way to a sparsity, a compression ratio, a count, or the end of a search.

Imports no torch, so that a sweep can plan its runs without it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pruning.axes.allocation import LayerSize, SparsityTarget
from pruning.errors import PruningError
from pruning.registry import ALLOCATIONS, SCHEDULES

DIGITS = 10  # significant digits of intermediate targets; more would be rounding noise
DEFAULT_PRUNING_STEPS = 20  # pruning steps during fine-tuning, without --prune-every
DEFAULT_PRUNING_FRACTION = 2 / 3  # of the fine-tuning; after it no pruning step, to recover accuracy


@dataclass(frozen=True)
class PruningStep:
    """One pruning step.

    Attributes:
        target: Sparsity of the prunable weights after the step, relative to the dense network.
        amount: The same target as the allocation takes it: a sparsity, a count or fractions by layer.
        batch: Batches of the round's fine-tuning before the step; 0 is before the first.
    """

    target: float
    amount: SparsityTarget
    batch: int = 0


def amount_series(kind: str, amount: float, schedule: str, rounds: int) -> list[float]:
    """Return a sparsity or compression ratio (`kind`) after every round, in its own units.

    The schedule is applied to everything that the amount is about: the prunable weights, or for a compression ratio
    all parameters, so that a ratio of 8 in three geometric rounds passes 2 and 4. Two series on the same curve have
    the same first values to the bit, even if one continues further.
    """
    if kind == "compression":
        removed = SCHEDULES.get(schedule)(1 - 1 / amount, rounds)
        before_last = [1 / (1 - fraction) if fraction < 1 else math.inf for fraction in removed[:-1]]
    else:
        before_last = SCHEDULES.get(schedule)(amount, rounds)[:-1]
    return [min(float(f"{value:.{DIGITS}g}"), amount) for value in before_last] + [amount]


def steps_to_amount(
    target: SparsityTarget, allocation: str, schedule: str, rounds: int, sizes: Sequence[LayerSize]
) -> list[PruningStep]:
    """Return the pruning step of every round to a sparsity, a count or fractions by layer.

    A count, or fractions by layer, grow in proportion to the sparsity that they amount to, and end as exactly
    themselves.
    """
    total = sum(size.size for size in sizes)
    budgets = ALLOCATIONS.get(allocation)(sizes, target)
    final = target.sparsity
    if final is None:
        final = sum(budget.remove for budget in budgets) / total
    sparsities = amount_series("sparsity", final, schedule, rounds)
    if target.sparsity is not None:
        return [PruningStep(sparsity, SparsityTarget(sparsity=sparsity)) for sparsity in sparsities]
    parts = [sparsity / final if final else 1.0 for sparsity in sparsities]
    return [
        PruningStep(sparsity, _part_of(target, part))
        for sparsity, part in zip(sparsities, parts, strict=True)
    ]


def steps_to_compression(
    compression: float, parameters: int, prunable: int, schedule: str, rounds: int
) -> list[PruningStep]:
    """Return the pruning step of every round to a compression ratio.

    Raises:
        PruningError: Pruning every prunable weight would not reach it.
    """
    sparsity_for_compression(compression, parameters, prunable)
    ratios = amount_series("compression", compression, schedule, rounds)
    sparsities = [sparsity_for_compression(ratio, parameters, prunable) for ratio in ratios]
    return [PruningStep(sparsity, SparsityTarget(sparsity=sparsity)) for sparsity in sparsities]


def finetuning_batches(
    epochs: int, until: float | None, every: int | None, batches_per_epoch: int
) -> list[int]:
    """Return the numbers of fine-tuning batches after which a pruning step is done.

    Args:
        until: Epoch of the last pruning step; None for two thirds of the fine-tuning.
        every: Batches between two pruning steps; None for about 20 steps.

    Raises:
        PruningError: `every` is larger than the number of batches until the last pruning step.
    """
    last = max(1, round((DEFAULT_PRUNING_FRACTION * epochs if until is None else until) * batches_per_epoch))
    interval = max(1, last // DEFAULT_PRUNING_STEPS) if every is None else every
    if interval > last:
        raise PruningError(
            f"--prune-every {every} is never reached: pruning ends after {last:,} batches of fine-tuning. "
            "Choose a smaller --prune-every or a later --prune-until.",
            options=("prune_every", "prune_until", "finetune_epochs"),
        )
    return list(range(interval, last + 1, interval))


def search_steps(
    allocation: str, schedule: str, rounds: int, sizes: Sequence[LayerSize]
) -> list[PruningStep]:
    """Return the pruning step of every round of a search in which every round is accepted.

    Raises:
        PruningError: The allocation cannot reach the sparsity of the last one.
    """
    steps: list[PruningStep] = []
    for _ in range(rounds):
        steps.append(next_step(schedule, [(step.target, True) for step in steps]))
    try:
        ALLOCATIONS.get(allocation)(sizes, steps[-1].amount)
    except PruningError as error:
        raise PruningError(
            f"--rounds {rounds} may reach sparsity {steps[-1].target:g}, which is impossible: {error} "
            "Choose fewer rounds.",
            options=("rounds",),
        ) from None
    return steps


def next_step(schedule: str, tried: Sequence[tuple[float, bool]]) -> PruningStep:
    """Return the next pruning step of a search, from the target of every earlier round and if it was accepted."""
    sparsity = SCHEDULES.get(schedule)(tried)
    return PruningStep(sparsity, SparsityTarget(sparsity=sparsity))


def _part_of(amount: SparsityTarget, part: float) -> SparsityTarget:
    """Return this part of a count, or of each of the fractions by layer."""
    if amount.by_layer is not None:
        return SparsityTarget(
            by_layer={pattern: part * sparsity for pattern, sparsity in amount.by_layer.items()}
        )
    assert amount.count is not None
    return SparsityTarget(count=round(part * amount.count))


def sparsity_for_compression(compression: float, parameters: int, prunable: int) -> float:
    """Return the sparsity of the prunable weights at which all parameters / non-zero parameters is `compression`.

    Raises:
        PruningError: The network without any prunable weight is still too large.
    """
    remove = parameters - parameters / compression
    if remove > prunable:
        most = parameters / (parameters - prunable) if parameters > prunable else float("inf")
        raise PruningError(
            f"--compression {compression:g} is impossible: only {prunable:,} of {parameters:,} parameters are "
            f"prunable, which allows at most {most:.4g}. --prune-classifier and --include make more prunable.",
            options=("compression",),
        )
    return remove / prunable
