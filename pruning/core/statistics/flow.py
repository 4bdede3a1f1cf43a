"""Synaptic flow (Tanaka et al. 2020, arXiv 2006.05467): a statistic of the weights alone, without data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pruning.core.layers import Layer
from pruning.core.statistics.evaluation import Batches, Loss, StandIns, eval_mode_with_gradients, on_device
from pruning.registry import STATISTICS


@STATISTICS.register("synaptic flow", source="Tanaka et al. 2020, arXiv 2006.05467, eq. 2")
def synaptic_flow(
    model: nn.Module, layers: Sequence[Layer], batches: Batches, loss: Loss = functional.cross_entropy
) -> dict[str, Tensor]:
    """dR/d abs(w), where R is the sum of the outputs for an input of ones and absolute values of all parameters.

    The batches determine only the input shape. Biases and running means are set to zero, so that R is the sum
    over all paths of the product of their weights (equation 2); with biases, layers before them could be emptied.
    Computed in double precision where the device has it, and scaled to a largest value of 1: only the order of the
    scores matters.
    """
    inputs, _ = next(iter(on_device(batches, layers)))
    exact = torch.float32 if inputs.device.type == "mps" else torch.float64
    tensors = StandIns.of(model, layers)
    positive = {
        name: value.detach().to(exact).abs().requires_grad_() for name, value in tensors.scored.items()
    }
    fixed = {
        name: value.to(exact).abs().mul_(not _is_additive(name)) if value.is_floating_point() else value
        for name, value in tensors.fixed.items()
    }
    with eval_mode_with_gradients(model):
        ones = torch.ones_like(inputs[:1], dtype=exact if inputs.is_floating_point() else None)
        total = StandIns(positive, fixed).forward(model, ones).sum()
        found = torch.autograd.grad(total, list(positive.values()), allow_unused=True, materialize_grads=True)
    largest = max(float(flow.max()) for flow in found) or 1.0
    return {name: (flow / largest).float() for name, flow in zip(positive, found, strict=True)}


def _is_additive(name: str) -> bool:
    """Return whether a layer adds or subtracts the tensor of this name, and does not multiply by it."""
    own_name = name.rpartition(".")[2]
    return "bias" in own_name or own_name == "running_mean"
