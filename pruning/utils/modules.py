"""PyTorch helpers: evaluation mode for a while, the memory format of a model, example inputs, a light dispatch mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode


@contextmanager
def eval_mode(*models: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; on exit every module returns to its own mode."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def is_channels_last(model: nn.Module) -> bool:
    """Whether all convolution weights are channels-last in memory, as the input images then should be, too."""
    convolutions = (parameter for parameter in model.parameters() if parameter.dim() == 4)
    return all(weight.is_contiguous(memory_format=torch.channels_last) for weight in convolutions)


def zero_images(model: nn.Module, batch_size: int, shape: tuple[int, int, int]) -> torch.Tensor:
    """Zeros of (batch_size, *shape) with the dtype and device of the model's weights."""
    tensors = chain(model.parameters(), model.buffers())
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.zeros(()))
    return torch.zeros(batch_size, *shape, dtype=like.dtype, device=like.device)


class EagerDispatchMode(TorchDispatchMode):
    """A TorchDispatchMode that does not import torch._dynamo at its first operation (saves 1 s)."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
