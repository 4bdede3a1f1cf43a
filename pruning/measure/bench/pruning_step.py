"""Benchmark of the pruning step: a global magnitude mask at 90 % of all weights of a network."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from pruning import models
from pruning.core.layers import prunable_layers
from pruning.core.prune import PruneOptions, compute_masks
from pruning.measure.bench.memory import peak_extra_bytes
from pruning.measure.bench.processes import extra_memory, worker
from pruning.measure.bench.timing import Action, Section, run_in_turns, summarize

SPARSITY = 0.9


def time_pruning_step(arch: str, turns: int, *, memory: bool) -> Section:
    """Time the mask of each maker, and one pass of abs() over the weights as the floor."""
    with ExitStack() as processes:
        contenders = {name: processes.enter_context(worker("mask", arch, name)) for name in MASK_MAKERS}
        times = run_in_turns(contenders, turns)
    extra_bytes = {name: extra_memory(arch, name) if memory else None for name in contenders}
    total = sum(weight.numel() for weight in random_weights(arch).values())
    title = f"global magnitude mask at 90 %, {arch} ({total / 1e6:.1f} M weights)"
    return summarize(title, times, extra_bytes)


def random_weights(arch: str) -> dict[str, Tensor]:
    """Return the weights of all convolution and linear layers of a randomly initialised network."""
    torch.manual_seed(0)
    model = models.build(arch, classes=1000, shape=(3, 224, 224))
    return {layer.name: layer.parameter.detach() for layer in prunable_layers(model, prune_classifier=True)}


def measure_extra_memory(arch: str, method: str) -> int | None:
    """Return the extra bytes of making a mask; None if this system does not report them."""
    MASK_MAKERS[method]({"warm-up": torch.randn(100, 100)})()  # imports and one-time set-up are not counted
    return peak_extra_bytes(MASK_MAKERS[method](random_weights(arch)))


class LinearLayers(nn.Module):
    """The given weights, each in a linear layer, so that every pruner accepts all of them."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        for index, weight in enumerate(weights.values()):
            layer = nn.Linear(1, 1, bias=False)
            layer.weight = nn.Parameter(weight)
            self.add_module(str(index), layer)


def prune_with_torch(model: nn.Module) -> None:
    """Prune a model with torch.nn.utils.prune: global magnitude, in place."""
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    named = [(module, "weight") for module in layers]
    torch_prune.global_unstructured(named, pruning_method=torch_prune.L1Unstructured, amount=SPARSITY)


def _this_program(weights: dict[str, Tensor]) -> Action:
    model = LinearLayers(weights)
    options = PruneOptions(method="global_mag", sparsity=SPARSITY, prune_classifier=True)
    return lambda: compute_masks(model, options)


def _abs(weights: dict[str, Tensor]) -> Action:
    return lambda: [weight.abs() for weight in weights.values()]


def _numpy_partition(weights: dict[str, Tensor]) -> Action:
    """The usual script: all scores in one NumPy array, partitioned at the threshold."""
    import numpy

    def action() -> list[Any]:
        scores = [weight.abs().numpy() for weight in weights.values()]
        every = numpy.concatenate([score.ravel() for score in scores])
        threshold = numpy.partition(every, round(SPARSITY * every.size))[round(SPARSITY * every.size)]
        return [score >= threshold for score in scores]

    return action


def _torch_pruner(weights: dict[str, Tensor]) -> Action:
    def action() -> LinearLayers:
        model = LinearLayers(weights)
        prune_with_torch(model)
        return model

    return action


MASK_MAKERS: dict[str, Callable[[dict[str, Tensor]], Action]] = {
    "pruning": _this_program,
    "abs() of the weights": _abs,
    "numpy.partition": _numpy_partition,
    "torch.nn.utils.prune": _torch_pruner,
}
