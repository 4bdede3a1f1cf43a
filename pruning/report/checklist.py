"""Check the records against the requirements of Blalock et al. 2020 (sections 6 and 7.3) for an evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pruning.report.runs import canonical_method, is_random_baseline
from pruning.report.tasks import Series, Task
from pruning.utils.text import format_range

MIN_PAIRS, MIN_POINTS, MIN_SEEDS = 3, 5, 3
COMPRESSIONS = (2, 4, 8, 16, 32)
TOLERANCE = 0.25  # relative distance at which a point still counts for one of these compressions
MAGNITUDE_BASELINES = ("global_mag", "layer_mag")


@dataclass(frozen=True)
class ChecklistItem:
    """A requirement of the paper, whether the records meet it, and the evidence for that."""

    requirement: str
    met: bool
    evidence: str


def checklist(tasks: Sequence[Task]) -> list[ChecklistItem]:
    """Return every requirement, in the paper's order."""
    return [check(tasks) for check in CHECKS]


def _pairs(tasks: Sequence[Task]) -> ChecklistItem:
    counted = [task.title for task in tasks if task.dataset != "mnist"]
    return ChecklistItem(
        f"At least {MIN_PAIRS} pairs of data set and architecture, MNIST not counted",
        len(counted) >= MIN_PAIRS,
        f"{len(counted)}: {'; '.join(counted) or 'none'}",
    )


def _names(tasks: Sequence[Task]) -> ChecklistItem:
    private = [task.title for task in tasks if task.dataset.startswith("folder") or ":" in task.arch]
    return ChecklistItem(
        "Exact names of data set and architecture",
        not private,
        f"not public: {'; '.join(private)}" if private else "in every record",
    )


def _ratios(tasks: Sequence[Task]) -> ChecklistItem:
    missing = _points_without(tasks, {"compression_ratio", "theoretical_speedup"})
    return ChecklistItem(
        "Compression ratio and theoretical speedup", not missing, missing or "both, at every point"
    )


def _accuracies(tasks: Sequence[Task]) -> ChecklistItem:
    missing = _points_without(tasks, {"top1", "top5"})
    return ChecklistItem("Top-1 and top-5 accuracy", not missing, missing or "both, at every point")


def _operating_points(tasks: Sequence[Task]) -> ChecklistItem:
    requirement = (
        f"{MIN_POINTS} or more operating points, near compression {', '.join(map(str, COMPRESSIONS))}"
    )
    missing = []
    for task in tasks:
        shortfalls = Counter(found for series in task.series if (found := _shortfall(series)))
        missing += [
            f"{task.title}: {count} of {len(task.series)} series with {found}"
            for found, count in shortfalls.items()
        ]
    return ChecklistItem(requirement, not missing, "; ".join(missing) or "in every series")


def _shortfall(series: Series) -> str:
    """Return the operating points that a series lacks, as text; empty if it has all."""
    summaries = [point.summaries.get("compression_ratio") for point in series.points]
    ratios = [summary.mean for summary in summaries if summary is not None]
    missing = [str(c) for c in COMPRESSIONS if not any(abs(ratio / c - 1) <= TOLERANCE for ratio in ratios)]
    found = [f"only {len(series.points)} points"] if len(series.points) < MIN_POINTS else []
    found += [f"none near {', '.join(missing)}"] if missing else []
    return ", ".join(found)


def _control(tasks: Sequence[Task]) -> ChecklistItem:
    seeds = format_range(len(dense.by_seed) for task in tasks for dense in task.dense)
    return ChecklistItem(
        "The same metrics for the unpruned control",
        True,  # a record without them is refused
        f"in every record, for its dense network; seeds of a control: {seeds}",
    )


def _spread(tasks: Sequence[Task]) -> ChecklistItem:
    points = [point for task in tasks for point in task.points]
    few = sum(len(point.runs) < MIN_SEEDS for point in points)
    return ChecklistItem(
        f"Mean and sample standard deviation over seeds ({MIN_SEEDS} or more), with error bars",
        not few,
        f"seeds of a point: {format_range(len(point.runs) for point in points)}"
        + (f"; {few} of {len(points)} points have fewer than {MIN_SEEDS}" if few else ""),
    )


def _baselines(tasks: Sequence[Task]) -> ChecklistItem:
    missing = []
    for task in tasks:
        methods = {canonical_method(series.method) for series in task.series}
        lacks = [name for name in MAGNITUDE_BASELINES if name not in methods]
        lacks += [] if any(map(is_random_baseline, methods)) else ["random"]
        if lacks:
            missing.append(f"{task.title}: no {', '.join(lacks)}")
    return ChecklistItem(
        "Random and magnitude pruning as baselines, global and layerwise",
        not missing,
        "; ".join(missing) or "in every task",
    )


def _raw(tasks: Sequence[Task]) -> ChecklistItem:
    runs = sum(len(task.runs) for task in tasks)
    return ChecklistItem(
        "Raw accuracies at every point", True, f"{runs} runs, seed by seed, below and in points.json"
    )


def _conditions(tasks: Sequence[Task]) -> ChecklistItem:
    missing = [run.name for task in tasks for run in task.runs if not run.environment]
    return ChecklistItem(
        "Hardware, library versions and hyperparameters",
        not missing,
        f"not recorded for {', '.join(missing)}" if missing else "below, from the records",
    )


def _identical_code(tasks: Sequence[Task]) -> ChecklistItem:
    requirement = "Identical code for every method"
    commits = {run.environment.get("commit") for task in tasks for run in task.runs}
    versions = {run.environment.get("packages.pruning") for task in tasks for run in task.runs}
    if None in commits and len(commits) == len(versions) == 1 and None not in versions:
        return ChecklistItem(requirement, True, f"version {versions.pop()}; no commit recorded")
    if None in commits:
        return ChecklistItem(requirement, False, "some records have no commit")
    uncommitted = any(str(commit).endswith("+") for commit in commits)
    evidence = f"commit {', '.join(sorted(map(str, commits)))}"
    evidence += " (+: with uncommitted changes)" if uncommitted else ""
    return ChecklistItem(requirement, len(commits) == 1 and not uncommitted, evidence)


def _points_without(tasks: Sequence[Task], metrics: set[str]) -> str:
    """Return, as text, the points that lack any of these metrics; empty if there are none."""
    points = [
        f"{task.title}, {series.label} at {point.target}"
        for task in tasks
        for series in task.series
        for point in series.points
        if not metrics <= point.summaries.keys()
    ]
    return f"not at {'; '.join(points)}" if points else ""


CHECKS: tuple[Callable[[Sequence[Task]], ChecklistItem], ...] = (
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
