"""Statistics over channel groups: the scale of the normalisation that follows a filter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pruning.axes.structure import output_dimension
from pruning.core.layers import Layer
from pruning.core.weight_groups import WeightGroups, has_weight_matrix
from pruning.errors import PruningError
from pruning.registry import STATISTICS


@STATISTICS.register("normalisation scale", over_channels=True, source="Liu et al. 2017, arXiv 1708.06519")
def normalization_scales(
    model: nn.Module, layers: Sequence[Layer], groups: Sequence[WeightGroups]
) -> dict[str, Tensor]:
    """abs(gamma) of the normalisation that follows a weight's filter; the mean if there are several.

    Raises:
        PruningError: layers whose filters no normalisation with a scale follows; the message names all of them.
    """
    modules = dict(model.named_modules())
    by_name = {layer.name: layer for layer in layers}
    found: dict[str, Tensor] = {}
    missing: list[str] = []
    for coupled in groups:
        scales = [
            model.get_parameter(name).detach().float().abs()[entries]
            for name, entries in coupled.dependent.items()
            if name.endswith("weight") and not has_weight_matrix(modules[name.rpartition(".")[0]])
        ]
        if not scales:
            missing += coupled.blocks
            continue
        scale = torch.stack(scales).mean(0)
        for name, blocks in coupled.blocks.items():
            layer = by_name[name]
            outputs = output_dimension(layer)
            shape = [-1 if dimension == outputs else 1 for dimension in range(len(layer.shape))]
            found[name] = blocks.in_layer_order(scale).view(shape).expand(layer.shape)
    if missing:
        in_order = [layer.name for layer in layers if layer.name in missing]
        excluded = " ".join(f"--exclude {name}" for name in in_order)
        fix = f"Exclude them ({excluded})" if found else "Choose another score"
        raise PruningError(f"No normalisation with a scale follows {', '.join(in_order)}. {fix}.")
    return found
