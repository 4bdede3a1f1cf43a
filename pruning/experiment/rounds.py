"""One round: prune, fine-tune, measure; with --max-drop the round is then accepted or rolled back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import torch

from pruning.axes.finetuning import FinetuneContext, FinetunePlan
from pruning.core.masks import Masks
from pruning.core.prune import PruneOptions, plan
from pruning.errors import DivergedError
from pruning.experiment import checkpoint, shared_rounds
from pruning.experiment.callbacks import PruneDuringTraining
from pruning.experiment.dense_cache import DenseStates
from pruning.experiment.events import Pruned, RoundFinished, ScoringStarted
from pruning.experiment.fit import fit
from pruning.experiment.metrics import evaluate_network, measure_network, with_counts
from pruning.experiment.networks import new_network, teacher
from pruning.experiment.recipes import finetune_recipe, replay_recipe
from pruning.experiment.session import Session
from pruning.experiment.targets import PruningStep, next_step
from pruning.registry import FINETUNINGS
from pruning.training.seeds import derive_seed
from pruning.utils.modules import is_channels_last

ROUNDING_TOLERANCE = 1e-9  # tolerance for floating-point error, in percentage points


def run_round(session: Session, number: int, dense: DenseStates) -> None:
    """Run round `number`, or resume it."""
    finetuning = finetune_plan(session, number, dense)
    if session.progress.pruned is None:
        prune_network(session, number, finetuning)
    try:
        finetune(session, number, finetuning)
    except DivergedError as error:
        if session.config.max_drop is None:
            raise
        reject_diverged_round(session, number, error)
    else:
        finish_round(session, number)


def finetune_plan(session: Session, number: int, dense: DenseStates) -> FinetunePlan:
    """Return the plan of the fine-tuning policy for round `number`."""
    config = session.config
    network_seed = derive_seed(config.seed, "reinit", number)
    policy = FINETUNINGS.get(config.finetune)
    finetuning: FinetunePlan = policy(
        FinetuneContext(
            recipe=finetune_recipe(config, number, session.batch_limit),
            replay=replay_recipe(config, number, session.batch_limit),
            fresh_weights=lambda: new_network(session, network_seed).state_dict(),
            rewind_state=dense.rewind_state,
            teacher=None if dense.trained is None else teacher(session, dense.trained),
            distill_weight=config.distill_weight,
            distill_temperature=config.distill_temperature,
        )
    )
    return finetuning


def prune_network(session: Session, number: int, finetuning: FinetunePlan) -> None:
    """Prune at the start of round `number`, evaluate, and load the weights to fine-tune from."""
    prune_if_due(session, number, 0)
    session.progress.pruned = evaluate_network(session, "pruned", round=number)
    if finetuning.start_weights is not None:
        session.model.load_state_dict(finetuning.start_weights())
        session.accumulated.clear()  # the sums belong to the weights that were replaced
    if session.masks is not None:
        session.masks.apply(session.model)
    checkpoint.save(session)


def prune_if_due(session: Session, number: int, batch: int) -> None:
    """Prune if round `number` has a pruning step after `batch` batches of fine-tuning."""
    for step in pruning_steps(session, number):
        if step.batch == batch:
            prune_to(session, number, step)


def pruning_steps(session: Session, number: int) -> list[PruningStep]:
    """Return the pruning steps of round `number`; with --max-drop they depend on the earlier rounds."""
    if session.config.max_drop is None:
        return session.pruning_steps_by_round[number - 1]
    tried = [(entry["target_sparsity"], entry["held"]) for entry in session.progress.rounds[: number - 1]]
    return [next_step(session.config.schedule, tried)]


def prune_to(session: Session, number: int, step: PruningStep) -> None:
    """Score the current weights and remove those with the lowest scores until the target of `step` is reached."""
    config, amount = session.config, step.amount
    batch = step.batch or None
    seed = derive_seed(config.seed, "score", number, *([batch] if batch else []))
    order = torch.randperm(len(session.data.train), generator=torch.Generator().manual_seed(seed))
    batches = session.data.train.batches(
        config.batch_size, order=order, channels_last=is_channels_last(session.model)
    )
    session.log.emit(ScoringStarted(round=number, batch=batch, method=config.method))
    options = PruneOptions(
        method=config.method,
        sparsity=amount.sparsity if amount.by_layer is None else amount.by_layer,
        count=amount.count,
        include=config.include,
        exclude=config.exclude,
        seed=seed,
        structure=config.structure,
        floor=config.floor,
        prune_classifier=config.prune_classifier,
    )
    planned = plan(
        session.model,
        options,
        _until_stopped(islice(batches, session.batch_limit or config.score_batches), session),
        masks=session.masks,
        accumulated=session.accumulated,
        stage=lambda name: _stage(session, name),
    )
    masks = session.masks = planned.apply()
    session.accumulated.clear()
    _warn_about_empty_layers(session, masks)
    session.log.emit(
        Pruned(
            round=number,
            batch=batch,
            target_sparsity=step.target,
            sparsity=masks.sparsity,
            removed=masks.removed,
            prunable=masks.total,
        )
    )


def finetune(session: Session, number: int, finetuning: FinetunePlan) -> None:
    """Train the remaining weights, with the pruning steps that the schedule has during fine-tuning."""
    with session.clock.stage("finetuning"):
        fit(
            session,
            finetuning.recipe,
            session.take_resumed_training(),
            partial(checkpoint.save, session),
            loss=finetuning.loss,
            callbacks=[PruneDuringTraining(partial(prune_if_due, session, number))],
            phase="finetune",
            round=number,
        )


def finish_round(session: Session, number: int) -> None:
    """Measure the fine-tuned network and add the round to the record; with --max-drop, accept it or roll back."""
    entry = {**_entry_start(session, number), **measure_network(session, "finetuned", round=number)}
    if session.config.max_drop is not None:
        entry["held"] = accept_or_roll_back(session, entry["validation_top1"])
    _add_to_record(session, entry)


def reject_diverged_round(session: Session, number: int, error: DivergedError) -> None:
    """Roll back a round whose fine-tuning diverged (only with --max-drop). Its entry has no accuracy."""
    assert session.masks is not None
    # `hold` multiplies weights by the mask, so NaN stays NaN; `apply` sets pruned weights to zero.
    session.masks.apply(session.model)
    entry = {**_entry_start(session, number), **with_counts(session, {}), "held": False}
    roll_back(session)
    session.warn(
        f"Round {number} was rejected because its fine-tuning diverged: {error.what} "
        "(a lower --finetune-lr may prevent this)."
    )
    session.progress.accepted_warnings = len(session.progress.warnings)
    _add_to_record(session, entry)


def _entry_start(session: Session, number: int) -> dict[str, Any]:
    """Return the keys of a round's entry that do not depend on its fine-tuning."""
    assert session.progress.pruned is not None
    return {
        "round": number,
        "target_sparsity": pruning_steps(session, number)[-1].target,
        "top1_before_finetune": session.progress.pruned["top1"],
    }


def _add_to_record(session: Session, entry: dict[str, Any]) -> None:
    session.progress.rounds.append(entry)
    session.progress.pruned = None
    session.log.emit(RoundFinished(entry=entry))
    if session.config.share_rounds:
        shared_rounds.write(session)
    checkpoint.save(session)


def accept_or_roll_back(session: Session, validation_top1: float) -> bool:
    """Accept the network if its accuracy is within --max-drop of the dense network's; otherwise roll back."""
    assert session.progress.dense is not None and session.config.max_drop is not None
    lowest = session.progress.dense["validation_top1"] - session.config.max_drop - ROUNDING_TOLERANCE
    accepted: bool = validation_top1 >= lowest
    if accepted:
        accept(session)
    else:
        roll_back(session)
    return accepted


def accept(session: Session) -> None:
    """Keep a copy of the network, its masks and accumulated statistics, to roll back to."""
    session.accepted = {name: tensor.clone() for name, tensor in checkpoint.network_tensors(session).items()}
    session.progress.accepted_warnings = len(session.progress.warnings)


def roll_back(session: Session) -> None:
    """Restore the last accepted network, and drop the warnings since then."""
    checkpoint.load_network(session, session.accepted)
    del session.progress.warnings[session.progress.accepted_warnings :]


@contextmanager
def _stage(session: Session, name: str) -> Iterator[None]:
    """Time a stage of a pruning step, and raise before it if the run is to stop."""
    session.log.check_stop()
    with session.clock.stage(name):
        yield


def _until_stopped(batches: Iterator[Any], session: Session) -> Iterator[Any]:
    for batch in batches:
        session.log.check_stop()
        yield batch


def _warn_about_empty_layers(session: Session, masks: Masks) -> None:
    for layer in masks.layers():
        if layer.nonzero == 0:
            session.warn(
                f"{layer.name} is fully pruned: none of its {layer.weights:,} weights remains, only its bias."
            )
