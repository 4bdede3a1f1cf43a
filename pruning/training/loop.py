"""The training loop and the callbacks around it.

Order, augmentation and dropout of every batch follow from the recipe's seed and the position. No generator state has to
be saved, and a training that continues from a checkpoint is bit-identical to one without a stop.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from pruning.data import Dataset
from pruning.errors import InterruptedRunError
from pruning.training.device import autocast
from pruning.training.packed_layout import training_forward
from pruning.training.recipe import TrainingLoss, cross_entropy
from pruning.training.seeds import derive_seed, seed_everything
from pruning.training.state import TrainingState
from pruning.utils.modules import is_channels_last


class Callback:
    """Named behaviour around the training loop. Every hook does nothing unless it is overridden.

    A hook stops the training by raising. InterruptedRunError gives every callback the chance to save first.
    """

    def between_steps(self, state: TrainingState) -> None:
        """Called before the first step, between two steps and after the last one.

        Model and training state agree there, so that both can be saved.
        """

    def after_step(self, state: TrainingState) -> None:
        """Called right after a step is counted in `state`."""

    def after_epoch(self, state: TrainingState) -> None:
        """Called after the last step of an epoch, while `state` is still at the end of that epoch.

        A training resumed from there begins with this call.
        """

    def on_interrupt(self, state: TrainingState) -> None:
        """Called when another hook raised InterruptedRunError."""


def train(
    model: nn.Module,
    data: Dataset,
    state: TrainingState,
    callbacks: Sequence[Callback] = (),
    *,
    loss: TrainingLoss = cross_entropy,
    last_epoch: int | None = None,
) -> None:
    """Train `model` in place from `state` to the end of its recipe, or to the end of epoch `last_epoch`.

    Raises:
        NotFiniteError: A callback found a loss that is NaN or infinite.
        InterruptedRunError: A callback stopped the training.
    """
    try:
        if state.batch < state.batches_per_epoch:  # otherwise the end of the epoch comes first
            _between_steps(callbacks, state)
        _train_epochs(model, data, state, callbacks, loss, last_epoch)
    except InterruptedRunError:
        for callback in callbacks:
            callback.on_interrupt(state)
        raise


def _train_epochs(
    model: nn.Module,
    data: Dataset,
    state: TrainingState,
    callbacks: Sequence[Callback],
    loss: TrainingLoss,
    last_epoch: int | None,
) -> None:
    recipe = state.recipe
    device = next(model.parameters()).device
    forward = training_forward(model, recipe.precision, device)
    while state.epoch < (recipe.epochs if last_epoch is None else last_epoch):
        model.train()
        for inputs, targets in _batches(model, data, state):
            state.set_learning_rate()
            seed_everything(derive_seed(recipe.seed, "step", state.step), device)
            with autocast(recipe.precision, device):
                outputs = forward(inputs)
                value = loss(inputs, outputs, targets)
            state.optimizer.zero_grad()
            value.backward()
            state.optimizer.step()
            state.add_batch(value.detach(), outputs.detach(), targets)
            for callback in callbacks:
                callback.after_step(state)
            if state.batch < state.batches_per_epoch:
                _between_steps(callbacks, state)
        for callback in callbacks:
            callback.after_epoch(state)
        state.begin_epoch(state.epoch + 1)
        _between_steps(callbacks, state)


def _batches(model: nn.Module, data: Dataset, state: TrainingState) -> Iterator[tuple[Tensor, Tensor]]:
    """The remaining batches of the current epoch: shuffled and augmented."""
    recipe = state.recipe
    shuffle = torch.Generator().manual_seed(derive_seed(recipe.seed, "shuffle", state.epoch))
    batches = data.train.batches(
        recipe.batch_size,
        order=torch.randperm(len(data.train), generator=shuffle),
        start=state.batch,
        augmentation_seed=derive_seed(recipe.seed, "augment", state.epoch),
        channels_last=is_channels_last(model),
    )
    return itertools.islice(batches, state.batches_per_epoch - state.batch)


def _between_steps(callbacks: Sequence[Callback], state: TrainingState) -> None:
    for callback in callbacks:
        callback.between_steps(state)
