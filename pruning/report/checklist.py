"""What the paper asks of an evaluation (Blalock et al. 2020, sections 6 and 7.3), and whether these records give it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pruning.report.points import Series, Task
from pruning.report.runs import is_random

PAIRS, OPERATING_POINTS, SEEDS = 3, 5, 3
COMPRESSIONS = (2, 4, 8, 16, 32)
TOLERANCE = 0.25  # relative distance at which a point still stands for one of these compressions
MAGNITUDE = ("global_mag", "layer_mag")


@dataclass(frozen=True)
class Item:
    """One demand: what is asked, whether it is met, and what is there or lacking."""

    asked: str
    met: bool
    found: str


def checklist(tasks: Sequence[Task]) -> list[Item]:
    """Every demand of the paper, in its order."""
    return [check(tasks) for check in CHECKS]


def _pairs(tasks: Sequence[Task]) -> Item:
    beyond = [task.title for task in tasks if task.dataset != "mnist"]
    return Item(
        f"At least {PAIRS} pairs of data set and architecture, MNIST not counted",
        len(beyond) >= PAIRS,
        f"{len(beyond)}: {'; '.join(beyond) or 'none'}",
    )


def _names(tasks: Sequence[Task]) -> Item:
    vague = [task.title for task in tasks if task.dataset.startswith("folder") or ":" in task.arch]
    return Item(
        "Exact names of data set and architecture",
        not vague,
        f"only the owner knows what these are: {'; '.join(vague)}" if vague else "each record names both",
    )


def _ratios(tasks: Sequence[Task]) -> Item:
    lacking = _points_where(tasks, lambda names: not {"compression_ratio", "theoretical_speedup"} <= names)
    return Item("Compression ratio and theoretical speedup", not lacking, lacking or "both, at every point")


def _accuracies(tasks: Sequence[Task]) -> Item:
    lacking = _points_where(tasks, lambda names: not {"top1", "top5"} <= names)
    return Item("Top-1 and top-5 accuracy", not lacking, lacking or "both, at every point")


def _operating_points(tasks: Sequence[Task]) -> Item:
    asked = (
        f"{OPERATING_POINTS} or more operating points, near compression {', '.join(map(str, COMPRESSIONS))}"
    )
    lacking = []
    for task in tasks:
        shortfalls = Counter(found for series in task.series if (found := _shortfall(series)))
        lacking += [
            f"{task.title}: {count} of {len(task.series)} series with {found}"
            for found, count in shortfalls.items()
        ]
    return Item(asked, not lacking, "; ".join(lacking) or "in every series")


def _shortfall(series: Series) -> str:
    """What a series lacks of the operating points asked for; nothing if it has them."""
    summaries = [point.summaries.get("compression_ratio") for point in series.points]
    ratios = [summary.mean for summary in summaries if summary is not None]
    missing = [str(c) for c in COMPRESSIONS if not any(abs(ratio / c - 1) <= TOLERANCE for ratio in ratios)]
    words = [f"only {len(series.points)} points"] if len(series.points) < OPERATING_POINTS else []
    words += [f"none near {', '.join(missing)}"] if missing else []
    return ", ".join(words)


def _control(tasks: Sequence[Task]) -> Item:
    seeds = sorted({len(dense.by_seed) for task in tasks for dense in task.dense})
    return Item(
        "The same metrics for the unpruned control",
        True,
        f"every record holds them for its dense network; seeds of a control: {_range(seeds)}",
    )


def _spread(tasks: Sequence[Task]) -> Item:
    points = [point for task in tasks for point in task.points]
    few = sum(len(point.runs) < SEEDS for point in points)
    return Item(
        f"Mean and sample standard deviation over seeds ({SEEDS} or more), with error bars",
        not few,
        f"seeds of a point: {_range(sorted({len(point.runs) for point in points}))}"
        + (f"; {few} of {len(points)} points have fewer than {SEEDS}" if few else ""),
    )


def _baselines(tasks: Sequence[Task]) -> Item:
    lacking = []
    for task in tasks:
        there = {series.method for series in task.series}
        missing = [name for name in MAGNITUDE if name not in there]
        missing += [] if any(map(is_random, there)) else ["random"]
        if missing:
            lacking.append(f"{task.title}: no {', '.join(missing)}")
    return Item(
        "Random and magnitude pruning as baselines, global and layerwise",
        not lacking,
        "; ".join(lacking) or "all there",
    )


def _raw(tasks: Sequence[Task]) -> Item:
    runs = sum(len(task.runs) for task in tasks)
    return Item("Raw accuracies at every point", True, f"{runs} runs, seed by seed, below and in points.json")


def _conditions(tasks: Sequence[Task]) -> Item:
    lacking = [run.name for task in tasks for run in task.runs if not run.environment]
    return Item(
        "Hardware, library versions and hyperparameters",
        not lacking,
        f"not recorded for {', '.join(lacking)}" if lacking else "below, from the records",
    )


def _identical_code(tasks: Sequence[Task]) -> Item:
    asked = "Identical code for every method"
    commits = {run.environment.get("commit") for task in tasks for run in task.runs}
    versions = {run.environment.get("packages.pruning") for task in tasks for run in task.runs}
    if None in commits and len(commits) == len(versions) == 1 and None not in versions:
        return Item(asked, True, f"version {versions.pop()}; no commit recorded")
    if None in commits:
        return Item(asked, False, "not every record says which commit made it")
    edited = any(str(commit).endswith("+") for commit in commits)
    found = f"commit {', '.join(sorted(map(str, commits)))}"
    found += " (+: with changes that were not committed)" if edited else ""
    return Item(asked, len(commits) == 1 and not edited, found)


def _points_where(tasks: Sequence[Task], lacks: Callable[[set[str]], bool]) -> str:
    found = [
        f"{task.title}, {series.label} at {point.target}"
        for task in tasks
        for series in task.series
        for point in series.points
        if lacks(set(point.summaries))
    ]
    return f"not at {'; '.join(found)}" if found else ""


def _range(numbers: Iterable[int]) -> str:
    ordered = list(numbers)
    return str(ordered[0]) if len(ordered) == 1 else f"{ordered[0]} to {ordered[-1]}"


CHECKS: tuple[Callable[[Sequence[Task]], Item], ...] = (
    _pairs,
    _names,
    _ratios,
    _accuracies,
    _operating_points,
    _control,
    _spread,
    _baselines,
    _raw,
    _conditions,
    _identical_code,
)
