"""Statistics from the inputs of convolution and linear layers (activations)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pruning.core.layers import CONVOLUTIONS, Layer, input_width
from pruning.core.statistics.evaluation import Batches, Loss, StandIns, eval_mode_with_gradients, on_device
from pruning.errors import PruningError
from pruning.registry import STATISTICS


@dataclass
class InputSum:
    """Sum of f(x) over the inputs x of one layer.

    Attributes:
        total: (input features,), float32.
        count: Number of samples, times positions for images.
    """

    total: Tensor
    count: int = 0


@STATISTICS.register("input norm", reads_layer_inputs=True, source="Sun et al. 2024, arXiv 2306.11695")
def input_norms(
    model: nn.Module, layers: Sequence[Layer], batches: Batches, loss: Loss = functional.cross_entropy
) -> dict[str, Tensor]:
    """L2 norm of the input that a weight multiplies, over all samples (and positions, for images)."""
    sums = sum_inputs(model, layers, batches, torch.square)
    return {layer.name: expand_to_weights(layer, model, sums[layer.name].total.sqrt()) for layer in layers}


@STATISTICS.register("mean input", reads_layer_inputs=True, source="Blalock et al. 2020, arXiv 2003.03033")
def input_means(
    model: nn.Module, layers: Sequence[Layer], batches: Batches, loss: Loss = functional.cross_entropy
) -> dict[str, Tensor]:
    """Mean of abs(x) of the input x that a weight multiplies, over all samples (and positions, for images)."""
    sums = sum_inputs(model, layers, batches, torch.abs)
    return {
        layer.name: expand_to_weights(layer, model, sums[layer.name].total / max(sums[layer.name].count, 1))
        for layer in layers
    }


def sum_inputs(
    model: nn.Module, layers: Sequence[Layer], batches: Batches, function: Callable[[Tensor], Tensor]
) -> dict[str, InputSum]:
    """Return for each layer the sum of `function(x)` over the values x of each input feature."""
    refuse_layers_without_inputs(layers)
    named = dict(model.named_parameters(remove_duplicate=False))
    names = {id(named[layer.name]): layer.name for layer in layers}
    modules = [
        (module, names[id(module.weight)])
        for module in model.modules()
        if isinstance(module, (nn.Linear, *CONVOLUTIONS)) and id(module.weight) in names
    ]
    sums = {
        name: InputSum(torch.zeros(input_width(module), device=module.weight.device))
        for module, name in modules
    }

    def adding(name: str, weight: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            inputs = arguments[0].detach().float()
            channels = -1 if isinstance(module, nn.Linear) else inputs.dim() - weight.dim() + 1
            by_feature = inputs.movedim(channels, 0).flatten(1)
            sums[name].total += function(by_feature).sum(1)
            sums[name].count += by_feature.shape[1]

        return hook

    hooks = [module.register_forward_pre_hook(adding(name, module.weight)) for module, name in modules]
    tensors = StandIns.of(model, layers)
    try:
        with eval_mode_with_gradients(model), torch.no_grad():
            for inputs, _ in on_device(batches, layers):
                tensors.forward(model, inputs)
    finally:
        for handle in hooks:
            handle.remove()
    return sums


def refuse_layers_without_inputs(layers: Sequence[Layer]) -> None:
    """Raise PruningError for attention and recurrent layers: no module receives the inputs of their weights."""
    without = [
        layer.name
        for layer in layers
        if layer.kind not in ("conv", "linear") or layer.type == "NonDynamicallyQuantizableLinear"
    ]
    if without:
        raise PruningError(
            f"The inputs of {', '.join(without)} cannot be observed: scores that read activations are for convolution "
            "and linear layers. Exclude the others, or choose a score that reads none."
        )


def expand_to_weights(layer: Layer, model: nn.Module, features: Tensor) -> Tensor:
    """Expand one number per input feature to one number per weight that multiplies the feature."""
    module: Any = model.get_submodule(layer.module)
    kernel = [1] * (len(layer.shape) - 2)
    if getattr(module, "transposed", False):
        return features.view(-1, 1, *kernel).expand(layer.shape).contiguous()
    groups = getattr(module, "groups", 1)
    by_output = features.view(groups, -1).repeat_interleave(layer.shape[0] // groups, 0)
    return by_output.view(*by_output.shape, *kernel).expand(layer.shape).contiguous()
