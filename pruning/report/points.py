"""From runs to what is shown: tasks (data set and network), in them series (one curve), in them points (over seeds).

A point is everything that was computed with the same options but for the seed. What is summarised is the final network
of a run; the rounds on the way are no points of their own, for they are not independent of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from pruning.report.runs import (
    Run,
    Target,
    describe,
    differing,
    environment_warning,
    is_random,
    key,
    listing,
)
from pruning.utils.seed_statistics import Summary, summarise

Item = TypeVar("Item")
T = TypeVar("T")

METRICS: dict[str, Callable[[Run], float | None]] = {
    "top1": lambda run: run.final.top1,
    "top5": lambda run: run.final.top5,
    "loss": lambda run: run.final.loss,
    "top1_change": lambda run: run.final.top1 - run.dense.top1,
    "sparsity": lambda run: run.final.sparsity,
    "compression_ratio": lambda run: run.final.compression_ratio,
    "theoretical_speedup": lambda run: run.final.theoretical_speedup,
}
# The choices that a plot is there to compare; any other option should be the same in all of it.
COMPARED = (
    "method",
    "structure",
    "schedule",
    "rounds",
    "prune_every",
    "prune_until",
    "finetune",
    "floor",
    "layer_sparsity",
)


@dataclass(frozen=True)
class Point:
    """The runs that differ in nothing but the seed."""

    target: Target
    runs: tuple[Run, ...]

    @property
    def settings(self) -> dict[str, Any]:
        return self.runs[0].settings

    @property
    def seeds(self) -> list[int]:
        return sorted(run.seed for run in self.runs)

    @cached_property
    def summaries(self) -> dict[str, Summary]:
        """Metric -> summary over the seeds; a metric that a run lacks (nothing left: no ratio) is absent."""
        every = {name: [metric(run) for run in self.runs] for name, metric in METRICS.items()}
        return {name: summarise(values) for name, found in every.items() if (values := _whole(found))}

    @cached_property
    def measured(self) -> dict[str, Summary]:
        """What was timed (`pruned, batch 64`) -> its measured speedup, where all runs have it."""
        names = dict.fromkeys(name for run in self.runs for name in run.measured)
        every = {name: [run.measured.get(name) for run in self.runs] for name in names}
        return {name: summarise(values) for name, found in every.items() if (values := _whole(found))}

    @cached_property
    def layers(self) -> dict[str, float]:
        """Eligible layer -> mean sparsity over the seeds, in the network's order."""
        found: dict[str, list[float]] = {}
        for run in self.runs:
            for layer in run.record.layers:
                if layer.pruned:
                    found.setdefault(layer.name, []).append(layer.sparsity)
        return {name: summarise(values).mean for name, values in found.items()}


@dataclass(frozen=True)
class Series:
    """One curve: the same options at several targets. Points are in the order of their sparsity.

    Along a curve only the number of rounds may grow with the target; `settings` then has the list of these numbers.
    """

    label: str
    settings: dict[str, Any]
    points: tuple[Point, ...]

    @property
    def method(self) -> str:
        return str(self.settings["method"])


@dataclass(frozen=True)
class Dense:
    """The dense control: one value a seed, however many runs started from it."""

    label: str
    by_seed: dict[int, Run]

    @cached_property
    def summaries(self) -> dict[str, Summary]:
        runs = self.by_seed.values()
        return {
            name: summarise([getattr(run.dense, name) for run in runs]) for name in ("top1", "top5", "loss")
        }


@dataclass(frozen=True)
class Task:
    """Everything that was run on one data set with one architecture."""

    dataset: str
    arch: str
    series: tuple[Series, ...]
    dense: tuple[Dense, ...]
    warnings: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        return f"{self.dataset}, {self.arch}"

    @property
    def points(self) -> list[Point]:
        return [point for series in self.series for point in series.points]

    @property
    def runs(self) -> list[Run]:
        return [run for point in self.points for run in point.runs]

    @property
    def targets(self) -> list[Target]:
        return sorted({point.target for point in self.points})

    @property
    def timed(self) -> list[str]:
        """What was timed in any run: `pruned, batch 64`, ..."""
        return list(dict.fromkeys(name for point in self.points for name in point.measured))


def arrange(runs: Sequence[Run]) -> list[Task]:
    """Runs (without repeats) as tasks, in alphabetical order."""
    return [_task(name, found) for name, found in sorted(_grouped(runs, lambda run: run.task).items())]


def _task(name: tuple[str, str], runs: Sequence[Run]) -> Task:
    curves = sorted(_curves(runs), key=_series_order)
    settings = [_settings(curve) for curve in curves]
    varying = differing(settings)
    series = tuple(
        Series(_label(one, varying), one, _points(curve)) for one, curve in zip(settings, curves, strict=True)
    )
    dense = _dense(runs)
    return Task(*name, series, dense, list(_warnings(", ".join(name), runs, series, dense)))


def _curves(runs: Iterable[Run]) -> list[list[Run]]:
    """The runs of each curve: with the same settings, or where every target has its own rounds, all but these."""
    curves: list[list[Run]] = []
    for alike in _grouped(runs, lambda run: key({**run.settings, "rounds": None})).values():
        at_targets = _grouped(alike, lambda run: run.target).values()
        along = all(len({_rounds(run) for run in found}) == 1 for found in at_targets)
        curves += [alike] if along else _grouped(alike, lambda run: key(run.settings)).values()
    return curves


def _settings(curve: Sequence[Run]) -> dict[str, Any]:
    rounds = sorted({_rounds(run) for run in curve})
    return curve[0].settings if len(rounds) == 1 else {**curve[0].settings, "rounds": rounds}


def _rounds(run: Run) -> int:
    rounds: int = run.settings.get("rounds", 1)
    return rounds


def _series_order(runs: Sequence[Run]) -> tuple[bool, str, str]:
    """Alphabetical, with the random baselines last."""
    method = runs[0].method
    return is_random(method), method, key(runs[0].settings)


def _label(settings: dict[str, Any], varying: Iterable[str]) -> str:
    """The method, and whatever else tells the series of a task apart."""
    return describe(settings, {"method", *varying})


def _points(runs: Sequence[Run]) -> tuple[Point, ...]:
    points = [Point(target, tuple(found)) for target, found in _grouped(runs, lambda run: run.target).items()]
    return tuple(sorted(points, key=lambda point: point.summaries["sparsity"].mean))


def _dense(runs: Sequence[Run]) -> tuple[Dense, ...]:
    by_settings = list(_grouped(runs, lambda run: key(run.dense_settings)).values())
    varying = differing(found[0].dense_settings for found in by_settings)
    controls = []
    for found in by_settings:
        words = [describe(found[0].dense_settings, varying)] if varying else []
        first = {seed: same[0] for seed, same in sorted(_grouped(found, lambda run: run.seed).items())}
        controls.append(Dense(", ".join(["dense", *words]), first))
    return tuple(controls)


def _warnings(
    where: str, runs: Sequence[Run], series: Sequence[Series], dense: Sequence[Dense]
) -> Iterable[str]:
    """What a reader must know before comparing the curves of one plot."""
    different = differing(one.settings for one in series)
    other = {name: values for name, values in different.items() if name not in COMPARED}
    if other:
        yield f"{where}: records differ in options that are not compared: {listing(other)}."
    points = [point for one in series for point in one.points]
    for target, found in _grouped(points, lambda point: point.target).items():
        reckoned = (_finetuning_epochs(point.settings) for point in found)
        budgets = sorted({epochs for epochs in reckoned if epochs is not None})
        if len(budgets) > 1:
            told = ", ".join(map(str, budgets))
            yield f"{where}, {target}: fine-tuning budgets differ: {told} epochs in all."
    yield from environment_warning(runs, where)
    single = sum(len(point.runs) == 1 for point in points)
    if single:
        yield f"{where}: {single} of {len(points)} points have one seed only: no spread, and nothing to conclude from."
    if len({tuple(point.seeds) for point in points}) > 1:
        yield f"{where}: points are not all means over the same seeds."
    for control in dense:
        yield from _unequal_dense(where, control, runs)


def _unequal_dense(where: str, control: Dense, runs: Sequence[Run]) -> Iterable[str]:
    for seed, first in control.by_seed.items():
        same = [run for run in runs if run.seed == seed and run.dense_settings == first.dense_settings]
        values = sorted({run.dense.top1 for run in same})
        if len(values) > 1:
            yield (
                f"{where}: runs of seed {seed} started from different dense networks although their options agree "
                f"(top-1 {values[0]:.2f} to {values[-1]:.2f} %)."
            )


def _finetuning_epochs(settings: dict[str, Any]) -> int | None:
    if settings.get("finetune") == "none":
        return 0
    rounds, epochs = settings.get("rounds"), settings.get("finetune_epochs")
    return rounds * epochs if isinstance(rounds, int) and isinstance(epochs, int) else None


def record_warnings(runs: Iterable[Run]) -> list[str]:
    """The warnings that the records themselves carry, each once with the number of runs that have it."""
    counts = Counter(message for run in runs for message in run.record.warnings)
    return [f"{message} ({count} run{'s' if count > 1 else ''})" for message, count in counts.items()]


def _grouped(items: Iterable[Item], by: Callable[[Item], T]) -> dict[T, list[Item]]:
    groups: dict[T, list[Item]] = {}
    for item in items:
        groups.setdefault(by(item), []).append(item)
    return groups


def _whole(values: Sequence[float | None]) -> list[float]:
    """The values if none is missing; else none."""
    return [] if None in values else [value for value in values if value is not None]
