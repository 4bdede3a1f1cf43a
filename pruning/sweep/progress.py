"""Estimate the progress of a run from the end of its event log, and the time left from finished runs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pruning.config.run_config import RunConfig


@dataclass(frozen=True)
class RunProgress:
    """Progress of one run.

    Attributes:
        stage: the current step in a word or two, such as `dense training`.
        fraction: the fraction of its epochs that are done (of its rounds, if it trains no epochs).
        has_dense: whether its dense network is trained.
    """

    stage: str
    fraction: float
    has_dense: bool


NOT_STARTED = RunProgress("starting", 0.0, False)


def read_progress(config: RunConfig, events: Sequence[Mapping[str, Any]]) -> RunProgress:
    """Return the progress at the latest of `events` (the end of the run's log) that shows any."""
    for event in reversed(events):
        progress = _progress_at(config, event)
        if progress is not None:
            return progress
    return NOT_STARTED


def _progress_at(config: RunConfig, event: Mapping[str, Any]) -> RunProgress | None:
    kind, number = event.get("event"), event.get("round")
    # A round without fine-tuning counts as one epoch.
    in_round = max(config.round_epochs, 1)
    total = config.epochs + config.rounds * in_round
    if kind == "result":
        return RunProgress("finishing", 1.0, True)
    if kind == "dense":
        return RunProgress("pruning", config.epochs / total, True)
    if kind in ("shared", "resumed"):
        number, kind = event["rounds"], "round"
    if number is not None:
        before = config.epochs + (number - 1) * in_round
        done = in_round if kind == "round" else max(_epochs_done(event) - config.round_first_epoch, 0)
        return RunProgress(f"round {max(number, 1)} of {config.rounds}", (before + done) / total, True)
    if event.get("phase") == "dense":
        return RunProgress("dense training", _epochs_done(event) / total, False)
    return None


def _epochs_done(event: Mapping[str, Any]) -> float:
    """Return the epochs that the current training has finished at this event; 0 if the event has no epoch."""
    if event.get("event") == "batch":
        return float(event["epoch"] - 1 + event["batch"] / event["batches"])
    return float(event.get("epoch", 0))


def estimate_seconds_left(
    finished: Sequence[tuple[int, float]], unfinished: Sequence[tuple[int, float]], slots: int
) -> float | None:
    """Estimate the time for the unfinished runs by linear regression of seconds on epochs over the finished ones.

    Args:
        finished: (epochs, seconds) of each finished run.
        unfinished: (epochs, fraction left) of each other run.
        slots: how many runs are computed at once.

    Returns:
        Seconds; None if no run is finished.
    """
    if not finished:
        return None
    slope, intercept = _fit_line(finished)
    seconds = sum((intercept + slope * epochs) * left for epochs, left in unfinished)
    return seconds / max(1, min(slots, len(unfinished)))


def _fit_line(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Return slope and intercept of the regression line, neither of them below zero."""
    epochs, seconds = zip(*points, strict=True)
    mean = statistics.fmean(seconds)
    if len(set(epochs)) == 1:
        return 0.0, mean
    slope, intercept = statistics.linear_regression(epochs, seconds)
    if slope < 0:
        return 0.0, mean
    return (slope, intercept) if intercept >= 0 else (mean / statistics.fmean(epochs), 0.0)
