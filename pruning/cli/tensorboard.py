"""Write the scalars of a run for TensorBoard (extra `tensorboard`), from its events.

The x axis of training and validation is the number of training batches since the run began, dense training included.
The x axis of the metrics after a round is the number of the round, with the dense network as round 0.
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

BATCH_SCALARS = {"loss": "loss", "accuracy": "accuracy", "lr": "learning_rate"}  # field of the event -> name
EVALUATION_SCALARS = ("loss", "top1", "top5")
ROUND_SCALARS = (
    "top1",
    "top5",
    "loss",
    "sparsity",
    "compression_ratio",
    "theoretical_speedup",
    "top1_before_finetune",
)


class TensorBoardSink:
    """Writes scalars to `folder`, which is created with the first of them."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        require_extra("--tensorboard", "tensorboard", "tensorboard")
        self._config = config
        self._folder = folder
        self._writer: SummaryWriter | None = None
        self._batches_per_epoch = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def event(self, event: Event) -> None:
        """Write the scalars of an event; most kinds of events have none."""
        match event:
            case BatchLogged():
                self._batches_per_epoch = event.batches
                step = self._batches_since_start(event.round, event.epoch - 1) + event.batch
                scalars = {f"training/{name}": getattr(event, field) for field, name in BATCH_SCALARS.items()}
                self._write(event, step, scalars)
            case Evaluated(what="training", epoch=int(epoch)):
                scalars = {f"validation/{name}": getattr(event, name) for name in EVALUATION_SCALARS}
                self._write(event, self._batches_since_start(event.round, epoch), scalars)
            case Evaluated(what="dense"):
                self._write(event, 0, {f"rounds/{name}": getattr(event, name) for name in EVALUATION_SCALARS})
            case RoundFinished(entry=entry):
                scalars = {
                    f"rounds/{name}": entry[name] for name in ROUND_SCALARS if entry.get(name) is not None
                }
                self._write(event, entry["round"], scalars)

    def _batches_since_start(self, round_number: int | None, epochs: int) -> int:
        """Return the training batches of the run after `epochs` epochs of the dense training or of a round."""
        config = self._config
        if round_number is not None:
            epochs += config.epochs + (round_number - 1) * config.round_epochs - config.round_first_epoch
        return epochs * self._batches_per_epoch

    def _write(self, event: Event, step: int, scalars: Mapping[str, float]) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder))
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step, walltime=event.time)
