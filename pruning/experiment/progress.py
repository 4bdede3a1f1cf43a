"""The progress of a run: the part of its state that JSON holds, and the state of a training that is in progress."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

TrainingSnapshot = tuple[Mapping[str, Tensor], Mapping[str, int]]  # of training.state.TrainingState.pack


@dataclass
class RunProgress:
    """The part of a run's state that JSON holds.

    Attributes:
        dense: The record's entry of the dense network, once it is measured.
        rounds: The record's entries of the complete rounds.
        pruned: Metrics right after the current round's pruning; None before it.
        warnings: Warnings for the record.
        timing: Seconds per stage.
        log_length: Bytes of events.jsonl.
        shared_rounds: Rounds that were read from another run (--share-rounds).
        accepted_warnings: Number of warnings that remain when the run rolls back (--max-drop).
    """

    dense: dict[str, Any] | None = None
    rounds: list[dict[str, Any]] = field(default_factory=list)
    pruned: dict[str, float] | None = None
    warnings: list[str] = field(default_factory=list)
    timing: dict[str, float] = field(default_factory=dict)
    log_length: int = 0
    shared_rounds: int = 0
    accepted_warnings: int = 0
