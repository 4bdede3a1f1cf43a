"""Set up a run: read the data, build the network, and refuse options that do not describe a possible experiment."""

from __future__ import annotations

import torch
from torch import nn

from pruning import data
from pruning.axes import methods
from pruning.config.run_config import RunConfig
from pruning.core.accumulation import Accumulated
from pruning.core.layers import prunable_layers
from pruning.core.prune import check
from pruning.errors import PruningError
from pruning.experiment import records
from pruning.experiment.clock import StageClock
from pruning.experiment.dense_cache import fingerprint
from pruning.experiment.events import DataReading, Observer, RunStarted
from pruning.experiment.networks import build_network
from pruning.experiment.progress import RunProgress
from pruning.experiment.round_plan import plan_pruning_steps
from pruning.experiment.run_log import RunLog
from pruning.experiment.session import Session
from pruning.measure.macs import trace_macs
from pruning.measure.parameters import count_parameters
from pruning.models import shape_check
from pruning.training.device import check_precision, choose_device, configure_process
from pruning.training.recipe import batches_per_epoch
from pruning.training.seeds import derive_seed
from pruning.utils import files

DRY_BATCHES = 2  # in every pass over the data, in a dry run


def prepare(config: RunConfig, observer: Observer) -> Session:
    """Return the session of a run at its start. Writes nothing.

    Raises:
        PruningError: The options do not describe a possible experiment.
    """
    device = choose_device(config.device)
    check_precision(config.precision, device)
    configure_process(device, config.threads, config.deterministic)
    clock = StageClock(device)
    file_digests = config.file_digests()  # as they are read now: they may be edited during the run
    images = load_data(config, device, observer)
    torch.manual_seed(derive_seed(config.seed, "weights"))
    model = build_network(config, images, device)
    layers = prunable_layers(model, config.include, config.exclude, prune_classifier=config.prune_classifier)
    _check_last_batch(config, model, images)
    check(model, config.method, config.structure, layers, torch.zeros(1, *images.shape, device=device))
    batch_limit = DRY_BATCHES if config.dry_run else None
    batches = batches_per_epoch(len(images.train), config.batch_size, batch_limit)
    folder = records.folder_of(config)
    return Session(
        config=config,
        device=device,
        data=images,
        layers=layers,
        pruning_steps_by_round=plan_pruning_steps(config, model, layers, batches),
        macs_trace=trace_macs(model, images.shape),
        folder=folder,
        log=RunLog(observer, folder),
        clock=clock,
        batch_limit=batch_limit,
        fingerprint=fingerprint(config, device, images, model),
        files=file_digests,
        model=model,
        accumulated=Accumulated(methods.accumulates(config.method), layers),
        progress=RunProgress(timing=clock.seconds),
    )


def load_data(config: RunConfig, device: torch.device, observer: Observer) -> data.Dataset:
    """Return the data set of a run on its device."""
    return data.load(
        config.dataset,
        folder=config.data,
        device=device,
        validation=config.validation,
        seed=derive_seed(config.seed, "validation"),
        on_progress=lambda what, done, total: observer.event(DataReading(what=what, done=done, total=total)),
    )


def _check_last_batch(config: RunConfig, model: nn.Module, images: data.Dataset) -> None:
    """Raise PruningError if the last batch of an epoch has one image and the network cannot train on one image."""
    trains = config.epochs or config.round_epochs
    if not trains or len(images.train) % config.batch_size != min(1, config.batch_size - 1):
        return
    try:
        shape_check.check_training(model, images.shape, 1, config.arch)
    except PruningError as error:
        raise PruningError(
            f"{error}, and the last of the {len(images.train):,} training images is alone in its batch with "
            f"--batch-size {config.batch_size}. Choose another one.",
            options=("batch_size",),
        ) from error


def check_outputs(config: RunConfig, *, fresh: bool) -> None:
    """Raise PruningError if the run cannot write one of its outputs. Creates nothing."""
    files.check_folder_writable(config.runs_dir, "--runs-dir")
    folder = records.folder_of(config)
    folder.check_free()
    if not fresh:
        records.refuse_other_run(folder, config)
    network = config.saved_model_path()
    if network is not None:
        files.check_file_writable(network, "--save-path")


def announce(session: Session) -> None:
    """Emit everything that is known of the run before its first step."""
    images = session.data
    session.log.emit(
        RunStarted(
            name=session.folder.path.name,
            path=str(session.folder.path),
            config=session.config.to_dict(),
            images={
                "shape": list(images.shape),
                "classes": len(images.classes),
                "train": len(images.train),
                "validation": len(images.validation),
                "test": len(images.test),
            },
            parameters=count_parameters(session.model).parameters,
            macs=session.macs_trace.count(session.model).macs,
            prunable=sum(layer.size for layer in session.layers),
            layers=len(session.layers),
            sparsities=[steps[-1].target for steps in session.pruning_steps_by_round],
            pruning_steps=sum(len(steps) for steps in session.pruning_steps_by_round),
            device=str(session.device),
            threads=torch.get_num_threads(),
            batches=session.total_steps,
        )
    )
