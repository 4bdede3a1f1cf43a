"""Removing groups of weights: tiles of layers, bundled across the layers whose tiles only go together.

A layer's weights are laid out as a matrix with one row for each tile. What a group's weights score together is compared
as the allocation says, and groups are removed from the lowest on, until as many weights are gone as whole groups can
come nearest to the number asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, inf, prod
from typing import Any

import torch
from torch import Tensor, nn

from pruning.axes.allocation import Group
from pruning.axes.structure import BlockShape, output_dimension
from pruning.core.channel_groups import find_channel_groups
from pruning.core.layers import Layer
from pruning.core.topk import LOWEST
from pruning.errors import PruningError
from pruning.registry import STRUCTURES


@dataclass(frozen=True)
class CoupledGroup:
    """Tiles of one or more layers of which the k-th of each go together.

    tiles: layer name -> which of its tiles is the k-th; None for its own order.
    along: parameter name -> which of its entries (a bias, a normalisation's scale) goes with the k-th.
    """

    tiles: Mapping[str, Tensor | None]
    along: Mapping[str, Tensor] = field(default_factory=dict)


def block_shapes(structure: str, layers: Sequence[Layer]) -> dict[str, BlockShape]:
    """Every layer's tile. PruningError that names all layers which the structure does not fit, and why."""
    tile = STRUCTURES.get(structure)
    found, refused = {}, {}
    for layer in layers:
        try:
            found[layer.name] = tile(layer)
        except PruningError as error:
            refused[layer.name] = str(error)
    if refused:
        raise _does_not_fit(structure, refused)
    return found


def coupled_groups(
    structure: str, model: nn.Module, images: Tensor, layers: Sequence[Layer]
) -> list[CoupledGroup]:
    """The filters of `layers` bundled by the channels that they make, with biases and batch normalisation along.

    images: like those that the network is for; one is sent through a copy, to see how layers are connected. Raises
    PruningError if torch-pruning (the extra `shrink`) is missing or cannot follow the network, and for layers whose
    filters cannot be removed, or only with those of a layer that is not pruned.
    """
    like = layers[0].parameter
    groups, obstacles = find_channel_groups(model, images[:1].to(like.device, like.dtype))
    by_module = {layer.module: layer.name for layer in layers}
    modules: dict[str, Any] = dict(model.named_modules())
    refused = {layer.name: obstacles.get(layer.module, "its channels cannot be followed") for layer in layers}
    bundles = []
    for group in groups:
        tiled = [
            name for name in group.members if modules[name].weight is not None and _is_layer(modules[name])
        ]
        pruned = [name for name in tiled if name in by_module]
        if not pruned:
            continue
        for name in pruned:
            del refused[by_module[name]]
        kept = [name for name in tiled if name not in by_module]
        if kept:
            together = f"its filters go only together with those of {', '.join(kept)}, which is not pruned"
            refused |= {by_module[name]: together for name in pruned}
        order = {name: torch.tensor(own, device=like.device) for name, own in group.members.items()}
        along = {
            f"{name}.{own}": order[name]
            for name in group.members
            for own in (("bias",) if _is_layer(modules[name]) else ("weight", "bias"))
            if getattr(modules[name], own, None) is not None
        }
        bundles.append(CoupledGroup({by_module[name]: order[name] for name in pruned}, along))
    if refused:
        in_order = [layer.name for layer in layers if layer.name in refused]
        raise _does_not_fit(structure, {name: refused[name] for name in in_order})
    return bundles


def normalisation_scales(
    model: nn.Module, layers: Sequence[Layer], bundles: Sequence[CoupledGroup]
) -> dict[str, Tensor]:
    """For every weight abs(gamma) of the normalisation that its filter goes with; of several the mean. float32.

    PruningError that names all layers whose filters no normalisation with a scale follows.
    """
    modules = dict(model.named_modules())
    by_name = {layer.name: layer for layer in layers}
    found: dict[str, Tensor] = {}
    without: list[str] = []
    for bundle in bundles:
        scales = [
            model.get_parameter(name).detach().float().abs()[entries]
            for name, entries in bundle.along.items()
            if not _is_layer(modules[name.rpartition(".")[0]]) and name.endswith("weight")
        ]
        if not scales:
            without += bundle.tiles
            continue
        scale = torch.stack(scales).mean(0)
        for name, order in bundle.tiles.items():
            layer = by_name[name]
            own = scale if order is None else torch.empty_like(scale).index_copy_(0, order, scale)
            output = output_dimension(layer)
            shape = [-1 if dimension == output else 1 for dimension in range(len(layer.shape))]
            found[name] = own.view(shape).expand(layer.shape)
    if without:
        in_order = [layer.name for layer in layers if layer.name in without]
        instead = f"leave them out: {' '.join(f'--exclude {name}' for name in in_order)}" if found else ""
        raise PruningError(
            f"No normalisation with a scale follows {', '.join(in_order)}, so that nothing says what their filters "
            f"are worth; {instead or 'choose another score'}."
        )
    return found


OF_CHANNELS: dict[str, Callable[..., dict[str, Tensor]]] = {"normalisation scale": normalisation_scales}


def _is_layer(module: nn.Module) -> bool:
    weight: Any = module.weight
    return weight is not None and weight.dim() > 1


def _does_not_fit(structure: str, refused: Mapping[str, str]) -> PruningError:
    by_reason = {
        reason: ", ".join(name for name, own in refused.items() if own == reason)
        for reason in dict.fromkeys(refused.values())
    }
    reasons = "; ".join(f"{names} ({reason})" for reason, names in by_reason.items())
    excluded = " ".join(f"--exclude {name}" for name in refused)
    return PruningError(
        f"Structure {structure} does not fit {reasons}. Leave out what it does not fit: {excluded}."
    )


def rows(weight: Tensor, tile: BlockShape) -> Tensor:
    """(tiles, weights in each), tiles and the weights within them in the order of the layer."""
    counts = [length // size for length, size in zip(weight.shape, tile.sizes, strict=True)]
    halves = [number for pair in zip(counts, tile.sizes, strict=True) for number in pair]
    return weight.reshape(halves).permute(_outer_first(weight.dim())).reshape(prod(counts), prod(tile.sizes))


def from_blocks(matrix: Tensor, shape: tuple[int, ...], tile: BlockShape) -> Tensor:
    """The weight of this shape that `rows` gave `matrix` of."""
    counts = [length // size for length, size in zip(shape, tile.sizes, strict=True)]
    apart = matrix.reshape(*counts, *tile.sizes)
    back = torch.tensor(_outer_first(len(shape))).argsort().tolist()
    return apart.permute(back).reshape(shape)


def _outer_first(dimensions: int) -> list[int]:
    return [*range(0, 2 * dimensions, 2), *range(1, 2 * dimensions, 2)]


def keep_in_each(scores: Tensor, keep: int) -> Tensor:
    """The mask (tiles, weights) that keeps the `keep` highest scores of each row; of equals the later ones."""
    order = scores.sort(dim=1, stable=True).indices
    return torch.ones_like(scores, dtype=torch.bool).scatter_(1, order[:, : scores.shape[1] - keep], False)


def together(parts: Sequence[Tensor], how: str) -> Tensor:
    """What the scores of groups come to: `parts` (groups, weights) of each layer, rows in the bundle's order.

    how: "mean", "root mean square", or "first" for the first weight's score. Means rather than sums, so that groups of
    different size compare by what they are worth for each weight that they cost.
    """
    if how == "first":
        return parts[0][:, 0]
    weights = sum(part.shape[1] for part in parts)
    if how == "root mean square":
        largest = max(float(part.abs().max()) for part in parts) or 1.0  # so that no square overflows
        squares = torch.stack([(part / largest).square().sum(1) for part in parts]).sum(0)
        return squares.div_(weights).sqrt_().mul_(largest)
    return torch.stack([part.sum(1) for part in parts]).sum(0).div_(weights)


@dataclass(frozen=True)
class Candidates:
    """The groups of one bundle: `scores` (1-d), which are `gone` already, and how many weights each `weighs`."""

    scores: Tensor
    gone: Tensor
    weighs: int


def merged(groups: Iterable[Group], bundles: Sequence[CoupledGroup]) -> list[tuple[list[CoupledGroup], int]]:
    """Which bundles are compared with one another, and how many weights they lose.

    Layers that are bundled count as one: what an allocation asks of each is asked of them together.
    """
    found = [(set(group.names), group.remove) for group in groups]
    for bundle in bundles:
        touched = [one for one in found if one[0] & bundle.tiles.keys()]
        if len(touched) > 1:
            found = [one for one in found if one not in touched]
            found.append(
                (set().union(*(names for names, _ in touched)), sum(number for _, number in touched))
            )
    return [
        ([bundle for bundle in bundles if names & bundle.tiles.keys()], number) for names, number in found
    ]


def lowest(candidates: Sequence[Candidates], remove: int, floor: float) -> list[Tensor]:
    """For each bundle which of its groups are kept, when the lowest go until about `remove` weights are gone.

    Of all numbers of groups the one is taken that comes nearest to `remove` (never below what is gone already). Of
    every bundle at least the fraction `floor` of its groups stays; PruningError if then so much cannot go.
    """
    scores = torch.cat([_protected(one, floor) for one in candidates])
    weighs = torch.cat([torch.full_like(one.gone, one.weighs, dtype=torch.int64) for one in candidates])
    order = scores.sort(stable=True).indices
    order = order[scores[order] < inf]
    after = weighs[order].cumsum(0)
    gone = sum(int(one.gone.sum()) * one.weighs for one in candidates)
    possible = int(after[-1]) if len(after) else 0
    smallest = min(one.weighs for one in candidates)
    if max(remove, gone) - possible >= smallest:
        raise floor_reached(floor, remove, possible)
    totals = torch.cat([after.new_zeros(1), after])
    number = int((totals - max(remove, gone)).abs().argmin())
    kept = torch.ones_like(scores, dtype=torch.bool)
    kept[order[:number]] = False
    return list(kept.split([len(one.scores) for one in candidates]))


def _protected(candidates: Candidates, floor: float) -> Tensor:
    """The scores, lowest where a group is gone, and infinite for those that the floor protects."""
    scores = candidates.scores.masked_fill(candidates.gone, LOWEST)
    protected = at_least(floor, len(scores))
    if protected:
        scores[scores.sort(stable=True).indices[-protected:]] = inf
    return scores


def at_least(floor: float, size: int) -> int:
    """How many of `size` a floor keeps."""
    return ceil(floor * size - 1e-9)  # 0.07 * 100 is a little more than 7


def floor_reached(floor: float, remove: int, possible: int) -> PruningError:
    """The error for a floor that leaves too little to remove."""
    return PruningError(
        f"A floor of {floor:g} in every layer leaves {possible:,} weights to remove where {remove:,} should go: "
        "lower the floor or the sparsity."
    )
