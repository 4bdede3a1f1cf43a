"""A run's curves for TensorBoard (extra `tensorboard`): made from its events, beside its record.

Training and validation are drawn over all training batches of the run, dense training included; what rounds end with
over the number of the round, the dense network as round 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pruning.config.run_config import RunConfig
from pruning.experiment.events import BatchLogged, Evaluated, Event, RoundFinished
from pruning.utils.extras import require_extra

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

OF_BATCH = {"loss": "loss", "accuracy": "accuracy", "lr": "learning_rate"}
OF_VALIDATION = ("loss", "top1", "top5")
OF_ROUND = (
    "top1",
    "top5",
    "loss",
    "sparsity",
    "compression_ratio",
    "theoretical_speedup",
    "top1_before_finetune",
)


class Curves:
    """Writes the scalars of a run's events into `folder`, which comes to be with the first of them."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        require_extra("--tensorboard", "tensorboard", "tensorboard")
        self._config = config
        self._folder = folder
        self._writer: SummaryWriter | None = None
        self._in_epoch = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def event(self, event: Event) -> None:
        """Write the scalars of an event."""
        match event:
            case BatchLogged():
                self._in_epoch = event.batches
                step = self._batches(event.round, event.epoch - 1) + event.batch
                scalars = {f"training/{curve}": getattr(event, name) for name, curve in OF_BATCH.items()}
                self._write(event, step, scalars)
            case Evaluated(what="training", epoch=int(epoch)):
                scalars = {f"validation/{name}": getattr(event, name) for name in OF_VALIDATION}
                self._write(event, self._batches(event.round, epoch), scalars)
            case Evaluated(what="dense"):
                self._write(event, 0, {f"rounds/{name}": getattr(event, name) for name in OF_VALIDATION})
            case RoundFinished(entry=entry):
                scalars = {f"rounds/{name}": entry[name] for name in OF_ROUND if entry.get(name) is not None}
                self._write(event, entry["round"], scalars)

    def _batches(self, number: int | None, epochs: int) -> int:
        """Training batches of the run that are done when the current training counts so many epochs as done."""
        config = self._config
        if number is not None:
            epochs += config.epochs + (number - 1) * config.round_epochs - config.round_first_epoch
        return epochs * self._in_epoch

    def _write(self, event: Event, step: int, scalars: Mapping[str, float]) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder))
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step, walltime=event.time)
