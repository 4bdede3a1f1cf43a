"""What was asked for (a sparsity, a compression ratio or a count), as the amount to have removed after each round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pruning.axes.allocation import Amount, LayerSize
from pruning.errors import PruningError
from pruning.registry import ALLOCATIONS, SCHEDULES

DIGITS = 10  # of the amounts on the way; more would be noise of the arithmetic
USUAL_PRUNINGS = 20  # inside a fine-tuning, where nobody says how often
USUAL_PART = 2 / 3  # of a fine-tuning, in which the network is pruned; the rest lets it recover


@dataclass(frozen=True)
class Step:
    """One pruning: the sparsity that the prunable weights shall have reached by then, and the amount that this is.

    Both are cumulative, from the dense network on. `batch` says after how many batches of its round's fine-tuning it is
    done; 0 is before the first.
    """

    target: float
    amount: Amount
    batch: int = 0


def series(kind: str, amount: float, schedule: str, rounds: int) -> list[float]:
    """A sparsity or a compression ratio (`kind` says which) as it grows over the rounds, in its own units.

    A schedule runs over all that the amount is about: the prunable weights, or for a compression ratio all parameters,
    so that a ratio of 8 in three geometric rounds passes 2 and 4. Two series along the same curve, one of which goes
    on farther, have the same beginning to the bit.
    """
    if kind == "compression":
        removed = SCHEDULES.get(schedule)(1 - 1 / amount, rounds)
        on_the_way = [1 / (1 - fraction) if fraction < 1 else math.inf for fraction in removed[:-1]]
    else:
        on_the_way = SCHEDULES.get(schedule)(amount, rounds)[:-1]
    return [min(float(f"{value:.{DIGITS}g}"), amount) for value in on_the_way] + [amount]


def steps(
    asked: Amount, allocation: str, schedule: str, rounds: int, sizes: Sequence[LayerSize]
) -> list[Step]:
    """The pruning of each round on the way to a sparsity, a count or fractions by layer.

    A count, or fractions by layer, grow in the same proportions as the sparsity that they come to, and end as exactly
    themselves.
    """
    total = sum(size.size for size in sizes)
    groups = ALLOCATIONS.get(allocation)(sizes, asked)
    final = asked.sparsity if asked.sparsity is not None else sum(group.remove for group in groups) / total
    sparsities = series("sparsity", final, schedule, rounds)
    if asked.sparsity is not None:
        return [Step(sparsity, Amount(sparsity=sparsity)) for sparsity in sparsities]
    shares = [sparsity / final if final else 1.0 for sparsity in sparsities]
    return [Step(sparsity, _share(asked, share)) for sparsity, share in zip(sparsities, shares, strict=True)]


def steps_to_compression(
    compression: float, parameters: int, prunable: int, schedule: str, rounds: int
) -> list[Step]:
    """The pruning of each round on the way to a compression ratio. PruningError if it cannot be reached."""
    sparsity_for_compression(compression, parameters, prunable)
    ratios = series("compression", compression, schedule, rounds)
    sparsities = [sparsity_for_compression(ratio, parameters, prunable) for ratio in ratios]
    return [Step(sparsity, Amount(sparsity=sparsity)) for sparsity in sparsities]


def moments(epochs: int, until: float | None, every: int | None, in_epoch: int) -> list[int]:
    """After how many batches of a fine-tuning of `epochs` epochs, of `in_epoch` batches each, it is pruned.

    Every `every` batches up to epoch `until`. PruningError if that is never.
    """
    last = max(1, round((USUAL_PART * epochs if until is None else until) * in_epoch))
    interval = max(1, last // USUAL_PRUNINGS) if every is None else every
    if interval > last:
        raise PruningError(
            f"--prune-every {every} is never reached: pruning ends after {last:,} batches of fine-tuning; "
            "give fewer, or a later --prune-until.",
            options=("prune_every", "prune_until", "finetune_epochs"),
        )
    return list(range(interval, last + 1, interval))


def searched_steps(allocation: str, schedule: str, rounds: int, sizes: Sequence[LayerSize]) -> list[Step]:
    """The pruning of each round of a search if all of them hold. PruningError if the allocation does not go as far."""
    found: list[Step] = []
    for _ in range(rounds):
        found.append(next_step(schedule, [(step.target, True) for step in found]))
    try:
        ALLOCATIONS.get(allocation)(sizes, found[-1].amount)
    except PruningError as error:
        raise PruningError(
            f"{rounds} rounds may go as far as sparsity {found[-1].target:g} (fewer --rounds, less far): {error}"
        ) from None
    return found


def next_step(schedule: str, tried: Sequence[tuple[float, bool]]) -> Step:
    """The next pruning of a search, after rounds with these targets, of which some held and some did not."""
    sparsity = SCHEDULES.get(schedule)(tried)
    return Step(sparsity, Amount(sparsity=sparsity))


def _share(amount: Amount, share: float) -> Amount:
    """So much of a count, or of each of the fractions by layer."""
    if amount.by_layer is not None:
        return Amount(by_layer={pattern: share * sparsity for pattern, sparsity in amount.by_layer.items()})
    assert amount.count is not None
    return Amount(count=round(share * amount.count))


def sparsity_for_compression(compression: float, parameters: int, prunable: int) -> float:
    """The sparsity of the prunable weights at which all parameters / remaining ones is `compression`.

    PruningError if even the network without any prunable weight is larger than that.
    """
    remove = parameters - parameters / compression
    if remove > prunable:
        most = parameters / (parameters - prunable) if parameters > prunable else float("inf")
        raise PruningError(
            f"--compression {compression:g} cannot be reached: only {prunable:,} of {parameters:,} parameters are "
            f"prunable, which allows at most {most:.4g} (--prune-classifier and --include bring in more).",
            options=("compression",),
        )
    return remove / prunable
