"""Train a run's network, with everything that a run adds to the training loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pruning.errors import DivergedError
from pruning.experiment.callbacks import (
    HoldMasks,
    LogBatches,
    SaveCheckpoints,
    ShowProgress,
    StopOnSignal,
    Validate,
)
from pruning.experiment.progress import TrainingSnapshot
from pruning.experiment.session import Session
from pruning.training.loop import Callback, train
from pruning.training.recipe import Recipe, TrainingLoss, cross_entropy
from pruning.training.state import NotFiniteError, TrainingState


def fit(
    session: Session,
    recipe: Recipe,
    resumed: TrainingSnapshot | None,
    save: Callable[[TrainingSnapshot], None],
    *,
    loss: TrainingLoss = cross_entropy,
    last_epoch: int | None = None,
    callbacks: Sequence[Callback] = (),
    **position: Any,
) -> None:
    """Train the network of a run to the end of `recipe`, or of its epoch `last_epoch`.

    The callbacks of every run come first, then the additional `callbacks`, and masks are held last, because a callback
    may replace them.

    Args:
        resumed: Where the training was interrupted; None to begin it.
        save: Saves the run with the state of this training.
        position: Phase and round, for the events.

    Raises:
        DivergedError: The loss became NaN or infinite. The last checkpoint is from before that.
        InterruptedRunError: A signal stopped the run, which is saved.
    """
    state = TrainingState(session.model, recipe, len(session.data.train))
    session.accumulated.follow(state.optimizer)
    if resumed is not None:
        state.unpack(*resumed)
    progress = ShowProgress(session)
    before = session.steps_done
    every_run: list[Callback] = [
        LogBatches(session, position),
        Validate(session, position),
        progress,
        SaveCheckpoints(session.config.checkpoint_interval, lambda at: save(at.pack())),
        StopOnSignal(session),
    ]
    try:
        train(
            session.model,
            session.data,
            state,
            [*every_run, *callbacks, HoldMasks(session)],
            loss=loss,
            last_epoch=last_epoch,
        )
    except NotFiniteError as error:
        session.steps_done = before + state.steps - recipe.first_epoch * state.batches_per_epoch
        raise DivergedError(str(error), recipe.precision) from None
    if session.masks is not None:
        # Holding multiplies by zero, which leaves -0.0 where a weight was negative. Now they are all +0.0.
        session.masks.apply(session.model)
    progress.show(state)
