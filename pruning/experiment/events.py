"""The events of a run: one frozen dataclass each, as observers receive them and as events.jsonl stores them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Protocol


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base of all events. `time` is in seconds since 1970; `kind` is the value of "event" in events.jsonl."""

    kind: ClassVar[str]
    time: float = field(default_factory=time.time)

    def to_json(self) -> dict[str, Any]:
        """Return the event as one line of events.jsonl holds it, without the fields that are None."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {"event": self.kind, **{name: value for name, value in values.items() if value is not None}}


@dataclass(frozen=True, kw_only=True)
class LogOpened(Event):
    """A process began to write the log of the run `name`; `resumed` if the log already existed."""

    kind = "start"
    name: str
    resumed: bool


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """A run before its first training step. Printed on the terminal, not logged.

    `images` holds the image shape and the number of classes and of images per split. `sparsities` has the target after
    each round, `pruning_steps` the number of pruning steps, `batches` the number of training batches of the whole run.
    """

    kind = "start"
    name: str
    path: str
    config: Mapping[str, Any]
    images: Mapping[str, Any]
    parameters: int
    macs: int
    prunable: int
    layers: int
    sparsities: list[float]
    pruning_steps: int
    device: str
    threads: int
    batches: int


@dataclass(frozen=True, kw_only=True)
class DataReading(Event):
    """`done` of `total` items of `what` are read from disk or network. Shown on the terminal, not logged."""

    kind = "reading"
    what: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class DenseWaiting(Event):
    """The run waits for another process that trains the same dense network."""

    kind = "waiting"
    message: str


@dataclass(frozen=True, kw_only=True)
class DenseReady(Event):
    """The dense network is trained, or read from the cache entry `key`."""

    kind = "dense"
    cached: bool
    key: str


@dataclass(frozen=True, kw_only=True)
class BatchLogged(Event):
    """Mean loss and accuracy (percent) of the current epoch after `batch` of `batches` batches.

    `phase` is "dense", "dense prefix" (training repeated up to the rewind epoch) or "finetune"; `epoch` counts from 1.
    """

    kind = "batch"
    phase: str
    round: int | None = None
    epoch: int
    batch: int
    batches: int
    lr: float
    loss: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Evaluated(Event):
    """Top-1, top-5 (percent) and loss on a split.

    `what` is "dense", "pruned", "finetuned", "verified", or "training" for the validation after an epoch, which also
    has `phase` and `epoch`.
    """

    kind = "evaluation"
    what: str
    split: str
    epoch: int | None = None
    phase: str | None = None
    round: int | None = None
    top1: float
    top5: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class ScoringStarted(Event):
    """Round `round` computes scores; `batch` is set for a pruning step during fine-tuning."""

    kind = "scoring"
    round: int
    batch: int | None = None
    method: str


@dataclass(frozen=True, kw_only=True)
class Pruned(Event):
    """`removed` of `prunable` weights are removed; `batch` is set for a pruning step during fine-tuning."""

    kind = "pruning"
    round: int
    batch: int | None = None
    target_sparsity: float
    sparsity: float
    removed: int
    prunable: int


@dataclass(frozen=True, kw_only=True)
class RoundFinished(Event):
    """A round is complete; `entry` is its entry in result.json."""

    kind = "round"
    entry: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"event": self.kind, "time": self.time, **self.entry}


@dataclass(frozen=True, kw_only=True)
class WarningIssued(Event):
    """A warning that result.json also holds."""

    kind = "warning"
    message: str


@dataclass(frozen=True, kw_only=True)
class RoundsShared(Event):
    """The first `rounds` rounds were read from the rounds that another run shares."""

    kind = "shared"
    rounds: int


@dataclass(frozen=True, kw_only=True)
class Resumed(Event):
    """The run continues from a checkpoint after `rounds` complete rounds."""

    kind = "resumed"
    rounds: int


@dataclass(frozen=True, kw_only=True)
class RunFinished(Event):
    """The run is complete; `final` are the metrics of the final network in result.json."""

    kind = "result"
    path: str
    final: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"event": self.kind, "time": self.time, "path": self.path, **self.final}


class Observer(Protocol):
    """Receives the events of a run and may stop it: the terminal, other outputs, signals."""

    def event(self, event: Event) -> None:
        """Receive one event."""

    def progress(self, done: int, total: int) -> None:
        """Receive the number of training batches done, of all training batches of the run."""

    def check_stop(self) -> None:
        """Raise InterruptedRunError if the run should save its state and stop."""
