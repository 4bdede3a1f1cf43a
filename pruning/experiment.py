"""The experiment: train, then per round score -> mask -> fine-tune -> measure (Blalock et al. 2020, algorithm 1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from pruning import machine, records, run_files, trajectories
from pruning.config import RunConfig
from pruning.dense import dense_network
from pruning.masks import FORMAT as MASKS_FORMAT
from pruning.masks import Masks
from pruning.measure import latency, storage
from pruning.preparation import check_outputs, dense_twin, prepare
from pruning.registry import FINETUNINGS
from pruning.session import Observer, Session
from pruning.step import choose
from pruning.training import Recipe, lies_channels_last

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
    with run_files.hold(session.folder.lock, f"The run {session.folder.path.name}"):
        if fresh:
            session.folder.clear()
        elif (result := session.folder.read_result()) is not None:
            return result
        session.announce()
        rewind = begin(session, fresh=fresh)
        for number in range(len(session.progress.rounds) + 1, session.config.rounds + 1):
            if session.progress.masked is None:
                prune(session, number, rewind)
            finetune(session, number)
            close_round(session, number)
        return finish(session)


def begin(session: Session, *, fresh: bool) -> Mapping[str, Tensor] | None:
    """Come to the dense network, or to where an earlier process left the run; return the state to rewind to, if any."""
    records.refuse_other_run(session.config)
    saved = session.checkpoints.load()
    if saved is not None:
        session.check_basis(saved[1]["basis"])
    shared = trajectories.find(session) if session.config.share_rounds and not (saved or fresh) else None
    session.folder.write_config(session.config.plain())
    rewind = None
    if found := saved or shared:
        session.open_log(saved[1]["progress"]["log_length"] if saved else 0, resumed=saved is not None)
        if session.rewinds:
            rewind = dense_network(session, fresh=False)
        session.restore(*found)
        _tell_where_it_goes_on(session, shared=saved is None)
    else:
        rewind = dense_network(session, fresh=fresh)
        session.progress.dense = session.metrics(session.evaluate("dense"))
        session.save()
    if session.config.dry_run:
        session.warn(
            "Dry run: two batches of every pass over the data, so that no number here means anything."
        )
    return rewind


def prune(session: Session, number: int, rewind: Mapping[str, Tensor] | None) -> None:
    """Remove what round `number` shall have removed, evaluate, and put the weights in place to fine-tune from."""
    config = session.config
    step = session.steps[number - 1]
    amount = step.amount
    seed = machine.derive_seed(config.seed, "score", number)
    order = torch.randperm(len(session.data.train), generator=torch.Generator().manual_seed(seed))
    batches = session.data.train.batches(
        config.batch_size, order=order, channels_last=lies_channels_last(session.model)
    )
    session.emit("scoring", round=number, method=config.method)
    masks = choose(
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
        prune_classifier=config.prune_classifier,
        stage=session.clock.stage,
    )
    session.masks = masks.apply(session.model)
    _warn_of_empty_layers(session, masks)
    session.emit(
        "pruning",
        round=number,
        target_sparsity=step.target,
        sparsity=masks.sparsity,
        removed=masks.removed,
        prunable=masks.total,
    )
    session.progress.masked = session.evaluate("pruned", round=number)
    FINETUNINGS.get(config.finetune)(session.model, rewind)
    masks.apply(session.model)
    session.save()


def finetune(session: Session, number: int) -> None:
    """Train what is left, holding the masks."""
    config = session.config
    if not FINETUNINGS.entry(config.finetune).about["trains"]:
        return
    recipe = Recipe(
        epochs=config.finetune_epochs,
        batch_size=config.batch_size,
        peak_lr=config.finetune_lr,
        base_lr=None,
        weight_decay=config.weight_decay,
        precision=config.precision,
        seed=machine.derive_seed(config.seed, "finetune", number),
        limit=session.limit,
    )
    with session.clock.stage("finetuning"):
        session.train(recipe, session.take_training(), session.save, phase="finetune", round=number)


def close_round(session: Session, number: int) -> None:
    """Measure the fine-tuned network and enter the round in the record."""
    progress = session.progress
    assert progress.masked is not None
    entry = {
        "round": number,
        "target_sparsity": session.steps[number - 1].target,
        "top1_before_finetune": progress.masked["top1"],
        **session.metrics(session.evaluate("finetuned", round=number)),
    }
    progress.rounds.append(entry)
    progress.masked = None
    session.emit("round", **entry)
    if session.config.share_rounds:
        trajectories.keep(session)
    session.save()


def finish(session: Session) -> dict[str, Any]:
    """Write network, masks and, last, the record; return the record."""
    config, folder, progress = session.config, session.folder, session.progress
    assert session.masks is not None and progress.dense is not None
    run_files.write_tensors(folder.model, session.model.state_dict())
    run_files.write_tensors(folder.masks, session.masks.tensors(), about=MASKS_FORMAT)
    network = config.network_path()
    if network is not None:
        run_files.write_network(network, session.model.state_dict())
    final = {key: value for key, value in progress.rounds[-1].items() if key in progress.dense}
    result: dict[str, Any] = {
        "schema_version": run_files.SCHEMA_VERSION,
        "name": folder.path.name,
        "config": config.plain(),
        "environment": machine.environment(session.device),
        "dense": progress.dense,
        "rounds": progress.rounds,
        "final": final,
        "layers": session.layer_table(),
        "bytes": asdict(storage.weigh(session.model.state_dict())),
        "warnings": progress.warnings,
    }
    if config.share_rounds:
        result["shared_rounds"] = progress.shared_rounds
    if config.measure_seconds > 0:
        networks = {"dense": dense_twin(session), "pruned": session.model}
        result["measured"] = latency.compare(networks, session.data.shape, seconds=config.measure_seconds)
    session.clock.lap()
    result["timing"] = {stage: progress.timing.get(stage, 0.0) for stage in STAGES}
    session.emit("result", path=str(folder.path), **final)
    return folder.write_result(result)


def _tell_where_it_goes_on(session: Session, *, shared: bool) -> None:
    """After so many rounds of this run, or so many taken from another run that began with the same."""
    rounds = len(session.progress.rounds)
    if not shared:
        session.emit("resumed", rounds=rounds)
        return
    session.progress.shared_rounds = rounds
    session.emit("shared", rounds=rounds)
    session.save()


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
