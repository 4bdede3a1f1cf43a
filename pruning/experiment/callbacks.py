"""The callbacks that a run adds to the training loop, in the order in which `fit` calls them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from torch.utils.hooks import RemovableHandle

from pruning.core.masks import Masks
from pruning.errors import PruningError
from pruning.experiment.events import BatchLogged
from pruning.experiment.metrics import evaluate_network
from pruning.experiment.session import Session
from pruning.training.loop import Callback
from pruning.training.state import TrainingState

PROGRESS_INTERVAL = 0.1  # seconds between two updates of the progress bar


class ShowProgress(Callback):
    """Moves the progress bar over the steps of the whole run."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._before = session.steps_done
        self._shown_at = time.monotonic()

    def between_steps(self, state: TrainingState) -> None:
        if time.monotonic() - self._shown_at > PROGRESS_INTERVAL:
            self._shown_at = time.monotonic()
            self.show(state)

    def show(self, state: TrainingState) -> None:
        """Show the current position, which becomes the run's."""
        self._session.steps_done = self._before + state.steps_done
        self._session.log.observer.progress(self._session.steps_done, self._session.total_steps)


class LogBatches(Callback):
    """Logs loss and accuracy of the epoch so far every `interval` batches and at the end of the epoch."""

    def __init__(self, session: Session, position: dict[str, Any]) -> None:
        self._session, self._position = session, position

    def after_step(self, state: TrainingState) -> None:
        interval = self._session.config.log_interval
        if state.batch % interval == 0 or state.batch == state.batches_per_epoch:
            state.check_finite()
            self._session.log.emit(
                BatchLogged(
                    **self._position,
                    epoch=state.epoch + 1,
                    batch=state.batch,
                    batches=state.batches_per_epoch,
                    lr=state.learning_rate,
                    loss=state.mean_loss(),
                    accuracy=state.accuracy(),
                )
            )


class SaveCheckpoints(Callback):
    """Saves every `interval` seconds, and when the run is interrupted. A diverged training is not saved."""

    def __init__(self, interval: float, save: Callable[[TrainingState], None]) -> None:
        self._interval, self._save = interval, save
        self._saved_at = time.monotonic()

    def between_steps(self, state: TrainingState) -> None:
        if time.monotonic() - self._saved_at > self._interval:
            self.on_interrupt(state)
            self._saved_at = time.monotonic()

    def on_interrupt(self, state: TrainingState) -> None:
        state.check_finite()
        self._save(state)


class StopOnSignal(Callback):
    """Interrupts the training when a signal has arrived."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def between_steps(self, state: TrainingState) -> None:
        self._session.log.check_stop()


class PruneDuringTraining(Callback):
    """Calls `prune(steps_done)` after every step; it prunes where the schedule has a pruning step."""

    def __init__(self, prune: Callable[[int], None]) -> None:
        self._prune = prune

    def between_steps(self, state: TrainingState) -> None:
        if not state.steps_done:
            return
        try:
            self._prune(state.steps_done)
        except PruningError:
            state.check_finite()  # the scores of a diverged network are not finite either
            raise


class HoldMasks(Callback):
    """Holds the run's masks, also after a pruning step replaced them."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._held: tuple[Masks, RemovableHandle] | None = None

    def between_steps(self, state: TrainingState) -> None:
        masks = self._session.masks
        if masks is None or (self._held is not None and self._held[0] is masks):
            return
        if self._held is not None:
            self._held[1].remove()
        self._held = masks, masks.hold(state.optimizer)


class Validate(Callback):
    """Evaluates on the validation split after every epoch."""

    def __init__(self, session: Session, position: dict[str, Any]) -> None:
        self._session, self._position = session, position

    def after_epoch(self, state: TrainingState) -> None:
        evaluate_network(self._session, "training", "validation", epoch=state.epoch + 1, **self._position)


class AfterEpoch(Callback):
    """Calls `action(epochs)` with the number of complete epochs after every epoch."""

    def __init__(self, action: Callable[[int], None]) -> None:
        self._action = action

    def after_epoch(self, state: TrainingState) -> None:
        self._action(state.epoch + 1)
