"""Statistics that scores read besides the weights: gradients, Fisher information, layer inputs, channel scales.

Sums over training steps (`movement`) are in `core.accumulation`.

A statistic is a registered function; a score lists the names of those it reads in `ScoreSpec.statistics`::

    @STATISTICS.register("gradient", source="...")
    def gradients(model, layers, batches, loss):
        ...
        return {layer.name: tensor for layer in layers}

It returns one float32 tensor of the layer's shape for each layer; of any shape, if the score is not elementwise.
`batches` may be an iterator: read it once, or make a list of it first.
The values of the weights are those of `layers`, which can be copies in which pruned weights are zero. The network is in
evaluation mode, so that a sample's contribution does not depend on its batch, and the model stays as it was, bit for
bit (`evaluation` has the helpers). With ``over_channels=True`` the arguments are ``(model, layers, groups)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pruning.core.layers import Layer
from pruning.core.statistics.evaluation import Batches, Loss
from pruning.core.statistics.layer_inputs import refuse_layers_without_inputs
from pruning.errors import PruningError
from pruning.registry import STATISTICS

if TYPE_CHECKING:
    from pruning.core.weight_groups import WeightGroups


def compute_statistics(
    names: Sequence[str],
    model: nn.Module,
    layers: Sequence[Layer],
    batches: Batches,
    loss: Loss,
    groups: Sequence[WeightGroups],
    *,
    elementwise: bool,
) -> dict[str, Mapping[str, Tensor]]:
    """Return statistic -> layer name -> tensor. An `elementwise` score needs tensors of the layers' shapes.

    Raises:
        PruningError: a statistic has no tensor for a layer, or one of another type or shape.
    """
    computed: dict[str, Mapping[str, Tensor]] = {}
    for name in names:
        over_channels = STATISTICS.entry(name).spec.over_channels
        arguments = (groups,) if over_channels else (batches, loss)
        computed[name] = STATISTICS.get(name)(model, layers, *arguments)
        for layer in layers:
            _check_tensor(name, layer, computed[name].get(layer.name), elementwise)
    return computed


def _check_tensor(name: str, layer: Layer, tensor: Tensor | None, elementwise: bool) -> None:
    """Raise PruningError unless a statistic's tensor for a layer can be used by a score."""
    if (
        isinstance(tensor, Tensor)
        and tensor.dtype == torch.float32
        and (tuple(tensor.shape) == layer.shape or not elementwise)
    ):
        return
    found = "nothing" if tensor is None else f"{type(tensor).__name__}"
    if isinstance(tensor, Tensor):
        found = f"a {tensor.dtype} tensor of shape {tuple(tensor.shape)}"
    shape = f" of the layer's shape {layer.shape}" if elementwise else ""
    raise PruningError(
        f"Statistic {name!r} returned {found} for {layer.name}. Return a torch.float32 tensor{shape} for every layer."
    )


def need_batches(names: Sequence[str]) -> list[str]:
    """Return those of the statistics that are computed from batches of data."""
    return [name for name in names if not STATISTICS.entry(name).spec.over_channels]


def check_statistics(
    names: Sequence[str], model: nn.Module, layers: Sequence[Layer], groups: Sequence[WeightGroups]
) -> None:
    """Raise PruningError if these layers cannot have one of the statistics, as far as that shows without data."""
    for name in names:
        spec = STATISTICS.entry(name).spec
        if spec.over_channels:
            STATISTICS.get(name)(model, layers, groups)
        if spec.reads_layer_inputs:
            refuse_layers_without_inputs(layers)
