"""A run while it is being done: what it works on, what is known so far, and saving both so that nothing is lost."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pruning.axes import methods
from pruning.config.resolution import differences
from pruning.config.run_config import RunConfig
from pruning.core.accumulation import Accumulated
from pruning.core.layers import Layer, prunable_layers
from pruning.core.masks import Masks
from pruning.data import Dataset
from pruning.errors import DivergedError, InterruptedRunError, PruningError
from pruning.experiment.events import (
    BatchLogged,
    Evaluated,
    Event,
    LogOpened,
    Observer,
    RunStarted,
    WarningIssued,
)
from pruning.experiment.run_files import Checkpoints, EventLog, RunFolder
from pruning.experiment.targets import Step, next_step
from pruning.measure.macs import MacsTrace
from pruning.measure.parameters import count_parameters
from pruning.registry import FINETUNINGS
from pruning.training.loop import (
    NotFiniteError,
    Recipe,
    TrainingLoss,
    TrainingState,
    batches_an_epoch,
    check_finite,
    cross_entropy,
    evaluate,
    train,
)

TICK = 0.1  # seconds between two updates of the progress bar


class Clock:
    """Seconds spent in each stage and in all; of a stage within a stage only the inner one is charged."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device
        self._stage: str | None = None
        self._since = time.perf_counter()

    def lap(self) -> None:
        """Charge the time since the last lap, work that the device still has to do included."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        for name in (self._stage, "total"):
            if name is not None:
                self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.lap()
        outer, self._stage = self._stage, name
        try:
            yield
        finally:
            self.lap()
            self._stage = outer


@dataclass
class Progress:
    """Everything about a run that a checkpoint keeps as JSON.

    `masked` is the evaluation of the network right after the current round's pruning; None before that pruning.
    `shared_rounds` is how many of the rounds were taken from another run that began with the same (--share-rounds).
    `accepted_warnings` is how many of the warnings stay when the run goes back to an earlier network (--max-drop).
    """

    dense: dict[str, Any] | None = None
    rounds: list[dict[str, Any]] = field(default_factory=list)
    masked: dict[str, float] | None = None
    warnings: list[str] = field(default_factory=list)
    timing: dict[str, float] = field(default_factory=dict)
    log_length: int = 0
    shared_rounds: int = 0
    accepted_warnings: int = 0


@dataclass
class Session:
    """A run's options, data, network and files, and how far it has come.

    `prunings` has those of every round (with --max-drop, as they are if all rounds hold: see `prunings_of`);
    `limit` is the number of batches in every pass over the data, None for all of them (anything else is a dry run);
    `basis` is what the dense network depends on besides the options (see `dense.basis`), `files` has digests of the
    user's own files by option.
    """

    config: RunConfig
    device: torch.device
    data: Dataset
    model: nn.Module
    layers: list[Layer]
    prunings: list[list[Step]]
    trace: MacsTrace
    folder: RunFolder
    observer: Observer
    clock: Clock
    limit: int | None
    basis: dict[str, Any]
    files: dict[str, str]

    def __post_init__(self) -> None:
        self.progress = Progress(timing=self.clock.seconds)
        self.masks: Masks | None = None
        policy = FINETUNINGS.entry(self.config.finetune).spec
        self.needs_rewind_state = policy.needs_rewind_state
        self.needs_teacher = policy.needs_teacher
        self.accumulated = Accumulated(methods.accumulates(self.config.method), self.layers)
        self._accepted: dict[str, Tensor] = {}
        self._training: tuple[dict[str, Tensor], dict[str, int]] | None = None
        self.checkpoints = Checkpoints(self.folder.state)
        self.log: EventLog | None = None
        self.batches_done = 0
        in_epoch = batches_an_epoch(self.data.train, self.config.batch_size, self.limit)
        self.dense_batches = self.config.epochs * in_epoch
        self.round_batches = self.config.round_epochs * in_epoch

    # --- what is told -------------------------------------------------------------------------------------------

    def open_log(self, length: int, *, resumed: bool = False) -> EventLog:
        """Write events to the file from now on, after its first `length` bytes."""
        self.log = EventLog(self.folder.events, length)
        self.log.write(LogOpened(name=self.folder.path.name, resumed=resumed).to_json())
        return self.log

    def announce(self) -> None:
        """Tell what will be run."""
        config, images = self.config, self.data
        started = RunStarted(
            name=self.folder.path.name,
            path=str(self.folder.path),
            config=config.to_dict(),
            images={
                "shape": list(images.shape),
                "classes": len(images.classes),
                "train": len(images.train),
                "validation": len(images.validation),
                "test": len(images.test),
            },
            parameters=count_parameters(self.model).parameters,
            macs=self.trace.remaining(self.model).macs,
            prunable=sum(layer.size for layer in self.layers),
            layers=len(self.layers),
            sparsities=[steps[-1].target for steps in self.prunings],
            prunings=sum(len(steps) for steps in self.prunings),
            device=str(self.device),
            threads=torch.get_num_threads(),
            batches=self.dense_batches + self.config.rounds * self.round_batches,
        )
        self.emit(started)

    def emit(self, event: Event) -> None:
        """Log an event and pass it to the observer."""
        if self.log is not None:
            self.log.write(event.to_json())
        self.observer.event(event)

    def warn(self, message: str) -> None:
        """Say once what a reader of the numbers must know, and keep it in the record."""
        if message not in self.progress.warnings:
            self.progress.warnings.append(message)
            self.emit(WarningIssued(message=message))

    # --- what is measured ---------------------------------------------------------------------------------------

    def evaluate(self, what: str, split: str = "test", **about: Any) -> dict[str, float]:
        """top1 and top5 (percent) and loss of the network as it is, on one split. DivergedError if there is no loss."""
        with self.clock.stage("evaluation"):
            evaluation = evaluate(
                self.model,
                getattr(self.data, split),
                self.config.test_batch_size,
                self.config.precision,
                limit=self.limit,
                between_batches=self.observer.check_stop,
            )
        if not math.isfinite(evaluation.loss):
            raise DivergedError(
                f"the loss on the {split} images is {evaluation.loss}, the network has diverged",
                self.config.precision,
            )
        numbers = asdict(evaluation)
        self.emit(Evaluated(what=what, split=split, **about, **numbers))
        return numbers

    def metrics(self, evaluation: Mapping[str, float]) -> dict[str, Any]:
        """An evaluation with what is counted on the network as it is: the numbers that every entry of a record has."""
        parameters = count_parameters(self.model)
        macs = self.trace.remaining(self.model)
        return {
            **evaluation,
            "sparsity": 0.0 if self.masks is None else self.masks.sparsity,
            "compression_ratio": parameters.compression_ratio,
            "theoretical_speedup": macs.theoretical_speedup,
            "parameters": parameters.parameters,
            "nonzero_parameters": parameters.nonzero_parameters,
            "macs": macs.macs,
            "nonzero_macs": macs.nonzero_macs,
        }

    def measured(self, what: str, **about: Any) -> dict[str, Any]:
        """A record's entry for the network as it is: its metrics, and `validation_top1` where a search goes by that."""
        entry = self.metrics(self.evaluate(what, **about))
        if self.config.max_drop is not None:
            entry["validation_top1"] = self.evaluate(what, "validation", **about)["top1"]
        return entry

    def layer_table(self) -> list[dict[str, Any]]:
        """Every layer that could be pruned, with what is left of it."""
        macs = self.trace.remaining(self.model).layers
        eligible = {layer.name for layer in self.layers}
        every = prunable_layers(self.model, include=sorted(eligible), prune_classifier=True)
        table = []
        for layer in every:
            nonzero = int(layer.parameter.count_nonzero())
            used = macs.get(layer.module)
            table.append(
                {
                    "name": layer.name,
                    "type": layer.type,
                    "shape": list(layer.shape),
                    "weights": layer.size,
                    "nonzero": nonzero,
                    "sparsity": 1 - nonzero / layer.size,
                    "macs": used.macs if used else 0,
                    "nonzero_macs": used.nonzero_macs if used else 0,
                    "pruned": layer.name in eligible,
                }
            )
        return table

    # --- how far to prune ---------------------------------------------------------------------------------------

    def prunings_of(self, number: int) -> list[Step]:
        """The prunings of round `number`: as planned, or with --max-drop what the rounds before it tell."""
        if self.config.max_drop is None:
            return self.prunings[number - 1]
        tried = [(entry["target_sparsity"], entry["held"]) for entry in self.progress.rounds[: number - 1]]
        return [next_step(self.config.schedule, tried)]

    def accept(self) -> None:
        """Keep the network as it is, its masks, and what adds up over its training, to go back to."""
        self._accepted = {name: tensor.clone() for name, tensor in self._network().items()}
        self.progress.accepted_warnings = len(self.progress.warnings)

    def roll_back(self, why: str | None = None) -> None:
        """Put what was accepted last in place again; warnings since then are void, `why` stays as one."""
        self._put(self._accepted)
        del self.progress.warnings[self.progress.accepted_warnings :]
        if why is not None:
            self.warn(why)
            self.progress.accepted_warnings = len(self.progress.warnings)

    def _network(self) -> dict[str, Tensor]:
        masks = {} if self.masks is None else self.masks.tensors()
        return pack(model=self.model.state_dict(), mask=masks, accumulated=self.accumulated.tensors())

    def _put(self, network: Mapping[str, Tensor]) -> None:
        self.model.load_state_dict(unpack(network, "model"))
        masks = unpack(network, "mask")
        self.masks = Masks.from_tensors(masks).apply(self.model) if masks else None
        self.accumulated.load(unpack(network, "accumulated"))

    # --- what is saved ------------------------------------------------------------------------------------------

    def save(
        self, training: Mapping[str, Tensor] | None = None, position: Mapping[str, int] | None = None
    ) -> None:
        """Save the run as it stands, within a training if one is given."""
        self.checkpoints.save(*self.snapshot(training, position))

    def snapshot(
        self, training: Mapping[str, Tensor] | None = None, position: Mapping[str, int] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that going on from here needs, as tensors and as facts that JSON holds."""
        self.clock.lap()
        assert self.log is not None
        self.progress.log_length = self.log.length
        tensors = self._network() | pack(training=training or {}, accepted=self._accepted)
        return tensors, {
            "progress": asdict(self.progress),
            "position": position,
            "basis": self._begun_under(),
        }

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Take the run up from a snapshot."""
        self.progress = Progress(**facts["progress"])
        self.clock.lap()
        self.clock.seconds = self.progress.timing
        self._put(tensors)
        self._accepted = unpack(tensors, "accepted")
        if facts["position"] is not None:
            self._training = unpack(tensors, "training"), facts["position"]
        self.batches_done = self.dense_batches + len(self.progress.rounds) * self.round_batches

    def check_basis(self, saved: Mapping[str, Any]) -> None:
        """PruningError if the run was begun on other images, with another network, plugin or version of torch."""
        different = differences(saved, self._begun_under())
        if different:
            raise PruningError(
                f"{self.folder.path} was begun under other conditions: {'; '.join(different)}. "
                "Restore them, or begin anew with --fresh."
            )

    def _begun_under(self) -> dict[str, Any]:
        """All that the run depends on besides its options."""
        return self.basis | self.config.plugin_digest()

    def take_training(self) -> tuple[dict[str, Tensor], dict[str, int]] | None:
        """The training that the run was restored in the middle of, once; None if there is none."""
        training, self._training = self._training, None
        return training

    def train(
        self,
        recipe: Recipe,
        saved: tuple[Mapping[str, Tensor], Mapping[str, int]] | None,
        save: Callable[[Mapping[str, Tensor], Mapping[str, int]], None],
        *,
        loss: TrainingLoss = cross_entropy,
        epochs: int | None = None,
        on_epoch: Callable[[int], None] = lambda epoch: None,
        between_batches: Callable[[int], None] = lambda done: None,
        **about: Any,
    ) -> None:
        """Train the network, from where `saved` left it, to the end of the recipe (or of `epochs` of its epochs).

        `save(tensors, position)` is called at the configured interval and when a signal asks to stop. DivergedError
        when the loss becomes NaN or infinite; what was saved last is from before that. `between_batches` is called with
        the number of batches done, from 1 on, before the next one and at the end; it may put other masks in place. What
        is saved is from before that call, so that it comes again in the process that goes on.
        """
        state = TrainingState(self.model, recipe)
        self.accumulated.follow(state.optimizer)
        if saved is not None:
            state.unpack(*saved)
        held: tuple[Masks, RemovableHandle] | None = None
        in_epoch = batches_an_epoch(self.data.train, recipe.batch_size, self.limit)
        begun = self.batches_done
        last_save = last_tick = time.monotonic()

        def done() -> int:
            return (state.epoch - recipe.first_epoch) * in_epoch + state.batch

        def hold() -> None:
            nonlocal held
            if self.masks is None or (held is not None and held[0] is self.masks):
                return
            if held is not None:
                held[1].remove()
            held = self.masks, self.masks.hold(state.optimizer)

        def after_batch() -> None:
            nonlocal last_save, last_tick
            now = time.monotonic()
            if now - last_tick > TICK:
                last_tick = now
                self._tick(begun + done())
            if now - last_save > self.config.checkpoint_interval:
                save_state()
                last_save = now
            go_on()

        def go_on() -> None:
            try:
                self.observer.check_stop()
                if done():
                    between_batches(done())
            except InterruptedRunError:
                save_state()
                raise
            except PruningError:
                check_finite(state)  # the scores of a training that diverged are not finite either
                raise
            hold()

        def save_state() -> None:
            check_finite(state)
            save(*state.pack())

        def after_epoch(epoch: int) -> None:
            try:
                self.evaluate("training", "validation", epoch=epoch, **about)
            except InterruptedRunError:
                save_state()
                raise
            on_epoch(epoch)

        try:
            if state.batch < in_epoch:  # else the evaluation comes first that a stop broke off
                go_on()
            train(
                self.model,
                self.data,
                recipe,
                state,
                loss=loss,
                epochs=epochs,
                log_interval=self.config.log_interval,
                on_log=lambda entry: self.emit(BatchLogged(**about, **entry)),
                on_epoch=after_epoch,
                after_batch=after_batch,
            )
        except NotFiniteError as error:
            self.batches_done = begun + (recipe.epochs - recipe.first_epoch) * in_epoch
            raise DivergedError(str(error), recipe.precision) from None
        if self.masks is not None:
            # Holding multiplies by zero, which leaves -0.0 where a weight was negative: now they are all +0.0.
            self.masks.apply(self.model)
        self.batches_done = begun + done()
        self._tick(self.batches_done)

    def _tick(self, done: int) -> None:
        self.observer.progress(done, self.dense_batches + self.config.rounds * self.round_batches)


def pack(**groups: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Groups of named tensors as one, `group.name`."""
    return {
        f"{group}.{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()
    }


def unpack(tensors: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
    """One group out of what `pack` made."""
    return {
        name.removeprefix(f"{group}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{group}.")
    }
