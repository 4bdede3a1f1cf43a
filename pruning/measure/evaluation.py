"""Looking at a network without leaving a mark: evaluation mode for a while, every operation, input like its weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode


@contextmanager
def eval_mode(*models: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module is in the mode that it was in."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def images_like(model: nn.Module, batch_size: int, shape: tuple[int, int, int]) -> torch.Tensor:
    """Zeros of (batch_size, *shape), of the type and on the device of the network's weights."""
    tensors = chain(model.parameters(), model.buffers())
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.zeros(()))
    return torch.zeros(batch_size, *shape, dtype=like.dtype, device=like.device)


class Watch(TorchDispatchMode):
    """Within, `__torch_dispatch__` of a subclass is called for every operation; without loading torch.compile.

    Its first call would otherwise import torch._dynamo, which takes a second.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
