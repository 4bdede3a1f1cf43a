"""A run in progress: its fixed inputs and its state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pruning.config.run_config import RunConfig
from pruning.core.accumulation import Accumulated
from pruning.core.layers import Layer
from pruning.core.masks import Masks
from pruning.data import Dataset
from pruning.experiment.clock import StageClock
from pruning.experiment.events import WarningIssued
from pruning.experiment.progress import RunProgress, TrainingSnapshot
from pruning.experiment.run_files import RunFolder
from pruning.experiment.run_log import RunLog
from pruning.experiment.targets import PruningStep
from pruning.measure.macs import MacsTrace
from pruning.registry import FINETUNINGS, FinetuneSpec
from pruning.training.recipe import batches_per_epoch


@dataclass
class Session:
    """A run in progress.

    Inputs, fixed once the run is set up:
        layers: The prunable layers.
        pruning_steps_by_round: The pruning steps of every round; with --max-drop, as if every round were accepted.
        batch_limit: Batches in every pass over the data, None for all of them (a dry run sets it).
        fingerprint: Everything besides the options that the dense network depends on (`dense_cache.fingerprint`).
        files: SHA-256 of the user's own files, by option.

    State, which a checkpoint stores (`checkpoint.RunCheckpoint`):
        model, masks: The network as it is now, and its masks once it is pruned.
        accumulated: Statistics that scores accumulate over training.
        progress: Metrics, warnings and timing so far.
        accepted: The network of the last accepted round, for --max-drop.
        resumed_training: The state of the training in which the run was interrupted, until that training continues.
        steps_done: Training steps done, for the progress bar.
    """

    config: RunConfig
    device: torch.device
    data: Dataset
    layers: list[Layer]
    pruning_steps_by_round: list[list[PruningStep]]
    macs_trace: MacsTrace
    folder: RunFolder
    log: RunLog
    clock: StageClock
    batch_limit: int | None
    fingerprint: dict[str, Any]
    files: dict[str, str]

    model: nn.Module
    accumulated: Accumulated
    progress: RunProgress
    masks: Masks | None = None
    accepted: dict[str, Tensor] = field(default_factory=dict)
    resumed_training: TrainingSnapshot | None = None
    steps_done: int = 0

    @property
    def policy(self) -> FinetuneSpec:
        """The spec of the fine-tuning policy."""
        return FINETUNINGS.entry(self.config.finetune).spec

    @property
    def dense_steps(self) -> int:
        """Training steps of the dense network."""
        return self.config.epochs * self._batches_per_epoch

    @property
    def round_steps(self) -> int:
        """Training steps of one round."""
        return self.config.round_epochs * self._batches_per_epoch

    @property
    def total_steps(self) -> int:
        """Training steps of the whole run."""
        return self.dense_steps + self.config.rounds * self.round_steps

    @property
    def _batches_per_epoch(self) -> int:
        return batches_per_epoch(len(self.data.train), self.config.batch_size, self.batch_limit)

    def warn(self, message: str) -> None:
        """Issue a warning once, and keep it for the record."""
        if message not in self.progress.warnings:
            self.progress.warnings.append(message)
            self.log.emit(WarningIssued(message=message))

    def take_resumed_training(self) -> TrainingSnapshot | None:
        """Return the state of the interrupted training, the first time; None if there is none."""
        snapshot, self.resumed_training = self.resumed_training, None
        return snapshot
