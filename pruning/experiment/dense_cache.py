"""The dense network: trained once for everything that determines it, then taken from the cache.

Runs that differ only in how they prune share one dense training. While one process trains it the others wait; one that
is killed leaves checkpoints, from which the next goes on.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruning import models
from pruning.config.options import DENSE_GROUPS
from pruning.config.run_config import RunConfig
from pruning.data import Dataset
from pruning.experiment.events import DenseReady, DenseWaiting
from pruning.experiment.run_files import Checkpoints, DenseFolder, dense_folder
from pruning.experiment.session import Session, pack, unpack
from pruning.training.loop import Recipe
from pruning.training.machine import derive_seed
from pruning.utils.digests import digest, file_digest
from pruning.utils.file_locks import hold
from pruning.utils.files import read_tensors, write_tensors

REVISION = 3  # to be raised whenever a change of the code changes what dense training gives


def basis(config: RunConfig, device: torch.device, data: Dataset, model: nn.Module) -> dict[str, Any]:
    """All that the dense network, and what adds up over its training, depend on.

    Options, but files by their contents, and hardware and versions.
    """
    options = config.values_of(DENSE_GROUPS)
    for irrelevant in ("test_batch_size", "data", "weights", "device", "threads"):
        del options[irrelevant]
    return {
        **options,
        "dry_run": config.dry_run,
        "images": data.fingerprint(),
        "starting_weights": None if config.weights is None else file_digest(config.weights),
        "network_source": _source_digest(config.arch, model),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "revision": REVISION,
        **config.accumulation_key(),
    }


def _source_digest(arch: str, model: nn.Module) -> str:
    """Digest of the files that define the network: its modules' classes, and what puts them together."""
    sources = models.source_files(arch)
    for kind in {type(module) for module in model.modules()}:
        with contextlib.suppress(OSError, TypeError):
            sources.add(Path(inspect.getfile(kind)))
    return digest(sorted({file_digest(source) for source in sources if source.is_file()}))


@dataclass(frozen=True)
class Origins:
    """States of the dense network that a policy needs: at `rewind_epoch`, and at the end; None where it does not."""

    rewound: Mapping[str, Tensor] | None = None
    dense: Mapping[str, Tensor] | None = None


def dense_network(session: Session, *, fresh: bool) -> Origins:
    """Leave the trained dense network in `session.model`; return what the fine-tuning policy needs of it.

    What the score goes by was added up over that training, whoever did it, and is left in `session.accumulated`.
    `session.model` comes with its initial weights. `fresh` trains anew, whatever the cache holds.
    """
    config = session.config
    needs_rewind_state = session.needs_rewind_state
    folder = dense_folder(config.runs_dir, digest(session.basis)[:16])
    initial = (
        {name: tensor.clone() for name, tensor in session.model.state_dict().items()}
        if needs_rewind_state
        else {}
    )

    def tell_waiting(holder: str) -> None:
        session.emit(
            DenseWaiting(message=f"The same dense training is being done by {holder}; waiting for it.")
        )

    with hold(folder.lock, "The dense training", tell_waiting, session.observer.check_stop):
        if fresh:
            folder.clear()
        facts = folder.read_facts()
        cached = facts is not None
        if facts is None:
            facts = _train(session, folder)
        rewind = _snapshot(session, folder, initial) if needs_rewind_state else None
        network = read_tensors(folder.network)
        session.model.load_state_dict(network)
        if session.accumulated:
            session.accumulated.load(read_tensors(folder.accumulated))
    if session.log is None:
        session.open_log(0)
    session.progress.timing["dense_training"] = facts["seconds"]
    session.batches_done = session.dense_batches
    session.emit(DenseReady(cached=cached, key=folder.path.name))
    return Origins(rewind, network if session.needs_teacher else None)


def recipe(config: RunConfig, limit: int | None) -> Recipe:
    """How the dense network is trained."""
    return Recipe(
        epochs=config.epochs,
        batch_size=config.batch_size,
        peak_lr=config.max_lr or config.lr,
        base_lr=config.lr if config.max_lr is not None else None,
        weight_decay=config.weight_decay,
        precision=config.precision,
        seed=derive_seed(config.seed, "dense"),
        limit=limit,
    )


def _train(session: Session, folder: DenseFolder) -> dict[str, Any]:
    """Train the network, from the last checkpoint if there is one, and put it in the cache."""
    checkpoints = Checkpoints(folder.state)
    run = session.folder.path.name
    found = checkpoints.load()
    saved = None
    log_length = 0
    if found is not None:
        tensors, facts = found
        session.model.load_state_dict(unpack(tensors, "model"))
        session.accumulated.load(unpack(tensors, "accumulated"))
        saved = unpack(tensors, "training"), facts["position"]
        session.progress.timing.update(facts["timing"])
        log_length = facts["log_length"] if facts["run"] == run else 0
    log = session.log or session.open_log(log_length, resumed=found is not None)

    def save(training: Mapping[str, Tensor], position: Mapping[str, int]) -> None:
        session.clock.lap()
        tensors = pack(
            model=session.model.state_dict(), training=training, accumulated=session.accumulated.tensors()
        )
        timing = session.progress.timing
        checkpoints.save(
            tensors, {"position": position, "timing": timing, "run": run, "log_length": log.length}
        )

    def snapshot(epoch: int) -> None:
        if epoch == session.config.rewind_epoch and session.needs_rewind_state:
            write_tensors(folder.snapshot(epoch), session.model.state_dict())

    with session.clock.stage("dense_training"):
        session.train(recipe(session.config, session.limit), saved, save, on_epoch=snapshot, phase="dense")
    write_tensors(folder.network, session.model.state_dict())
    if session.accumulated:
        write_tensors(folder.accumulated, session.accumulated.tensors())
    facts = {"seconds": session.progress.timing["dense_training"], "basis": session.basis}
    folder.write_facts(facts)
    return facts


def _snapshot(session: Session, folder: DenseFolder, initial: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The network's state at `rewind_epoch`; where nobody kept it whole, that much of the training is done again.

    Training is deterministic, so the state is the one that the dense training went through.
    """
    file = folder.snapshot(session.config.rewind_epoch)
    with contextlib.suppress(FileNotFoundError, ValueError):
        return read_tensors(file)
    session.model.load_state_dict(initial)
    again = recipe(session.config, session.limit)
    with session.clock.stage("dense_training"):
        session.train(again, None, lambda *_: None, epochs=session.config.rewind_epoch, phase="dense prefix")
    write_tensors(file, session.model.state_dict())
    return read_tensors(file)
