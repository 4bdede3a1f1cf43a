"""Plan the pruning steps of all rounds of a run, for its network."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from pruning.axes.allocation import SparsityTarget, read_by_layer
from pruning.axes.methods import split
from pruning.config.run_config import RunConfig
from pruning.core.budgets import check_floor_leaves_enough, layer_budgets, layer_sizes
from pruning.core.layers import Layer, prunable_layers
from pruning.core.prune import check
from pruning.experiment.targets import (
    PruningStep,
    finetuning_batches,
    search_steps,
    steps_to_amount,
    steps_to_compression,
)
from pruning.measure.parameters import count_parameters
from pruning.registry import SCHEDULES


def plan_pruning_steps(
    config: RunConfig, model: nn.Module, layers: list[Layer], batches_per_epoch: int
) -> list[list[PruningStep]]:
    """Return the pruning steps of every round: one at its start, or several during its fine-tuning."""
    if not SCHEDULES.entry(config.schedule).spec.during_finetuning:
        return [[step] for step in _plan_steps(config, model, layers, config.rounds)]
    batches = finetuning_batches(
        config.finetune_epochs, config.prune_until, config.prune_every, batches_per_epoch
    )
    steps = _plan_steps(config, model, layers, len(batches))
    return [[replace(step, batch=batch) for step, batch in zip(steps, batches, strict=True)]]


def plan_rounds(config: RunConfig, model: nn.Module, shape: tuple[int, int, int]) -> list[PruningStep]:
    """Return the pruning step of every round for a network that takes images of `shape`.

    For a search they are those of a search in which every round is accepted. Needs neither data nor trained weights.

    Raises:
        PruningError: The network cannot be pruned by these options.
    """
    layers = prunable_layers(model, config.include, config.exclude, prune_classifier=config.prune_classifier)
    check(model, config.method, config.structure, layers, torch.zeros(1, *shape))
    return _plan_steps(config, model, layers, config.rounds)


def _plan_steps(config: RunConfig, model: nn.Module, layers: list[Layer], number: int) -> list[PruningStep]:
    """Return `number` pruning steps up to the target, checked against --floor."""
    sizes = layer_sizes(layers)
    allocation = split(config.method)[0]
    if config.max_drop is not None:
        steps = search_steps(allocation, config.schedule, number, sizes)
    elif config.compression is not None:
        parameters, weights = count_parameters(model).parameters, sum(layer.size for layer in sizes)
        steps = steps_to_compression(config.compression, parameters, weights, config.schedule, number)
    else:
        by_layer = None if config.layer_sparsity is None else read_by_layer(config.layer_sparsity)
        target = SparsityTarget(config.sparsity, config.count, by_layer)
        steps = steps_to_amount(target, allocation, config.schedule, number, sizes)
    if config.structure == "weight":  # how many weights whole groups have is only known when they are pruned
        check_floor_leaves_enough(config.floor, layer_budgets(allocation, steps[-1].amount, layers), layers)
    return steps
