"""Statistics that scores read besides the weights: gradients, Fisher information, layer inputs, channel scales.

A statistic is a registered function; a score lists the names of those it reads in `ScoreSpec.statistics`::

    @STATISTICS.register("gradient", source="...")
    def gradients(model, layers, batches, loss):
        ...
        return {layer.name: tensor for layer in layers}

It returns one float32 tensor of the layer's shape for each layer (any shape, if only scores of whole layers read it).
The values of the weights are those of `layers`, which can be copies in which pruned weights are zero. The network is in
evaluation mode, so that a sample's contribution does not depend on its batch, and the model stays as it was, bit for
bit (`evaluation` has the helpers). With ``over_channels=True`` the arguments are ``(model, layers, groups)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from pruning.core.layers import Layer
from pruning.core.statistics.evaluation import Batches, Loss
from pruning.core.statistics.layer_inputs import refuse_layers_without_inputs
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
) -> dict[str, Mapping[str, Tensor]]:
    """Return statistic -> layer name -> tensor."""
    return {
        name: STATISTICS.get(name)(model, layers, groups)
        if STATISTICS.entry(name).spec.over_channels
        else STATISTICS.get(name)(model, layers, batches, loss)
        for name in names
    }


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
