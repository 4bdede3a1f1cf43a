"""What was asked for (a sparsity, a compression ratio or a count), as the amount to have removed after each round."""

from __future__ import annotations

from collections.abc import Sequence

from pruning.allocation import Amount, LayerSize
from pruning.errors import PruningError
from pruning.registry import ALLOCATIONS, SCHEDULES


def amounts(
    asked: Amount, allocation: str, schedule: str, rounds: int, sizes: Sequence[LayerSize]
) -> list[tuple[float, Amount]]:
    """For each round the sparsity that the prunable weights shall have reached, and the amount to remove by then.

    Amounts are cumulative, from the dense network on. A count, or fractions by layer, grow in the same proportions as
    the sparsity that they come to, and end as exactly themselves.
    """
    total = sum(size.size for size in sizes)
    groups = ALLOCATIONS.get(allocation)(sizes, asked)
    final = asked.sparsity if asked.sparsity is not None else sum(group.remove for group in groups) / total
    sparsities: list[float] = SCHEDULES.get(schedule)(final, rounds)
    if asked.sparsity is not None:
        return [(sparsity, Amount(sparsity=sparsity)) for sparsity in sparsities]
    shares = [sparsity / final if final else 1.0 for sparsity in sparsities]
    return [(sparsity, _share(asked, share)) for sparsity, share in zip(sparsities, shares, strict=True)]


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
            f"prunable, which allows at most {most:.4g} (--prune-classifier and --include bring in more)."
        )
    return remove / prunable
