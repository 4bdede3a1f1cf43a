"""Axis 2: how much each weight matters.

A score is a function ``(weights) -> Tensor`` of the same shape as ``weights.value``: float32, finite, and the higher
the more worth keeping. It is registered with

- ``needs``: what has to be collected from batches first, by name ("gradient"); empty when the weights are enough;
- ``elementwise``: whether each weight's score depends on that weight alone. Then it may be evaluated on any flat piece
  of a layer, so that no copy of all scores ever exists; otherwise it is given the whole layer in its own shape;
- ``zero_is_lowest``: whether exactly the weights that are zero have the lowest score there can be;
- ``source``: where it comes from.

What a score needs is collected by the function of that name in `COLLECTORS`, which leaves the model as it found it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from pruning.errors import PruningError
from pruning.layers import Layer
from pruning.registry import SCORES

Batches = Iterable[tuple[Tensor, Tensor]]
Loss = Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True)
class Weights:
    """What a score sees: a layer, or any flat piece of it.

    value: the weights in float32.
    collected: what the score `needs`, each of `value`'s shape and in float32.
    where: the flat indices in the layer that `value` is of.
    seed: of this layer, for scores that draw at random.
    """

    value: Tensor
    collected: Mapping[str, Tensor] = field(default_factory=dict)
    where: range | Tensor = range(0)
    seed: int = 0

    @property
    def gradient(self) -> Tensor:
        """dL/dw of the mean loss over the batches."""
        return self.collected["gradient"]

    @property
    def position(self) -> Tensor:
        """The flat index of each value in its layer (int32 or int64)."""
        if isinstance(self.where, Tensor):
            return self.where
        return torch.arange(self.where.start, self.where.stop, device=self.value.device).view(
            self.value.shape
        )


@SCORES.register(
    "mag", needs=[], elementwise=True, zero_is_lowest=True, source="Janowsky 1989; Han et al. 2015"
)
def magnitude(weights: Weights) -> Tensor:
    """abs(w)"""
    return weights.value.abs()


@SCORES.register(
    "grad", needs=["gradient"], elementwise=True, source="Blalock et al. 2020, section 7.2; Lee et al. 2019"
)
def gradient_magnitude(weights: Weights) -> Tensor:
    """abs(w x dL/dw), the first-order change of the loss when w is removed"""
    return (weights.value * weights.gradient).abs_()


@SCORES.register("random", needs=[], elementwise=True, source="Blalock et al. 2020, section 7.2")
def random(weights: Weights) -> Tensor:
    """None: each weight is drawn independently

    The draw is a hash of seed and position, so that it is the same on every device and for every way of slicing.
    """
    return uniform(weights.position, weights.seed)


def uniform(position: Tensor, seed: int) -> Tensor:
    """Numbers in [0, 1) in float32, the same for the same positions (int) and seed (64 bits) everywhere.

    A different arithmetic sequence for every seed, put through the finalizer of MurmurHash3 (Appleby 2011).
    """
    step, start = seed >> 32 | 1, seed & 0xFFFFFFFF
    bits = position.to(torch.int32).mul(_signed(step)).add_(_signed(start))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits.bitwise_xor_((bits >> shift).bitwise_and_((1 << (32 - shift)) - 1)).mul_(_signed(factor))
    bits.bitwise_xor_(bits >> 16)  # clears the sign: the shift repeats it
    return bits.float().mul_(2.0**-31).clamp_(max=1 - 2.0**-24)


def _signed(word: int) -> int:
    """The int32 with the same 32 bits."""
    return word - (1 << 32) if word >= 1 << 31 else word


def layer_seed(seed: int, name: str) -> int:
    """64 bits for one layer, whatever other layers are pruned with it."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest(), "little")


def gradients(
    model: nn.Module, layers: Sequence[Layer], batches: Batches, loss: Loss = functional.cross_entropy
) -> dict[str, Tensor]:
    """dL/dw in float32 for each layer's name, where L is the mean of `loss` over all samples of the batches.

    `loss(outputs, targets)` is the mean over one batch. The network is the one that is evaluated (evaluation mode):
    dropout is off and batch normalisation uses its running statistics, so that what a sample contributes does not
    depend on the samples beside it. Inputs and targets are moved to the model's device, floating-point inputs to its
    dtype. A layer that the loss does not depend on has gradient zero.

    Nothing of the model changes: the gradients are those of stand-ins that share the weights' memory, and buffers are
    copies. Each layer's gradient is added up as soon as it is known: beside the sums only one is held at a time.

    Raises PruningError when there is not a single batch.
    """
    sums = {layer.name: torch.zeros_like(layer.parameter, dtype=torch.float32) for layer in layers}
    stand_ins = {layer.name: layer.parameter.detach().requires_grad_() for layer in layers}
    scored = {id(layer.parameter) for layer in layers}
    fixed = {name: value.detach() for name, value in model.named_parameters() if id(value) not in scored}
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    like = layers[0].parameter
    seen = batch_size = 0

    def add_up(name: str) -> Callable[[Tensor], None]:
        def hook(stand_in: Tensor) -> None:
            assert stand_in.grad is not None
            sums[name].add_(stand_in.grad, alpha=batch_size)
            stand_in.grad = None

        return hook

    for name, stand_in in stand_ins.items():
        stand_in.register_post_accumulate_grad_hook(add_up(name))
    with _as_evaluated(model):
        for inputs, targets in batches:
            inputs = inputs.to(like.device, like.dtype if inputs.is_floating_point() else inputs.dtype)
            targets = targets.to(like.device)
            batch_size = len(targets)
            seen += batch_size
            outputs = functional_call(model, {**stand_ins, **fixed, **buffers}, (inputs,))
            loss(outputs, targets).backward()
    if not seen:
        raise PruningError(
            "The gradient needs at least one batch of (inputs, targets); the batches given are empty."
        )
    return {name: total.div_(seen) for name, total in sums.items()}


COLLECTORS: dict[str, Callable[..., dict[str, Tensor]]] = {"gradient": gradients}


@contextmanager
def _as_evaluated(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with gradients, and afterwards every module's mode and the global random state as they were."""
    modes = [(module, module.training) for module in model.modules()]
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    cudnn = torch.backends.cudnn.enabled
    try:
        with torch.random.fork_rng(devices), torch.inference_mode(False), torch.enable_grad():
            model.eval()
            # cuDNN's recurrent layers refuse to go backward in evaluation mode.
            if any(isinstance(module, nn.RNNBase) for module in model.modules()):
                torch.backends.cudnn.enabled = False
            yield
    finally:
        torch.backends.cudnn.enabled = cudnn
        for module, training in modes:
            module.training = training
