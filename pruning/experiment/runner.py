"""The experiment: train, then per round score -> mask -> fine-tune -> measure (Blalock et al. 2020, algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from pruning.axes.finetuning import FinetuneContext, FinetunePlan
from pruning.config.run_config import RunConfig
from pruning.core.masks import FORMAT as MASKS_FORMAT
from pruning.core.masks import Masks
from pruning.core.prune import plan
from pruning.errors import DivergedError
from pruning.experiment import records, run_files, shared_rounds
from pruning.experiment.dense_cache import Origins, dense_network
from pruning.experiment.dense_cache import recipe as dense_recipe
from pruning.experiment.events import (
    Observer,
    Pruned,
    Resumed,
    RoundFinished,
    RoundsShared,
    RunFinished,
    ScoringStarted,
)
from pruning.experiment.session import Session
from pruning.experiment.setup import check_outputs, networks_to_time, new_network, prepare
from pruning.experiment.targets import Step
from pruning.measure import latency, storage
from pruning.measure.macs import trace_macs
from pruning.measure.parameters import count_parameters
from pruning.registry import FINETUNINGS
from pruning.training import machine
from pruning.utils import file_locks, files
from pruning.utils.modules import is_channels_last

EQUAL = 1e-9  # points of top-1, fewer than one image is worth: what the arithmetic of percentages may add
STAGES = ("dense_training", "scoring", "masking", "finetuning", "evaluation", "total")


def run(config: RunConfig, observer: Observer, *, fresh: bool = False) -> dict[str, Any]:
    """Do the experiment, or what is left of it, and return its record (the contents of result.json).

    Raises PruningError before anything is written if the options make no experiment, RunStoppedError if it cannot go
    on, InterruptedRunError if the observer says so; everything done until then is saved.
    """
    with machine.trouble_explained():
        check_outputs(config, fresh=fresh)
        return _run(prepare(config, observer), fresh=fresh or config.dry_run)


def _run(session: Session, *, fresh: bool) -> dict[str, Any]:
    with file_locks.hold(session.folder.lock, f"The run {session.folder.path.name}"):
        if fresh:
            session.folder.clear()
        elif (result := session.folder.read_result()) is not None:
            return result
        session.announce()
        origins = begin(session, fresh=fresh)
        for number in range(len(session.progress.rounds) + 1, session.config.rounds + 1):
            tuning = policy(session, number, origins)
            if session.progress.masked is None:
                prune(session, number, tuning)
            try:
                finetune(session, number, tuning)
            except DivergedError as error:
                if session.config.max_drop is None:
                    raise
                give_up_round(session, number, error)
            else:
                close_round(session, number)
        return finish(session)


def begin(session: Session, *, fresh: bool) -> Origins:
    """Come to the dense network, or to where an earlier process left the run; return what fine-tuning goes back to."""
    records.refuse_other_run(session.config)
    saved = session.checkpoints.load()
    if saved is not None:
        session.check_basis(saved[1]["basis"])
    shared = shared_rounds.find(session) if session.config.share_rounds and not (saved or fresh) else None
    session.folder.write_config(session.config.to_dict())
    origins = Origins()
    if saved is not None:
        session.open_log(saved[1]["progress"]["log_length"], resumed=True)
    if found := saved or shared:
        if session.needs_rewind_state or session.needs_teacher:
            origins = dense_network(session, fresh=False)
        _go_on_from(session, *found, shared=saved is None)
    else:
        origins = dense_network(session, fresh=fresh)
        if session.config.dry_run:
            session.warn(
                "Dry run: two batches of every pass over the data, so that no number here means anything."
            )
        session.progress.dense = session.measured("dense")
        if session.config.max_drop is not None:
            session.accept()
        session.save()
    return origins


def policy(session: Session, number: int, origins: Origins) -> FinetunePlan:
    """How round `number` trains after its pruning."""
    config = session.config
    dense = replace(
        dense_recipe(config, session.limit), seed=machine.derive_seed(config.seed, "finetune", number)
    )
    replay = replace(dense, first_epoch=config.rewind_epoch)
    rate = config.finetune_lr
    own = (
        replay if rate is None else replace(dense, epochs=config.finetune_epochs, peak_lr=rate, base_lr=None)
    )
    found: FinetunePlan = FINETUNINGS.get(config.finetune)(
        FinetuneContext(
            recipe=own,
            replay=replay,
            network=lambda: new_network(session, machine.derive_seed(config.seed, "reinit", number)),
            rewound=origins.rewound,
            dense=origins.dense,
            distill_weight=config.distill_weight,
            distill_temperature=config.distill_temperature,
        )
    )
    return found


def prune(session: Session, number: int, tuning: FinetunePlan) -> None:
    """Remove what round `number` removes at its beginning, evaluate, put the weights in place to fine-tune from."""
    remove_at(session, number, 0)
    session.progress.masked = session.evaluate("pruned", round=number)
    if tuning.start is not None:
        tuning.start(session.model)
        session.accumulated.clear()  # what was added up so far was of the weights that are replaced
    if session.masks is not None:
        session.masks.apply(session.model)
    session.save()


def remove_at(session: Session, number: int, batch: int) -> None:
    """Do the pruning that is due after so many batches of the round's fine-tuning, if there is one."""
    for step in session.prunings_of(number):
        if step.batch == batch:
            remove(session, number, step)


def remove(session: Session, number: int, step: Step) -> None:
    """Score the weights as they are, and remove the lowest up to the step's amount."""
    config, amount = session.config, step.amount
    within = {"batch": step.batch} if step.batch else {}
    seed = machine.derive_seed(config.seed, "score", number, *within.values())
    order = torch.randperm(len(session.data.train), generator=torch.Generator().manual_seed(seed))
    batches = session.data.train.batches(
        config.batch_size, order=order, channels_last=is_channels_last(session.model)
    )
    session.emit(ScoringStarted(round=number, **within, method=config.method))
    planned = plan(
        session.model,
        config.method,
        amount.sparsity if amount.by_layer is None else amount.by_layer,
        amount.count,
        _until_stopped(islice(batches, session.limit or config.score_batches), session),
        config.include,
        config.exclude,
        seed,
        structure=config.structure,
        floor=config.floor,
        masks=session.masks,
        accumulated=session.accumulated,
        prune_classifier=config.prune_classifier,
        stage=lambda name: _stage(session, name),
    )
    masks = session.masks = planned.apply()
    session.accumulated.clear()
    _warn_of_empty_layers(session, masks)
    session.emit(
        Pruned(
            round=number,
            **within,
            target_sparsity=step.target,
            sparsity=masks.sparsity,
            removed=masks.removed,
            prunable=masks.total,
        )
    )


def finetune(session: Session, number: int, tuning: FinetunePlan) -> None:
    """Train what is left, holding the masks, with the prunings in between that are due there."""
    with session.clock.stage("finetuning"):
        session.train(
            tuning.recipe,
            session.take_training(),
            session.save,
            loss=tuning.loss,
            between_batches=partial(remove_at, session, number),
            phase="finetune",
            round=number,
        )


def close_round(session: Session, number: int) -> None:
    """Measure the fine-tuned network and enter the round in the record; a round that went too far is taken back."""
    entry = {**_begun(session, number), **session.measured("finetuned", round=number)}
    if session.config.max_drop is not None:
        entry["held"] = accept_or_go_back(session, entry["validation_top1"])
    _enter(session, entry)


def give_up_round(session: Session, number: int, error: DivergedError) -> None:
    """Take back a round of a search whose training diverged: it did not hold, and there is no accuracy to record."""
    assert session.masks is not None
    session.masks.apply(session.model)  # holding multiplies by zero, which leaves NaN where the weight was
    entry = {**_begun(session, number), **session.metrics({}), "held": False}
    session.roll_back(
        f"Round {number} counts as one that went too far, because its fine-tuning diverged: {error.what} "
        "(a lower --finetune-lr may prevent that)."
    )
    _enter(session, entry)


def _begun(session: Session, number: int) -> dict[str, Any]:
    """What a round's entry says of how it began."""
    assert session.progress.masked is not None
    return {
        "round": number,
        "target_sparsity": session.prunings_of(number)[-1].target,
        "top1_before_finetune": session.progress.masked["top1"],
    }


def _enter(session: Session, entry: dict[str, Any]) -> None:
    """Put a round that is over in the record, and save."""
    session.progress.rounds.append(entry)
    session.progress.masked = None
    session.emit(RoundFinished(entry=entry))
    if session.config.share_rounds:
        shared_rounds.keep(session)
    session.save()


def accept_or_go_back(session: Session, validation_top1: float) -> bool:
    """Whether the network stays within --max-drop of the dense one; if not, the last that did is put in its place."""
    assert session.progress.dense is not None and session.config.max_drop is not None
    held = validation_top1 >= session.progress.dense["validation_top1"] - session.config.max_drop - EQUAL
    if held:
        session.accept()
    else:
        session.roll_back()
    return held


def finish(session: Session) -> dict[str, Any]:
    """Write network, masks and, last, the record; return the record."""
    config, folder, progress = session.config, session.folder, session.progress
    assert progress.dense is not None
    if session.masks is None:
        session.warn(
            f"No round stayed within --max-drop {config.max_drop:g} of the dense network's validation top-1 "
            f"({progress.dense['validation_top1']:.2f} %): the network left is the dense one, and nothing is removed."
        )
    masks = _nothing_removed(session) if session.masks is None else session.masks
    files.write_tensors(folder.model, session.model.state_dict())
    files.write_tensors(folder.masks, masks.tensors(), about=MASKS_FORMAT)
    network = config.saved_model_path()
    if network is not None:
        files.write_network(network, session.model.state_dict())
    entry = records.final_network(progress.dense, progress.rounds)
    final = {key: value for key, value in entry.items() if key in progress.dense}
    result: dict[str, Any] = {
        "schema_version": run_files.SCHEMA_VERSION,
        "name": folder.path.name,
        "config": config.to_dict(),
        "environment": machine.environment(session.device),
        "dense": progress.dense,
        "rounds": progress.rounds,
        "final": final,
        "layers": session.layer_table(),
        "bytes": asdict(storage.weigh(session.model.state_dict())),
        "warnings": progress.warnings,
    }
    if session.files:
        result["files"] = session.files
    if config.share_rounds:
        result["shared_rounds"] = progress.shared_rounds
    if config.measure_seconds > 0:
        networks = networks_to_time(session)
        if "shrunk" in networks:
            result["shrunk"] = weigh_shrunk(networks["shrunk"], session)
        result["measured"] = latency.compare(networks, session.data.shape, seconds=config.measure_seconds)
    session.clock.lap()
    result["timing"] = {stage: progress.timing.get(stage, 0.0) for stage in STAGES}
    session.emit(RunFinished(path=str(folder.path), final=final))
    return folder.write_result(result)


def weigh_shrunk(network: nn.Module, session: Session) -> dict[str, Any]:
    """What the network without its removed filters comes to, beside the dense one."""
    dense = session.progress.dense
    assert dense is not None
    parameters, macs = count_parameters(network), trace_macs(network, session.data.shape).remaining(network)
    left, used = parameters.nonzero_parameters, macs.nonzero_macs
    return {
        "compression_ratio": dense["parameters"] / left if left else None,
        "theoretical_speedup": dense["macs"] / used if used else None,
        "parameters": parameters.parameters,
        "nonzero_parameters": left,
        "macs": macs.macs,
        "nonzero_macs": used,
        "stored_bytes": storage.weigh(network.state_dict()).stored_bytes,
    }


def _go_on_from(
    session: Session, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], *, shared: bool
) -> None:
    """Take up what this run saved, or rounds of another run that began with the same."""
    if session.log is None:
        session.open_log(0)
    session.restore(tensors, facts)
    rounds = len(session.progress.rounds)
    session.emit(RoundsShared(rounds=rounds) if shared else Resumed(rounds=rounds))
    if shared:
        session.progress.shared_rounds = rounds
        session.save()


def _nothing_removed(session: Session) -> Masks:
    return Masks({layer.name: torch.ones_like(layer.parameter, dtype=torch.bool) for layer in session.layers})


@contextmanager
def _stage(session: Session, name: str) -> Iterator[None]:
    """A stage of the pruning, before which the run may be stopped."""
    session.observer.check_stop()
    with session.clock.stage(name):
        yield


def _until_stopped(batches: Iterator[Any], session: Session) -> Iterator[Any]:
    for batch in batches:
        session.observer.check_stop()
        yield batch


def _warn_of_empty_layers(session: Session, masks: Masks) -> None:
    for layer in masks.layers():
        if layer.nonzero == 0:
            session.warn(
                f"{layer.name} has none of its {layer.weights:,} weights left: nothing passes through it but its bias."
            )
