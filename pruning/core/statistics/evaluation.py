"""Evaluate a network for its statistics and leave it as it was, bit for bit.

Gradients are those of stand-in tensors, buffers are copies, and module modes and the random state are restored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pruning.core.layers import Layer
from pruning.errors import PruningError

Batches = Iterable[tuple[Tensor, Tensor]]
Loss = Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True)
class StandIns:
    """Tensors to evaluate a network with in place of its own parameters and buffers.

    Attributes:
        scored: Layer name -> the layer's weights, which require a gradient.
        fixed: Every other parameter and buffer by name.
    """

    scored: dict[str, Tensor]
    fixed: dict[str, Tensor]

    @classmethod
    def of(cls, model: nn.Module, layers: Sequence[Layer]) -> StandIns:
        """Return stand-ins that share the parameters' memory. A tied parameter has one, under its layer's name."""
        named = dict(model.named_parameters(remove_duplicate=False))
        scored = {id(named[layer.name]) for layer in layers}
        fixed = {name: value.detach() for name, value in model.named_parameters() if id(value) not in scored}
        buffers = {name: value.clone() for name, value in model.named_buffers()}
        return cls(
            {layer.name: layer.parameter.detach().requires_grad_() for layer in layers}, {**fixed, **buffers}
        )

    def forward(self, model: nn.Module, inputs: Tensor) -> Any:
        """Return the outputs of `model` with these tensors."""
        return functional_call(model, {**self.scored, **self.fixed}, (inputs,))


def on_device(batches: Batches, layers: Sequence[Layer]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches on the layers' device, with floating-point inputs in their dtype.

    Raises:
        PruningError: there is no batch.
    """
    like = layers[0].parameter
    empty = True
    for inputs, targets in batches:
        empty = False
        dtype = like.dtype if inputs.is_floating_point() else inputs.dtype
        yield inputs.to(like.device, dtype), targets.to(like.device)
    if empty:
        raise PruningError(
            "There is no batch (left): scoring needs at least one batch of (inputs, targets). An iterator can be read "
            "only once; list(batches) can be read again."
        )


@contextmanager
def eval_mode_with_gradients(model: nn.Module) -> Iterator[None]:
    """Evaluate with gradients enabled; restore every module's mode and the global random state afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    cudnn = torch.backends.cudnn.enabled
    try:
        with torch.random.fork_rng(devices), torch.inference_mode(False), torch.enable_grad():
            model.eval()
            # cuDNN's recurrent layers raise in backward when they are in evaluation mode.
            if any(isinstance(module, nn.RNNBase) for module in model.modules()):
                torch.backends.cudnn.enabled = False
            yield
    finally:
        torch.backends.cudnn.enabled = cudnn
        for module, training in modes:
            module.training = training
