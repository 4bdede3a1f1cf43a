"""Budgets: how many weights are removed, and from which layers together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import ceil

from torch import Tensor

from pruning.axes.allocation import DEFAULT_SPARSITY, LayerBudget, LayerSize, SparsityTarget
from pruning.axes.structure import fixed_sparsity
from pruning.core.layers import Layer
from pruning.core.weight_groups import WeightGroups
from pruning.errors import PruningError
from pruning.registry import ALLOCATIONS


def sparsity_target(
    sparsity: float | Mapping[str, float] | None, count: int | None, structure: str
) -> SparsityTarget:
    """Return how much to remove: by the arguments, or by the structure if it fixes the sparsity.

    Raises:
        PruningError: the arguments contradict one another or the structure, or are out of range.
    """
    fixed = fixed_sparsity(structure)
    if fixed is not None and (count is not None or sparsity not in (None, fixed)):
        given = f"count {count}" if count is not None else f"sparsity {sparsity}"
        raise PruningError(
            f"Structure {structure} removes exactly {fixed:g}, which {given} contradicts. Omit it."
        )
    if isinstance(sparsity, Mapping):
        return SparsityTarget(count=count, by_layer=sparsity)
    if sparsity is None and count is None:
        sparsity = DEFAULT_SPARSITY if fixed is None else fixed
    return SparsityTarget(sparsity, count)


def layer_sizes(layers: Sequence[Layer]) -> list[LayerSize]:
    return [LayerSize(layer.name, layer.size, layer.shape, layer.kind) for layer in layers]


def layer_budgets(allocation: str, target: SparsityTarget, layers: Sequence[Layer]) -> list[LayerBudget]:
    """Return the number of weights to remove from each set of layers whose scores are compared."""
    budgets: list[LayerBudget] = ALLOCATIONS.get(allocation)(layer_sizes(layers), target)
    return budgets


def budgets_at(
    progress: float, budgets: Sequence[LayerBudget], earlier: Mapping[str, Tensor], layers: Sequence[Layer]
) -> list[LayerBudget]:
    """Return the budgets after the fraction `progress` of a pruning step in several iterations.

    Every step keeps the same fraction of the weights that the last one kept.

    Args:
        earlier: The masks before the pruning step.
    """
    if progress == 1:
        return list(budgets)
    return [_budget_at(progress, budget, earlier, layers) for budget in budgets]


def _budget_at(
    progress: float, budget: LayerBudget, earlier: Mapping[str, Tensor], layers: Sequence[Layer]
) -> LayerBudget:
    size = sum(layer.size for layer in layers if layer.name in budget.layers)
    before = size - count_pruned(budget.layers, earlier)
    after = size - budget.remove
    if not 0 < after < before:
        return budget
    return LayerBudget(budget.layers, size - round(before * (after / before) ** progress))


def merge_budgets(
    budgets: Iterable[LayerBudget], groups: Sequence[WeightGroups]
) -> list[tuple[list[WeightGroups], int]]:
    """Return the groups that compete with one another, and the number of weights to remove from them together.

    The budgets of coupled layers are added up.
    """
    merged = [(set(budget.layers), budget.remove) for budget in budgets]
    for coupled in groups:
        if len(coupled.blocks) == 1:
            continue
        touched = [one for one in merged if one[0] & coupled.blocks.keys()]
        if len(touched) > 1:
            merged = [one for one in merged if one not in touched]
            merged.append(
                (set().union(*(names for names, _ in touched)), sum(number for _, number in touched))
            )
    return [
        ([coupled for coupled in groups if names & coupled.blocks.keys()], number) for names, number in merged
    ]


def count_pruned(names: Iterable[str], masks: Mapping[str, Tensor]) -> int:
    """Return the number of weights that the masks remove from these layers."""
    return sum(int((~masks[name]).count_nonzero()) for name in names if name in masks)


def min_kept(floor: float, size: int) -> int:
    """Return how many of `size` weights or groups a floor keeps."""
    return ceil(floor * size - 1e-9)  # 0.07 * 100 is a little more than 7


def check_floor_leaves_enough(floor: float, budgets: Sequence[LayerBudget], layers: Sequence[Layer]) -> None:
    """Raise PruningError if a floor in every layer does not allow to remove the budgets (of single weights)."""
    for budget in budgets:
        sizes = [layer.size for layer in layers if layer.name in budget.layers]
        possible = sum(size - min_kept(floor, size) for size in sizes)
        if budget.remove > possible:
            raise floor_error(floor, budget.remove, possible)


def floor_error(floor: float, remove: int, possible: int) -> PruningError:
    return PruningError(
        f"A floor of {floor:g} in every layer allows to remove {possible:,} weights, but {remove:,} are to be removed: "
        "lower the floor or the sparsity."
    )
