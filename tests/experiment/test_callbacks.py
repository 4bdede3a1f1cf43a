"""Callbacks of a run, around the real training loop of a small session."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import SilentObserver, StoppingObserver, events, small_mnist

from pruning.config.resolution import resolve
from pruning.core.masks import Masks
from pruning.errors import DivergedError, InterruptedRunError
from pruning.experiment.callbacks import AfterEpoch, PruneDuringTraining
from pruning.experiment.dense_cache import dense_recipe
from pruning.experiment.events import BatchLogged, Evaluated, Event
from pruning.experiment.fit import fit
from pruning.experiment.progress import TrainingSnapshot
from pruning.experiment.session import Session
from pruning.experiment.setup import prepare

BATCHES = 4  # in an epoch: 90 training images in batches of 25


class RecordingObserver(SilentObserver):
    """Keeps every event and every progress."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.steps: list[tuple[int, int]] = []

    def event(self, event: Event) -> None:
        self.events.append(event)

    def progress(self, done: int, total: int) -> None:
        self.steps.append((done, total))


def small_session(folder: Path, observer: SilentObserver, **options: object) -> Session:
    """A session of two dense epochs and no fine-tuning whose log is open."""
    images = small_mnist(folder / ".images", train=100, test=20)
    place = {"dataset": "mnist", "data": images, "runs_dir": folder, "name": "run"}
    training = {"epochs": 2, "batch_size": 25, "finetune": "none", "log_interval": 3}
    session = prepare(resolve({**place, **training, **options}), observer)
    session.log.open()
    return session


def train_dense(session: Session, *callbacks: object, saved: list[TrainingSnapshot] | None = None) -> None:
    save = (lambda snapshot: None) if saved is None else saved.append
    recipe = dense_recipe(session.config, None)
    fit(session, recipe, None, save, callbacks=callbacks, phase="dense")  # type: ignore[arg-type]


def test_batches_are_logged_every_interval_and_at_the_end_of_an_epoch(tmp_path: Path) -> None:
    observer = RecordingObserver()
    train_dense(small_session(tmp_path, observer))
    logged = [(event.epoch, event.batch) for event in observer.events if isinstance(event, BatchLogged)]
    assert logged == [(1, 3), (1, BATCHES), (2, 3), (2, BATCHES)]
    in_file = [(one["epoch"], one["batch"]) for one in events(tmp_path / "run") if one["event"] == "batch"]
    assert in_file == logged


def test_every_epoch_is_validated_on_the_validation_split_alone(tmp_path: Path) -> None:
    observer = RecordingObserver()
    train_dense(small_session(tmp_path, observer))
    evaluated = [event for event in observer.events if isinstance(event, Evaluated)]
    assert [(event.epoch, event.split) for event in evaluated] == [(1, "validation"), (2, "validation")]


def test_progress_ends_at_the_steps_of_the_training(tmp_path: Path) -> None:
    observer = RecordingObserver()
    train_dense(small_session(tmp_path, observer))
    assert observer.steps[-1] == (2 * BATCHES, 2 * BATCHES)
    assert observer.steps == sorted(observer.steps)


def test_a_checkpoint_is_saved_after_every_interval(tmp_path: Path) -> None:
    often: list[TrainingSnapshot] = []
    train_dense(small_session(tmp_path, SilentObserver(), checkpoint_interval=1e-9), saved=often)
    assert len(often) == 2 * BATCHES + 1
    never: list[TrainingSnapshot] = []
    train_dense(small_session(tmp_path, SilentObserver(), checkpoint_interval=1000), saved=never)
    assert never == []


def test_a_checkpoint_is_saved_when_a_signal_stops_the_run(tmp_path: Path) -> None:
    saved: list[TrainingSnapshot] = []
    with pytest.raises(InterruptedRunError):
        train_dense(small_session(tmp_path, StoppingObserver(3)), saved=saved)
    ((_, position),) = saved
    assert position == {"epoch": 0, "batch": 2, "seen": 50}


def test_a_diverged_training_is_not_saved(tmp_path: Path) -> None:
    saved: list[TrainingSnapshot] = []
    session = small_session(tmp_path, StoppingObserver(3))
    with torch.no_grad():
        next(session.model.parameters()).fill_(float("nan"))
    with pytest.raises(DivergedError, match=r"nan in epoch 1.*--lr"):
        train_dense(session, saved=saved)
    assert saved == []


def test_masks_that_a_callback_replaces_are_held_in_the_next_step(tmp_path: Path) -> None:
    session = small_session(tmp_path, SilentObserver())
    pruned: list[int] = []

    def prune(steps_done: int) -> None:
        if steps_done in (2, 5):
            kept = torch.rand(session.layers[0].parameter.shape) > 0.5
            session.masks = Masks({session.layers[0].name: kept}).apply(session.model)
            pruned.append(steps_done)
        elif session.masks is not None:
            weight = session.layers[0].parameter
            mask = session.masks[session.layers[0].name]
            assert weight[~mask].count_nonzero() == 0
            assert weight[mask].count_nonzero() == int(mask.sum())

    train_dense(session, PruneDuringTraining(prune))
    assert pruned == [2, 5]


def test_the_action_after_an_epoch_receives_the_number_of_complete_epochs(tmp_path: Path) -> None:
    epochs: list[int] = []
    train_dense(small_session(tmp_path, SilentObserver()), AfterEpoch(epochs.append))
    assert epochs == [1, 2]
