"""Groups of weights: the units that are scored and removed together.

A structure divides every layer into blocks of one shape (`axes.structure.BlockShape`), and a group is one block, or the
same block of several layers whose channels are coupled. All kinds of pruning are special cases:

- unstructured: blocks of one weight, so that every weight is a group;
- block: blocks of n outputs x m inputs;
- filter: blocks of one filter; a group is the filters of all layers that write the same channel, with dependent biases
  and normalisations;
- N:M: blocks of M weights, which are not removed but keep N weights each (`BlockShape.keep`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from pruning.axes.structure import BlockShape
from pruning.core.channel_groups import ChannelGroup, find_channel_groups
from pruning.core.layers import Layer
from pruning.errors import PruningError
from pruning.registry import STRUCTURES


@dataclass(frozen=True)
class Blocks:
    """The blocks of one layer.

    Attributes:
        shape: Shape of each block.
        order: (groups,) index of the layer's block in each group; None for the layer's own order.
    """

    shape: BlockShape
    order: Tensor | None = None

    def in_group_order(self, by_block: Tensor) -> Tensor:
        """Reorder (blocks, ...) of the layer to (groups, ...)."""
        return by_block if self.order is None else by_block[self.order]

    def in_layer_order(self, by_group: Tensor) -> Tensor:
        """Reorder (groups,) to the layer's own (blocks,)."""
        return (
            by_group
            if self.order is None
            else torch.empty_like(by_group).index_copy_(0, self.order, by_group)
        )


@dataclass(frozen=True)
class WeightGroups:
    """The groups of one layer, or of several coupled layers: group k is block k of each of them.

    Attributes:
        blocks: Layer name -> its blocks.
        dependent: Parameter name (of a bias or normalisation) -> (groups,) index of the entry that is removed with each
            group.
    """

    blocks: Mapping[str, Blocks]
    dependent: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def single_weights(self) -> bool:
        """Return whether every group is one weight."""
        return len(self.blocks) == 1 and all(prod(one.shape.sizes) == 1 for one in self.blocks.values())

    @property
    def keep(self) -> int | None:
        """Number of weights that every block keeps (N:M); None if blocks are kept or removed whole."""
        return next(iter(self.blocks.values())).shape.keep


def weight_groups(
    structure: str, model: nn.Module, layers: Sequence[Layer], images: Tensor | None
) -> list[WeightGroups]:
    """Return the groups of all layers.

    Args:
        images: Example inputs, for coupled structures only; one is passed through a copy of the network to find which
            layers share channels.

    Raises:
        PruningError: layers that the structure does not fit, or whose channels cannot be removed; torch-pruning (the
            extra `shrink`) is missing or cannot trace the network.
    """
    shapes = block_shapes(structure, layers)
    if not STRUCTURES.entry(structure).spec.coupled:
        return [WeightGroups({layer.name: Blocks(shapes[layer.name])}) for layer in layers]
    assert images is not None, "coupled structures need example inputs"
    return _filter_groups(structure, model, layers, shapes, images)


def block_shapes(structure: str, layers: Sequence[Layer]) -> dict[str, BlockShape]:
    """Return the block shape of every layer.

    Raises:
        PruningError: the structure does not fit some layers; the message names all of them with the reasons.
    """
    shape_of = STRUCTURES.get(structure)
    found, reasons = {}, {}
    for layer in layers:
        try:
            found[layer.name] = shape_of(layer)
        except PruningError as error:
            reasons[layer.name] = str(error)
    if reasons:
        raise _does_not_fit(structure, reasons)
    return found


def _filter_groups(
    structure: str,
    model: nn.Module,
    layers: Sequence[Layer],
    shapes: Mapping[str, BlockShape],
    images: Tensor,
) -> list[WeightGroups]:
    """Return the filters of `layers` grouped by the channels that they write, with dependent parameters."""
    like = layers[0].parameter
    channel_groups, obstacles = find_channel_groups(model, images[:1].to(like.device, like.dtype))
    names = {layer.module: layer.name for layer in layers}
    modules: dict[str, Any] = dict(model.named_modules())
    reasons = {layer.name: obstacles.get(layer.module, "its channels cannot be traced") for layer in layers}
    found = []
    for group in channel_groups:
        writers = [name for name in group.members if has_weight_matrix(modules[name])]
        prunable = [names[name] for name in writers if name in names]
        if not prunable:
            continue
        for name in prunable:
            del reasons[name]
        if unprunable := [name for name in writers if name not in names]:
            reason = (
                f"its filters can only be removed with those of {', '.join(unprunable)}, which is not pruned"
            )
            reasons |= dict.fromkeys(prunable, reason)
        order = {name: torch.tensor(own, device=like.device) for name, own in group.members.items()}
        blocks = {names[name]: Blocks(shapes[names[name]], order[name]) for name in writers if name in names}
        found.append(WeightGroups(blocks, _dependent_parameters(group, modules, order)))
    if reasons:
        raise _does_not_fit(
            structure, {layer.name: reasons[layer.name] for layer in layers if layer.name in reasons}
        )
    return found


def _dependent_parameters(
    group: ChannelGroup, modules: Mapping[str, Any], order: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    return {
        f"{name}.{own}": order[name]
        for name in group.members
        for own in (("bias",) if has_weight_matrix(modules[name]) else ("weight", "bias"))
        if getattr(modules[name], own, None) is not None
    }


def has_weight_matrix(module: nn.Module) -> bool:
    """Return whether a module multiplies by a weight of two or more dimensions, as normalisations do not."""
    weight: Any = module.weight
    return weight is not None and weight.dim() > 1


def _does_not_fit(structure: str, reasons: Mapping[str, str]) -> PruningError:
    layers_of = {
        reason: ", ".join(name for name, own in reasons.items() if own == reason)
        for reason in dict.fromkeys(reasons.values())
    }
    listed = "; ".join(f"{names} ({reason})" for reason, names in layers_of.items())
    excluded = " ".join(f"--exclude {name}" for name in reasons)
    return PruningError(f"Structure {structure} does not fit {listed}. Exclude these layers: {excluded}.")


def to_blocks(weight: Tensor, shape: BlockShape) -> Tensor:
    """Reshape a layer's tensor to (blocks, weights in a block); both in the order of the layer."""
    counts = [length // size for length, size in zip(weight.shape, shape.sizes, strict=True)]
    split = [number for pair in zip(counts, shape.sizes, strict=True) for number in pair]
    return weight.reshape(split).permute(_blocks_first(weight.dim())).reshape(prod(counts), prod(shape.sizes))


def from_blocks(matrix: Tensor, shape: tuple[int, ...], block: BlockShape) -> Tensor:
    """Reshape (blocks, weights in a block) back to the layer's shape; the inverse of `to_blocks`."""
    counts = [length // size for length, size in zip(shape, block.sizes, strict=True)]
    split = matrix.reshape(*counts, *block.sizes)
    back = torch.tensor(_blocks_first(len(shape))).argsort().tolist()
    return split.permute(back).reshape(shape)


def _blocks_first(dimensions: int) -> list[int]:
    return [*range(0, 2 * dimensions, 2), *range(1, 2 * dimensions, 2)]
