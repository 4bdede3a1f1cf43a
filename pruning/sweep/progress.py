"""How far a run is, from the end of its log; and how long a sweep still takes, from the runs that are finished."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pruning.config.run_config import RunConfig


@dataclass(frozen=True)
class Position:
    """How far a run is.

    `stage` is a word or two for people; `fraction` of its epochs are done (0 to 1; of its rounds, if no epochs follow
    them); `has_dense` says whether its dense network is there.
    """

    stage: str
    fraction: float
    has_dense: bool


START = Position("starting", 0.0, False)


def position(config: RunConfig, events: Sequence[Mapping[str, Any]]) -> Position:
    """Where a run stands whose log ends with these events."""
    for event in reversed(events):
        found = _position(config, event)
        if found is not None:
            return found
    return START


def _position(config: RunConfig, event: Mapping[str, Any]) -> Position | None:
    """Where the run stood at this event; None if the event does not tell."""
    kind, number = event.get("event"), event.get("round")
    in_round = max(config.round_epochs, 1)
    total = config.epochs + config.rounds * in_round
    if kind == "result":
        return Position("finishing", 1.0, True)
    if kind == "dense":
        return Position("pruning", config.epochs / total, True)
    if kind in ("shared", "resumed"):
        number, kind = event["rounds"], "round"
    if number is not None:
        before = config.epochs + (number - 1) * in_round
        done = in_round if kind == "round" else max(_epochs(event) - config.round_first_epoch, 0)
        return Position(f"round {max(number, 1)} of {config.rounds}", (before + done) / total, True)
    if event.get("phase") == "dense":
        return Position("dense training", _epochs(event) / total, False)
    return None


def _epochs(event: Mapping[str, Any]) -> float:
    """The number of epochs that the current training counted as done at an event of a training; 0 at any other."""
    if event.get("event") == "batch":
        return float(event["epoch"] - 1 + event["batch"] / event["batches"])
    return float(event.get("epoch", 0))


def seconds_left(
    done: Sequence[tuple[int, float]], waiting: Sequence[tuple[int, float]], at_once: int
) -> float | None:
    """About how long runs still take: by a straight line through the epochs and seconds of those that are done.

    `done` are (epochs, seconds), `waiting` (epochs, fraction still to do), of which `at_once` are done side by side.
    None while there is nothing to go by.
    """
    if not done:
        return None
    slope, intercept = _line(done)
    return sum((intercept + slope * epochs) * left for epochs, left in waiting) / max(
        1, min(at_once, len(waiting))
    )


def _line(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Slope and intercept, neither of them below zero."""
    epochs, seconds = zip(*points, strict=True)
    mean = statistics.fmean(seconds)
    if len(set(epochs)) == 1:
        return 0.0, mean
    slope, intercept = statistics.linear_regression(epochs, seconds)
    if slope < 0:
        return 0.0, mean
    return (slope, intercept) if intercept >= 0 else (mean / statistics.fmean(epochs), 0.0)
