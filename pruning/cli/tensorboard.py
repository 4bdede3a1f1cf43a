"""A run's curves for TensorBoard (extra `tensorboard`): made from its events, beside its record.

Training and validation are drawn over all training batches of the run, dense training included; what rounds end with
over the number of the round, the dense network as round 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pruning.config.run_config import RunConfig
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

    def event(self, event: Mapping[str, Any]) -> None:
        """Write what an event has to draw."""
        kind = event["event"]
        if kind == "batch":
            self._in_epoch = event["batches"]
            step = self._batches(event, event["epoch"] - 1) + event["batch"]
            self._write(event, step, {f"training/{curve}": event[name] for name, curve in OF_BATCH.items()})
        elif kind == "evaluation" and event["what"] == "training":
            scalars = {f"validation/{name}": event[name] for name in OF_VALIDATION}
            self._write(event, self._batches(event, event["epoch"]), scalars)
        elif kind == "evaluation" and event["what"] == "dense":
            self._write(event, 0, {f"rounds/{name}": event[name] for name in OF_VALIDATION})
        elif kind == "round":
            scalars = {f"rounds/{name}": event[name] for name in OF_ROUND if event.get(name) is not None}
            self._write(event, event["round"], scalars)

    def _batches(self, event: Mapping[str, Any], epochs: int) -> int:
        """Training batches of the run that are done when the current training counts so many epochs as done."""
        config, number = self._config, event.get("round")
        if number is not None:
            epochs += config.epochs + (number - 1) * config.round_epochs - config.round_first_epoch
        return epochs * self._in_epoch

    def _write(self, event: Mapping[str, Any], step: int, scalars: Mapping[str, float]) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder))
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step, walltime=event["time"])
