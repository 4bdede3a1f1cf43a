"""Group runs for a report: tasks (data set and architecture), in them series (one curve), in them points (over seeds).

A point is the runs that have the same options except the seed. It summarizes their final networks; earlier rounds of a
run are not points of their own, because they are not independent of the final one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from pruning.report.runs import (
    CompletedRun,
    Target,
    differing_fields,
    environment_warnings,
    format_fields,
    format_settings,
    is_random_baseline,
    json_key,
)
from pruning.utils.seed_statistics import Summary, summarize
from pruning.utils.text import pluralize

Item = TypeVar("Item")
Key = TypeVar("Key")

METRICS: dict[str, Callable[[CompletedRun], float | None]] = {
    "top1": lambda run: run.final.top1,
    "top5": lambda run: run.final.top5,
    "loss": lambda run: run.final.loss,
    "top1_change": lambda run: run.final.top1 - run.dense.top1,
    "sparsity": lambda run: run.final.sparsity,
    "compression_ratio": lambda run: run.final.compression_ratio,
    "theoretical_speedup": lambda run: run.final.theoretical_speedup,
}
# The options that a plot compares; all other options should be the same for every curve of a task.
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
    """The runs that differ only in the seed."""

    target: Target
    runs: tuple[CompletedRun, ...]

    @property
    def settings(self) -> dict[str, Any]:
        return self.runs[0].settings

    @property
    def seeds(self) -> list[int]:
        return sorted(run.seed for run in self.runs)

    @cached_property
    def summaries(self) -> dict[str, Summary]:
        """Metric -> summary over the seeds. A metric that a run lacks (an empty network has no ratio) is absent."""
        values = {name: [metric(run) for run in self.runs] for name, metric in METRICS.items()}
        return _summaries_of_complete(values)

    @cached_property
    def measured_speedups(self) -> dict[str, Summary]:
        """Network and batch size (`pruned, batch 64`) -> measured speedup, where all runs have it."""
        names = dict.fromkeys(name for run in self.runs for name in run.measured_speedups)
        values = {name: [run.measured_speedups.get(name) for run in self.runs] for name in names}
        return _summaries_of_complete(values)

    @cached_property
    def layer_sparsities(self) -> dict[str, float]:
        """Eligible layer -> mean sparsity over the seeds, in the network's order."""
        values: dict[str, list[float]] = {}
        for run in self.runs:
            for layer in run.record.layers:
                if layer.pruned:
                    values.setdefault(layer.name, []).append(layer.sparsity)
        return {layer: summarize(sparsities).mean for layer, sparsities in values.items()}


@dataclass(frozen=True)
class Series:
    """One curve: points that differ only in the target, in the order of their sparsity.

    Along a curve the number of rounds may grow with the target; `settings` then has the list of these numbers.
    """

    label: str
    settings: dict[str, Any]
    points: tuple[Point, ...]

    @property
    def method(self) -> str:
        return str(self.settings["method"])


@dataclass(frozen=True)
class DenseControl:
    """The dense networks of a task: one run for each seed, even if several runs started from its network."""

    label: str
    by_seed: dict[int, CompletedRun]

    @cached_property
    def summaries(self) -> dict[str, Summary]:
        runs = self.by_seed.values()
        return {
            name: summarize([getattr(run.dense, name) for run in runs]) for name in ("top1", "top5", "loss")
        }


@dataclass(frozen=True)
class Task:
    """All runs on one data set with one architecture."""

    dataset: str
    arch: str
    series: tuple[Series, ...]
    dense: tuple[DenseControl, ...]
    warnings: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        return f"{self.dataset}, {self.arch}"

    @property
    def points(self) -> list[Point]:
        return [point for series in self.series for point in series.points]

    @property
    def runs(self) -> list[CompletedRun]:
        return [run for point in self.points for run in point.runs]

    @property
    def targets(self) -> list[Target]:
        return sorted({point.target for point in self.points})

    @property
    def measured_networks(self) -> list[str]:
        """Networks and batch sizes with a measured speedup: `pruned, batch 64`, ..."""
        return list(dict.fromkeys(name for point in self.points for name in point.measured_speedups))


def make_tasks(runs: Sequence[CompletedRun]) -> list[Task]:
    """Group runs (without repeats) into tasks, in alphabetical order."""
    return [_make_task(name, found) for name, found in sorted(_group(runs, lambda run: run.task).items())]


def record_warnings(runs: Iterable[CompletedRun]) -> list[str]:
    """Return the warnings in the records, each once with the number of runs that have it."""
    counts = Counter(message for run in runs for message in run.record.warnings)
    return [f"{message} ({pluralize(count, 'run')})" for message, count in counts.items()]


def _make_task(name: tuple[str, str], runs: Sequence[CompletedRun]) -> Task:
    curves = sorted(_split_into_curves(runs), key=_baselines_last)
    settings = [_curve_settings(curve) for curve in curves]
    label_options = {"method", *differing_fields(settings)}
    series = tuple(
        Series(format_settings(one, label_options), one, _make_points(curve))
        for one, curve in zip(settings, curves, strict=True)
    )
    dense = _dense_controls(runs)
    return Task(*name, series, dense, list(_task_warnings(", ".join(name), runs, series, dense)))


def _split_into_curves(runs: Iterable[CompletedRun]) -> list[list[CompletedRun]]:
    """Split runs by settings. Runs of different numbers of rounds are one curve if each target has one number."""
    curves: list[list[CompletedRun]] = []
    for alike in _group(runs, lambda run: json_key({**run.settings, "rounds": None})).values():
        by_target = _group(alike, lambda run: run.target).values()
        one_number_each = all(len({_rounds(run) for run in found}) == 1 for found in by_target)
        curves += [alike] if one_number_each else _group(alike, lambda run: json_key(run.settings)).values()
    return curves


def _curve_settings(curve: Sequence[CompletedRun]) -> dict[str, Any]:
    rounds = sorted({_rounds(run) for run in curve})
    return curve[0].settings if len(rounds) == 1 else {**curve[0].settings, "rounds": rounds}


def _rounds(run: CompletedRun) -> int:
    rounds: int = run.settings.get("rounds", 1)
    return rounds


def _baselines_last(runs: Sequence[CompletedRun]) -> tuple[bool, str, str]:
    """Sort key for curves: alphabetical, random baselines last."""
    method = runs[0].method
    return is_random_baseline(method), method, json_key(runs[0].settings)


def _make_points(runs: Sequence[CompletedRun]) -> tuple[Point, ...]:
    points = [Point(target, tuple(found)) for target, found in _group(runs, lambda run: run.target).items()]
    return tuple(sorted(points, key=lambda point: point.summaries["sparsity"].mean))


def _dense_controls(runs: Sequence[CompletedRun]) -> tuple[DenseControl, ...]:
    by_settings = list(_group(runs, lambda run: json_key(run.dense_settings)).values())
    label_options = differing_fields(found[0].dense_settings for found in by_settings)
    controls = []
    for found in by_settings:
        options = [format_settings(found[0].dense_settings, label_options)] if label_options else []
        first = {seed: same[0] for seed, same in sorted(_group(found, lambda run: run.seed).items())}
        controls.append(DenseControl(", ".join(["dense", *options]), first))
    return tuple(controls)


def _task_warnings(
    task: str, runs: Sequence[CompletedRun], series: Sequence[Series], dense: Sequence[DenseControl]
) -> Iterable[str]:
    """Yield the reasons why the curves of a task are not fully comparable."""
    different = differing_fields(one.settings for one in series)
    not_compared = {name: values for name, values in different.items() if name not in COMPARED}
    if not_compared:
        yield f"{task}: records differ in options that are not compared: {format_fields(not_compared)}."
    points = [point for one in series for point in one.points]
    for target, found in _group(points, lambda point: point.target).items():
        epochs = (_finetune_epochs(point.settings) for point in found)
        budgets = sorted({number for number in epochs if number is not None})
        if len(budgets) > 1:
            numbers = ", ".join(map(str, budgets))
            yield f"{task}, {target}: fine-tuning budgets differ: {numbers} epochs in all."
    yield from environment_warnings(runs, task)
    single = sum(len(point.runs) == 1 for point in points)
    if single:
        yield (
            f"{task}: {single} of {len(points)} points have one seed only, so their spread and the "
            "significance of differences are unknown."
        )
    if len({tuple(point.seeds) for point in points}) > 1:
        yield f"{task}: points are not all means over the same seeds."
    for control in dense:
        yield from _unequal_dense_warnings(task, control, runs)


def _unequal_dense_warnings(task: str, control: DenseControl, runs: Sequence[CompletedRun]) -> Iterable[str]:
    for seed, first in control.by_seed.items():
        same = [run for run in runs if run.seed == seed and run.dense_settings == first.dense_settings]
        values = sorted({run.dense.top1 for run in same})
        if len(values) > 1:
            yield (
                f"{task}: runs of seed {seed} started from different dense networks although their options agree "
                f"(top-1 {values[0]:.2f} to {values[-1]:.2f} %)."
            )


def _finetune_epochs(settings: dict[str, Any]) -> int | None:
    """Return the fine-tuning epochs of all rounds; None if the settings do not determine them."""
    if settings.get("finetune") == "none":
        return 0
    rounds, epochs = settings.get("rounds"), settings.get("finetune_epochs")
    return rounds * epochs if isinstance(rounds, int) and isinstance(epochs, int) else None


def _group(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def _summaries_of_complete(values: dict[str, list[float | None]]) -> dict[str, Summary]:
    """Return a summary of every list that has no missing value."""
    complete = {
        name: [value for value in found if value is not None]
        for name, found in values.items()
        if None not in found
    }
    return {name: summarize(found) for name, found in complete.items() if found}
