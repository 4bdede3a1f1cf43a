"""Selection: which groups of weights are removed, given their scores and the budgets of the layers.

In each budget the groups with the lowest scores are removed, as many as bring the number of removed weights nearest to
the budget. Ties are broken by layer and then by position: the first group is removed first.

For single weights this is exact and has a fast path (`topk`): the scores are streamed, and neither a copy of all of
them nor a sort is needed. The result is that of the general path; only weights that are zero without a mask count
towards the budget, but are not removed beyond it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from pruning.axes.allocation import LayerBudget
from pruning.core.budgets import count_pruned, floor_error, merge_budgets, min_kept
from pruning.core.layer_scores import LayerScorer
from pruning.core.topk import LOWEST, ScoreStream, bottom_k_masks
from pruning.core.weight_groups import WeightGroups, from_blocks, to_blocks


def select(
    budgets: Sequence[LayerBudget],
    groups: Sequence[WeightGroups],
    scorer: LayerScorer,
    floor: float,
) -> dict[str, Tensor]:
    """Return layer name -> mask (flat or of the layer's shape) without the removed groups.

    Weights that are already pruned stay pruned, even beyond a budget.

    Args:
        floor: Fraction of its weights that every layer keeps.

    Raises:
        PruningError: the floor leaves too few weights to remove.
    """
    masks: dict[str, Tensor] = {}
    for coupled, remove in merge_budgets(budgets, groups):
        if all(one.single_weights and one.keep is None for one in coupled):
            names = [name for one in coupled for name in one.blocks]
            streams = {name: scorer.stream(name) for name in names}
            masks |= select_weights(streams, max(remove, count_pruned(names, scorer.kept)), floor)
        elif any(one.keep is not None for one in coupled):
            masks |= {name: _keep_in_blocks(name, one, scorer) for one in coupled for name in one.blocks}
        else:
            masks |= select_groups(coupled, scorer, remove, floor)
    return masks


# Single weights: the fast path.


def select_weights(streams: Mapping[str, ScoreStream], remove: int, floor: float) -> dict[str, Tensor]:
    """Return flat masks without the `remove` lowest scores of these layers, with the floor in every layer.

    A layer that would fall below its floor is pruned to the floor, and the others lose the rest.
    """
    names = list(streams)
    removable = {name: streams[name].size - min_kept(floor, streams[name].size) for name in names}
    if remove > (possible := sum(removable.values())):
        raise floor_error(floor, remove, possible)
    masks = dict(zip(names, bottom_k_masks([streams[name] for name in names], remove), strict=True))
    if not floor:
        return masks
    below = [name for name in names if int((~masks[name]).count_nonzero()) > removable[name]]
    if not below:
        return masks
    at_floor = {name: bottom_k_masks([streams[name]], removable[name])[0] for name in below}
    others = {name: streams[name] for name in names if name not in below}
    return {**at_floor, **select_weights(others, remove - sum(removable[name] for name in below), floor)}


# Blocks that keep n weights of their own (N:M).


def _keep_in_blocks(name: str, groups: WeightGroups, scorer: LayerScorer) -> Tensor:
    """Return the mask of a layer in which every block keeps its highest scores."""
    shape = groups.blocks[name].shape
    assert shape.keep is not None
    scores = scorer.scores(name).masked_fill(scorer.pruned(name), LOWEST)
    kept = keep_highest(to_blocks(scores, shape), shape.keep)
    return scorer.combine_with_previous_mask(name, from_blocks(kept, tuple(scores.shape), shape))


def keep_highest(scores: Tensor, keep: int) -> Tensor:
    """Return a mask (blocks, weights) of the `keep` highest scores of each row; of equal scores the later are kept."""
    order = scores.sort(dim=1, stable=True).indices
    return torch.ones_like(scores, dtype=torch.bool).scatter_(1, order[:, : scores.shape[1] - keep], False)


# Groups that are removed whole: blocks and filters.


@dataclass(frozen=True)
class GroupScores:
    """Scores of groups.

    Attributes:
        scores: (groups,) one score for each group.
        pruned: (groups,) bool, True for groups that are already removed.
        weights: Number of weights in each group.
    """

    scores: Tensor
    pruned: Tensor
    weights: int


def select_groups(
    groups: Sequence[WeightGroups], scorer: LayerScorer, remove: int, floor: float
) -> dict[str, Tensor]:
    """Return masks of the layer's shape without the lowest groups."""
    masks: dict[str, Tensor] = {}
    kept_groups = keep_groups([group_scores(one, scorer) for one in groups], remove, floor)
    for one, kept in zip(groups, kept_groups, strict=True):
        for name, blocks in one.blocks.items():
            by_block = blocks.in_layer_order(kept)
            shape = scorer.shape(name)
            size = torch.Size(shape).numel() // len(kept)
            mask = from_blocks(by_block[:, None].expand(-1, size), shape, blocks.shape)
            masks[name] = scorer.combine_with_previous_mask(name, mask)
    return masks


def group_scores(groups: WeightGroups, scorer: LayerScorer) -> GroupScores:
    """Reduce the scores of each group's weights to one score."""
    parts, pruned = [], []
    for name, blocks in groups.blocks.items():
        parts.append(blocks.in_group_order(to_blocks(scorer.scores(name), blocks.shape)))
        pruned.append(blocks.in_group_order(to_blocks(scorer.pruned(name), blocks.shape).all(1)))
    weights = sum(part.shape[1] for part in parts)
    return GroupScores(reduce_scores(parts, scorer.group_reduction), torch.stack(pruned).all(0), weights)


def reduce_scores(parts: Sequence[Tensor], reduction: str) -> Tensor:
    """Reduce the scores of each group's weights to one score, by the score's `group_reduction`.

    Means rather than sums, so that groups of different size compare by their score per weight.

    Args:
        parts: For each layer (groups, weights in the layer's block).
    """
    if reduction == "first":
        return parts[0][:, 0]
    weights = sum(part.shape[1] for part in parts)
    if reduction == "root mean square":
        largest = max(float(part.abs().max()) for part in parts) or 1.0  # so that no square overflows
        squares = torch.stack([(part / largest).square().sum(1) for part in parts]).sum(0)
        return squares.div_(weights).sqrt_().mul_(largest)
    return torch.stack([part.sum(1) for part in parts]).sum(0).div_(weights)


def keep_groups(candidates: Sequence[GroupScores], remove: int, floor: float) -> list[Tensor]:
    """Return for each set of groups a mask (groups,) without the lowest, such that about `remove` weights are removed.

    The number of removed weights is as close to `remove` as whole groups allow, but not below the number already
    removed. The fraction `floor` of every set is kept; PruningError if too few groups are left to remove.
    """
    scores = torch.cat([_with_floor(one, floor) for one in candidates])
    weights = torch.cat([torch.full_like(one.pruned, one.weights, dtype=torch.int64) for one in candidates])
    order = scores.sort(stable=True).indices
    order = order[scores[order] < inf]
    removed = weights[order].cumsum(0)
    already = sum(int(one.pruned.sum()) * one.weights for one in candidates)
    possible = int(removed[-1]) if len(removed) else 0
    smallest = min(one.weights for one in candidates)
    if max(remove, already) - possible >= smallest:
        raise floor_error(floor, remove, possible)
    totals = torch.cat([removed.new_zeros(1), removed])
    number = int((totals - max(remove, already)).abs().argmin())
    kept = torch.ones_like(scores, dtype=torch.bool)
    kept[order[:number]] = False
    return list(kept.split([len(one.scores) for one in candidates]))


def _with_floor(candidates: GroupScores, floor: float) -> Tensor:
    """Return the scores: lowest for pruned groups, and infinite for those that the floor protects."""
    scores = candidates.scores.masked_fill(candidates.pruned, LOWEST)
    protected = min_kept(floor, len(scores))
    if protected:
        scores[scores.sort(stable=True).indices[-protected:]] = inf
    return scores
