"""From options to a session: the data read, the network built, and whatever makes no experiment refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from pruning import data, models
from pruning.axes.allocation import Amount, LayerSize, read_by_layer
from pruning.axes.methods import split
from pruning.axes.structure import output_dimension
from pruning.config.run_config import RunConfig
from pruning.core.layers import Layer, prunable_layers
from pruning.core.masks import Masks
from pruning.core.prune import check
from pruning.core.pruning_groups import at_least, floor_reached
from pruning.errors import PruningError, first_line
from pruning.experiment import records
from pruning.experiment.dense_cache import basis
from pruning.experiment.events import DataReading, Observer
from pruning.experiment.run_files import RunFolder
from pruning.experiment.session import Clock, Session
from pruning.experiment.targets import Step, moments, searched_steps, steps, steps_to_compression
from pruning.measure import shrink
from pruning.measure.macs import trace_macs
from pruning.measure.parameters import count_parameters
from pruning.models import shape_check
from pruning.registry import ALLOCATIONS, SCHEDULES, STRUCTURES
from pruning.training import machine
from pruning.training.loop import batches_an_epoch
from pruning.utils import files

DRY_BATCHES = 2  # of every pass over the data, in a dry run


def prepare(config: RunConfig, observer: Observer) -> Session:
    """Read the data and build the network; refuse whatever makes no experiment. Writes nothing."""
    device = machine.choose_device(config.device)
    machine.check_precision(config.precision, device)
    machine.prepare(device, config.threads, config.deterministic)
    clock = Clock(device)
    files = config.file_digests()  # as they are when they are read; they may be edited while the run goes on
    images = data.load(
        config.dataset,
        folder=config.data,
        device=device,
        validation=config.validation,
        seed=machine.derive_seed(config.seed, "validation"),
        on_progress=lambda what, done, total: observer.event(DataReading(what=what, done=done, total=total)),
    )
    torch.manual_seed(machine.derive_seed(config.seed, "weights"))
    model = build_network(config, images, device)
    chosen = prunable_layers(model, config.include, config.exclude, prune_classifier=config.prune_classifier)
    _check_last_batch(config, model, images)
    check(model, config.method, config.structure, chosen, torch.zeros(1, *images.shape, device=device))
    limit = DRY_BATCHES if config.dry_run else None
    return Session(
        config=config,
        device=device,
        data=images,
        model=model,
        layers=chosen,
        prunings=_prunings(config, model, chosen, batches_an_epoch(images.train, config.batch_size, limit)),
        trace=trace_macs(model, images.shape),
        folder=records.folder_of(config),
        observer=observer,
        clock=clock,
        limit=limit,
        basis=basis(config, device, images, model),
        files=files,
    )


def _check_last_batch(config: RunConfig, model: nn.Module, images: data.Dataset) -> None:
    """PruningError if training would end at an epoch's last batch, of one image, which many norms do not take."""
    trains = config.epochs or config.round_epochs
    if not trains or len(images.train) % config.batch_size != min(1, config.batch_size - 1):
        return
    try:
        shape_check.check_training(model, images.shape, 1, config.arch)
    except PruningError as error:
        raise PruningError(
            f"{error}, and the last of {len(images.train):,} training images is one by itself: "
            f"choose another --batch-size than {config.batch_size}.",
            options=("batch_size",),
        ) from error


def rounds_of(config: RunConfig, model: nn.Module, shape: tuple[int, int, int]) -> list[Step]:
    """How far every round goes on this network, which takes images of `shape`; of a search, if all rounds hold.

    PruningError if it cannot be pruned like that. No data is needed for it, and what the weights are is of no account.
    """
    chosen = prunable_layers(model, config.include, config.exclude, prune_classifier=config.prune_classifier)
    check(model, config.method, config.structure, chosen, torch.zeros(1, *shape))
    return _steps(config, model, chosen, config.rounds)


def check_outputs(config: RunConfig, *, fresh: bool) -> None:
    """PruningError unless everything that the run will write has its place; creates nothing."""
    files.check_writable(config.runs_dir, "--runs-dir")
    records.folder_of(config).check_free()
    if not fresh:
        records.refuse_other_run(config)
    network = config.saved_model_path()
    if network is not None:
        files.check_savable(network)


class DamagedRecordError(PruningError):
    """A record's network or masks are missing, damaged, or not of this record."""


def reopen(folder: RunFolder, observer: Observer) -> tuple[Session, dict[str, Any]]:
    """A complete run taken up again from its files: a session with its network and masks in place, and its record.

    PruningError if the folder holds no complete run, or its data or code are not at hand; DamagedRecordError if its
    files are damaged or do not belong to it.
    """
    result = folder.read_result()
    if result is None:
        raise PruningError(f"{folder.path} holds no complete run: there is no {folder.result.name} in it.")
    session = prepare(_without_first_weights(records.recorded(folder)), observer)
    try:
        session.model.load_state_dict(files.read_tensors(folder.model))
    except (OSError, RuntimeError, ValueError) as error:
        raise DamagedRecordError(
            f"{folder.model} does not hold this run's network ({first_line(error).rstrip('.:')})."
        ) from None
    try:
        session.masks = Masks.load(folder.masks)
    except PruningError as error:
        raise DamagedRecordError(str(error)) from None
    return session, result


def new_network(session: Session, seed: int) -> nn.Module:
    """A network like the session's of which nothing is removed, with weights as drawn at random by this seed."""
    torch.manual_seed(seed)
    return build_network(_without_first_weights(session.config), session.data, session.device)


def _without_first_weights(config: RunConfig) -> RunConfig:
    """The same options for a network that gets its weights elsewhere: those it started from may not be at hand."""
    return config.model_copy(update={"pretrained": False, "weights": None})


def networks_to_time(session: Session) -> dict[str, nn.Module]:
    """The networks whose times tell the gain: "dense", "pruned" and, without its removed filters, "shrunk".

    The last one is there if any could be taken out. Warns if the network cannot be followed to do so.
    """
    networks = {"dense": new_network(session, session.config.seed), "pruned": session.model}
    try:
        shrunk = shrunk_twin(session)
    except PruningError as error:
        session.warn(f"The removed filters are timed as zeros only. {error}")
        return networks
    if shrunk is not None and shrunk.widths:
        networks["shrunk"] = shrunk.model
    return networks


def shrunk_twin(session: Session) -> shrink.ShrunkNetwork | None:
    """The session's network with its removed filters taken out for real; None if no filter was removed.

    A run that removes single weights has none, even where all weights of a filter happen to be among them: looking for
    those would ask for torch-pruning where nobody pruned filters. PruningError if it is missing or cannot follow the
    network.
    """
    if not STRUCTURES.entry(session.config.structure).spec.coupled:
        return None
    layers = [layer.parameter.detach().transpose(0, output_dimension(layer)) for layer in session.layers]
    if all(bool(weight.flatten(1).any(1).all()) for weight in layers):
        return None
    images = torch.randn(2, *session.data.shape, generator=torch.Generator().manual_seed(0))
    return shrink.shrink(session.model, images.to(session.device))


def build_network(config: RunConfig, images: data.Dataset, device: torch.device) -> nn.Module:
    """The network with its first weights, on the device; convolutions are fastest with channels last there."""
    model = models.build(
        config.arch,
        classes=len(images.classes),
        shape=images.shape,
        pretrained=config.pretrained,
        weights=config.weights,
    ).to(device)
    if device.type in ("cpu", "cuda"):
        model = model.to(memory_format=torch.channels_last)
    return model


def _prunings(config: RunConfig, model: nn.Module, chosen: list[Layer], in_epoch: int) -> list[list[Step]]:
    """The prunings of every round: one at its beginning, or several inside its fine-tuning."""
    if not SCHEDULES.entry(config.schedule).spec.during_finetuning:
        return [[step] for step in _steps(config, model, chosen, config.rounds)]
    batches = moments(config.finetune_epochs, config.prune_until, config.prune_every, in_epoch)
    within = _steps(config, model, chosen, len(batches))
    return [[replace(step, batch=batch) for step, batch in zip(within, batches, strict=True)]]


def _steps(config: RunConfig, model: nn.Module, chosen: list[Layer], number: int) -> list[Step]:
    """So many prunings to the amount asked for, as far as --floor lets them; of a search, if all rounds hold."""
    found = _steps_to_amount(config, model, chosen, number)
    _check_floor(config, chosen, found[-1])
    return found


def _steps_to_amount(config: RunConfig, model: nn.Module, chosen: list[Layer], number: int) -> list[Step]:
    sizes = _sizes(chosen)
    allocation = split(config.method)[0]
    if config.max_drop is not None:
        return searched_steps(allocation, config.schedule, number, sizes)
    if config.compression is not None:
        parameters, weights = count_parameters(model).parameters, sum(layer.size for layer in sizes)
        return steps_to_compression(config.compression, parameters, weights, config.schedule, number)
    by_layer = None if config.layer_sparsity is None else read_by_layer(config.layer_sparsity)
    asked = Amount(config.sparsity, config.count, by_layer)
    return steps(asked, allocation, config.schedule, number, sizes)


def _check_floor(config: RunConfig, chosen: list[Layer], last: Step) -> None:
    """PruningError if --floor leaves too little to remove. Of groups only the pruning tells how far they go."""
    if config.structure != "weight":
        return
    for group in ALLOCATIONS.get(split(config.method)[0])(_sizes(chosen), last.amount):
        own = [layer.size for layer in chosen if layer.name in group.names]
        possible = sum(size - at_least(config.floor, size) for size in own)
        if group.remove > possible:
            raise floor_reached(config.floor, group.remove, possible)


def _sizes(layers: list[Layer]) -> list[LayerSize]:
    return [LayerSize(layer.name, layer.size, layer.shape, layer.kind) for layer in layers]
