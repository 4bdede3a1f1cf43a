"""The training loop: the calls of callbacks, and bit-identical resumed training."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from pruning.data import Dataset, Split
from pruning.errors import InterruptedRunError
from pruning.training.loop import Callback, train
from pruning.training.recipe import Recipe, cross_entropy, one_cycle
from pruning.training.state import COUNTED_TOGETHER, NotFiniteError, TrainingState

RECIPE = Recipe(
    epochs=2, batch_size=8, peak_lr=0.1, base_lr=None, weight_decay=5e-4, precision="fp32", seed=3
)


def images(count: int = 50, seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randint(0, 256, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return Split(inputs, torch.randint(0, 3, (count,), generator=generator), (0.5,), (0.25,))


def dataset(train_images: int = 50) -> Dataset:
    parts = {"train": images(train_images), "validation": images(10, 1), "test": images(10, 2)}
    return Dataset("small", ("a", "b", "c"), (1, 4, 4), **parts, mean=(0.5,), std=(0.25,), augmentation=None)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, 3))


def state_of(model: nn.Module, recipe: Recipe = RECIPE, train_images: int = 50) -> TrainingState:
    return TrainingState(model, recipe, train_images)


class Log(Callback):
    """Records position, loss, accuracy and learning rate every `interval` batches and at the end of an epoch."""

    def __init__(self, interval: int = 3) -> None:
        self.interval = interval
        self.entries: list[dict[str, Any]] = []

    def after_step(self, state: TrainingState) -> None:
        if state.batch % self.interval == 0 or state.batch == state.batches_per_epoch:
            state.check_finite()
            entry = {"epoch": state.epoch, "batch": state.batch, "lr": state.learning_rate}
            self.entries.append({**entry, "loss": state.mean_loss(), "accuracy": state.accuracy()})


class StopAfter(Callback):
    """Interrupts the training the n-th time that it may be interrupted between two steps."""

    def __init__(self, calls: int) -> None:
        self.left = calls
        self.saved: tuple[dict[str, torch.Tensor], dict[str, int]] | None = None

    def between_steps(self, state: TrainingState) -> None:
        if self.left == 0:
            raise InterruptedRunError(2)
        self.left -= 1

    def on_interrupt(self, state: TrainingState) -> None:
        tensors, position = state.pack()
        self.saved = {name: tensor.clone() for name, tensor in tensors.items()}, position


def test_a_repeated_training_gives_the_same_bits() -> None:
    first, second = network(), network()
    train(first, dataset(), state_of(first))
    torch.rand(7)  # draws of other code in between do not matter
    train(second, dataset(), state_of(second))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("calls", [0, 1, 5, 7, 8, 13, 14])
def test_a_training_interrupted_anywhere_continues_with_the_same_bits_and_log(calls: int) -> None:
    whole, interrupted, resumed = network(), network(), network()
    log, log_of_both, stop = Log(), Log(), StopAfter(calls)
    train(whole, dataset(), state_of(whole), [log])
    with pytest.raises(InterruptedRunError):
        train(interrupted, dataset(), state_of(interrupted), [log_of_both, stop])
    assert stop.saved is not None
    resumed.load_state_dict(interrupted.state_dict())
    state = state_of(resumed)
    state.unpack(*stop.saved)
    train(resumed, dataset(), state, [log_of_both])
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert log_of_both.entries == log.entries


def test_a_training_interrupted_at_the_end_of_an_epoch_resumes_with_that_end() -> None:
    class InterruptEpoch(StopAfter):
        def after_epoch(self, state: TrainingState) -> None:
            raise InterruptedRunError(2)

    class Epochs(Callback):
        def __init__(self) -> None:
            self.calls: list[str] = []

        def between_steps(self, state: TrainingState) -> None:
            self.calls.append("between steps")

        def after_epoch(self, state: TrainingState) -> None:
            self.calls.append(f"after epoch {state.epoch}, batch {state.batch}")

    model, stop, epochs = network(), InterruptEpoch(100), Epochs()
    with pytest.raises(InterruptedRunError):
        train(model, dataset(), state_of(model), [stop])
    assert stop.saved is not None
    state = state_of(model)
    state.unpack(*stop.saved)
    train(model, dataset(), state, [epochs])
    assert epochs.calls[:2] == ["after epoch 0, batch 7", "between steps"]
    assert epochs.calls[-2:] == ["after epoch 1, batch 7", "between steps"]


def test_training_to_an_epoch_equals_the_first_epochs_of_the_whole_training() -> None:
    class Weights(Callback):
        def __init__(self, model: nn.Module) -> None:
            self.model = model
            self.after: list[torch.Tensor] = []

        def after_epoch(self, state: TrainingState) -> None:
            self.after.append(self.model[1].weight.detach().clone())

    whole, part = network(), network()
    weights = Weights(whole)
    train(whole, dataset(), state_of(whole), [weights])
    train(part, dataset(), state_of(part), last_epoch=1)
    assert torch.equal(part[1].weight, weights.after[0])
    assert not torch.equal(part[1].weight, weights.after[1])


def test_a_training_from_a_later_epoch_has_the_learning_rates_of_that_epoch() -> None:
    later, model, log = dataclasses.replace(RECIPE, first_epoch=1), network(), Log()
    train(model, dataset(), state_of(model, later), [log])
    assert [(entry["epoch"], entry["batch"]) for entry in log.entries] == [(1, 3), (1, 6), (1, 7)]
    assert [entry["lr"] for entry in log.entries] == [one_cycle(7 + step, 14, 0.1) for step in (2, 5, 6)]


def test_the_given_loss_receives_inputs_outputs_and_targets_and_is_minimised() -> None:
    def loss(inputs: torch.Tensor, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        assert len(inputs) == len(outputs) == len(targets)
        return cross_entropy(inputs, outputs, targets) * 0 + 4

    model, log = network(), Log()
    train(model, dataset(), state_of(model), [log], loss=loss)
    assert {entry["loss"] for entry in log.entries} == {4.0}


def test_a_loss_that_is_not_finite_is_found_by_check_finite() -> None:
    model = network()
    with torch.no_grad():
        model[1].weight.fill_(float("nan"))
    with pytest.raises(NotFiniteError, match="nan in epoch 1"):
        train(model, dataset(), state_of(model), [Log()])


def test_mean_loss_and_accuracy_cover_all_images_of_the_epoch_so_far() -> None:
    """With more batches than are counted together, and a smaller last one."""
    number, losses, hits = 165, [], []
    assert number // RECIPE.batch_size > COUNTED_TOGETHER

    def loss(inputs: torch.Tensor, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        per_image = nn.functional.cross_entropy(outputs, targets, reduction="none")
        losses.extend(per_image.tolist())
        hits.extend((outputs.argmax(1) == targets).tolist())
        return per_image.mean()

    model, log = network(), Log(interval=19)
    recipe = dataclasses.replace(RECIPE, epochs=1)
    train(model, dataset(number), state_of(model, recipe, number), [log], loss=loss)
    assert [entry["batch"] for entry in log.entries] == [19, 21]
    for entry, seen in zip(log.entries, (19 * 8, 165), strict=True):
        assert entry["loss"] == pytest.approx(sum(losses[:seen]) / seen, rel=1e-5)
        assert entry["accuracy"] == 100 * sum(hits[:seen]) / seen


def test_every_image_is_seen_once_per_epoch() -> None:
    seen: list[int] = []

    class Recording(nn.Linear):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            seen.extend(inputs.flatten(1).sum(1).mul(1e4).round().long().tolist())
            return super().forward(inputs.flatten(1))

    model = Recording(16, 3)
    train(model, dataset(), state_of(model), last_epoch=1)
    (whole,) = [inputs for inputs, _ in images().batches(50)]
    assert sorted(seen) == sorted(whole.flatten(1).sum(1).mul(1e4).round().long().tolist())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_steps_on_a_gpu_do_not_synchronise_between_logs() -> None:
    class ForbidSynchronising(StopAfter):
        def between_steps(self, state: TrainingState) -> None:
            super().between_steps(state)
            if state.batch:  # the first batch sets the epoch up
                torch.cuda.set_sync_debug_mode("error")

        def on_interrupt(self, state: TrainingState) -> None:
            torch.cuda.set_sync_debug_mode("default")

    number = 50 * COUNTED_TOGETHER
    model, data = network().cuda(), dataset(number)
    assert isinstance(data.train, Split)
    split = dataclasses.replace(
        data.train, inputs=data.train.inputs.cuda(), targets=data.train.targets.cuda()
    )
    stop = ForbidSynchronising(2 * COUNTED_TOGETHER)
    try:
        with pytest.raises(InterruptedRunError):
            train(model, dataclasses.replace(data, train=split), state_of(model, RECIPE, number), [stop])
    finally:
        torch.cuda.set_sync_debug_mode("default")
