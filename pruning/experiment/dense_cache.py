"""The dense network: trained once for everything that determines it, then read from the cache.

Runs that differ only in how they prune share one dense training. While one process trains, the others wait. A killed
training leaves checkpoints, from which the next process continues.
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
from pruning.experiment.callbacks import AfterEpoch
from pruning.experiment.checkpoint import pack_groups, unpack_group
from pruning.experiment.events import DenseReady, DenseWaiting
from pruning.experiment.fit import fit
from pruning.experiment.progress import TrainingSnapshot
from pruning.experiment.recipes import dense_recipe
from pruning.experiment.run_files import DenseFolder, dense_folder
from pruning.experiment.session import Session
from pruning.utils.digests import digest, file_digest
from pruning.utils.file_locks import file_lock
from pruning.utils.files import read_tensors, write_tensors_atomic

REVISION = 3  # raised whenever a change of the code changes the result of dense training


@dataclass(frozen=True)
class DenseStates:
    """State dicts of the dense network that a fine-tuning policy needs; None for one that it does not need.

    Attributes:
        rewind_state: After --rewind-epoch.
        trained: At the end of the dense training.
    """

    rewind_state: Mapping[str, Tensor] | None = None
    trained: Mapping[str, Tensor] | None = None


def fingerprint(config: RunConfig, device: torch.device, data: Dataset, model: nn.Module) -> dict[str, Any]:
    """Return everything that the dense network and the statistics accumulated over its training depend on.

    Options, with files by their contents, and hardware and versions.
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
    """Digest of the files that define the network: its architecture and the classes of its modules."""
    sources = models.source_files(arch)
    for kind in {type(module) for module in model.modules()}:
        with contextlib.suppress(OSError, TypeError):
            sources.add(Path(inspect.getfile(kind)))
    return digest(sorted({file_digest(source) for source in sources if source.is_file()}))


def dense_network(session: Session, *, fresh: bool) -> DenseStates:
    """Load the trained dense network into `session.model`, training it first if the cache does not have it.

    `session.model` must have its initial weights. Statistics accumulated over the dense training are loaded too.

    Args:
        fresh: Train it even if it is cached.
    """
    folder = dense_folder(session.config.runs_dir, digest(session.fingerprint)[:16])
    needs_rewind_state = session.policy.needs_rewind_state
    initial = {}
    if needs_rewind_state:
        initial = {name: tensor.clone() for name, tensor in session.model.state_dict().items()}

    def report_waiting(holder: str) -> None:
        session.log.emit(DenseWaiting(message=f"Waiting for {holder}, which trains the same dense network."))

    with file_lock(folder.lock, "The dense training", report_waiting, session.log.check_stop):
        if fresh:
            folder.clear()
        cached = folder.read_facts()
        facts = cached or _train(session, folder)
        rewind_state = _rewind_state(session, folder, initial) if needs_rewind_state else None
        trained = read_tensors(folder.network)
        session.model.load_state_dict(trained)
        if session.accumulated:
            session.accumulated.load(read_tensors(folder.accumulated))
    session.log.open()
    session.progress.timing["dense_training"] = facts["seconds"]
    session.steps_done = session.dense_steps
    session.log.emit(DenseReady(cached=cached is not None, key=folder.path.name))
    return DenseStates(rewind_state, trained if session.policy.needs_teacher else None)


def _train(session: Session, folder: DenseFolder) -> dict[str, Any]:
    """Train the network, from the last checkpoint if there is one, and write it to the cache."""
    folder.path.mkdir(parents=True, exist_ok=True)
    resumed = _resume(session, folder)

    def save(training: TrainingSnapshot) -> None:
        _save(session, folder, training)

    def write_rewind_state(epoch: int) -> None:
        if epoch == session.config.rewind_epoch and session.policy.needs_rewind_state:
            write_tensors_atomic(folder.rewind_state(epoch), session.model.state_dict())

    with session.clock.stage("dense_training"):
        fit(
            session,
            dense_recipe(session.config, session.batch_limit),
            resumed,
            save,
            callbacks=[AfterEpoch(write_rewind_state)],
            phase="dense",
        )
    write_tensors_atomic(folder.network, session.model.state_dict())
    if session.accumulated:
        write_tensors_atomic(folder.accumulated, session.accumulated.tensors())
    facts = {"seconds": session.progress.timing["dense_training"], "basis": session.fingerprint}
    folder.write_facts(facts)
    return facts


def _resume(session: Session, folder: DenseFolder) -> TrainingSnapshot | None:
    """Restore the last checkpoint of this dense training and open the log; None if there is no checkpoint."""
    found = folder.checkpoints.load()
    if found is None:
        session.log.open()
        return None
    tensors, values = found
    session.model.load_state_dict(unpack_group(tensors, "model"))
    session.accumulated.load(unpack_group(tensors, "accumulated"))
    session.progress.timing.update(values["timing"])
    same_run = values["run"] == session.folder.path.name
    session.log.open(values["log_length"] if same_run else 0, resumed=True)
    return unpack_group(tensors, "training"), values["position"]


def _save(session: Session, folder: DenseFolder, training: TrainingSnapshot) -> None:
    """Save a checkpoint of the dense training."""
    session.clock.lap()
    tensors, position = training
    folder.checkpoints.save(
        pack_groups(
            model=session.model.state_dict(), training=tensors, accumulated=session.accumulated.tensors()
        ),
        {
            "position": dict(position),
            "timing": session.progress.timing,
            "run": session.folder.path.name,
            "log_length": session.log.length,
        },
    )


def _rewind_state(
    session: Session, folder: DenseFolder, initial: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """Return the network's state after `rewind_epoch` epochs.

    If the cache does not have it, that part of the training is repeated. Training is deterministic, so it is the state
    that the dense training had.
    """
    file = folder.rewind_state(session.config.rewind_epoch)
    with contextlib.suppress(FileNotFoundError, ValueError):
        return read_tensors(file)
    session.model.load_state_dict(initial)
    recipe = dense_recipe(session.config, session.batch_limit)
    with session.clock.stage("dense_training"):
        fit(
            session,
            recipe,
            None,
            lambda training: None,  # the whole dense training is cached, so this part needs no checkpoint
            last_epoch=session.config.rewind_epoch,
            phase="dense prefix",
        )
    write_tensors_atomic(file, session.model.state_dict())
    return read_tensors(file)
