"""Compare two sets of runs, A and B, with a paired t-interval over seeds.

Runs are paired by seed, with all other options equal. Two runs of one seed share their dense network, data split and
order of batches, so their difference varies less than either accuracy. The confidence interval of the mean
difference is Student's t-interval over the pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pruning.axes import methods
from pruning.errors import PruningError
from pruning.registry import unknown
from pruning.report.runs import (
    CompletedRun,
    Target,
    canonical_method,
    differing_fields,
    drop_repeats,
    environment_warnings,
    format_fields,
    format_settings,
    json_key,
    read_runs,
    unify_method_names,
)
from pruning.utils.seed_statistics import Interval, Summary, confidence_interval, summarize
from pruning.utils.text import pluralize

CONFIDENCE = 0.95
# Runs that differ in one of these are never compared.
DATA_AND_NETWORK = ("dataset", "data", "arch")


@dataclass(frozen=True)
class Selection:
    """One side of a comparison: its name as the user wrote it, and its runs."""

    name: str
    runs: tuple[CompletedRun, ...]
    is_method: bool = False


@dataclass(frozen=True)
class ComparisonRow:
    """A against B at one target.

    Attributes:
        target: the pruning target.
        label: the settings that distinguish rows of the same target; empty if there are none.
        a, b: top-1 of each side, in percent.
        difference: top-1 of A - top-1 of B over the pairs, in percentage points; None without a pair.
        interval: 95 % confidence interval of the mean difference; None for fewer than two pairs.
    """

    target: Target
    label: str
    a: Summary
    b: Summary
    difference: Summary | None
    interval: Interval | None

    @property
    def pairs(self) -> int:
        return self.difference.n if self.difference else 0

    @property
    def is_significant(self) -> bool:
        return self.interval is not None and self.interval.excludes_zero()


@dataclass(frozen=True)
class Comparison:
    """Rows in the order of their targets; `differing_options` are the options without a common value of A and B."""

    a: str
    b: str
    rows: tuple[ComparisonRow, ...]
    differing_options: dict[str, list[Any]]
    warnings: list[str]

    def winner(self, row: ComparisonRow) -> str | None:
        """Return the name of the better side; None if the difference is not significant at the 95 % level."""
        if not row.is_significant or row.difference is None:
            return None
        return self.a if row.difference.mean > 0 else self.b


def select_runs(text: str, runs_dir: Path) -> Selection:
    """Select runs by method, folder or name pattern (`*`, `?`).

    Args:
        text: a method, a folder, or a pattern of methods or run names. If a method and a folder have the same name, the
            method is selected; `./random` selects the folder.
        runs_dir: the folder of records to search, also for the folder `text`.

    Raises:
        PruningError: nothing matches.
    """
    folder = next((path for path in (runs_dir / text, Path(text)) if path.is_dir()), None)
    if folder is not None and text not in methods.composed():
        return Selection(text, tuple(read_runs([folder])))
    runs = read_runs([runs_dir])
    of_method = tuple(run for run in runs if canonical_method(run.method) == canonical_method(text))
    if of_method:
        return Selection(text, of_method, is_method=True)
    matching = tuple(run for run in runs if fnmatchcase(run.method, text) or fnmatchcase(run.name, text))
    if not matching:
        known = unknown("method", text, sorted({run.method for run in runs}))
        raise PruningError(
            f"In {runs_dir}: {known} A folder of runs or a pattern of names ('*lr0.1*') is also possible."
        )
    return Selection(text, matching)


def compare(a: Selection, b: Selection) -> Comparison:
    """Compare A with B at every target that both have.

    Two methods are compared with all other options equal. Folders or patterns can differ in further options, if A and B
    have no value of these options in common.

    Raises:
        PruningError: a run is on both sides, or no two runs are comparable.
    """
    common_runs = {run.path.resolve() for run in a.runs} & {run.path.resolve() for run in b.runs}
    if common_runs:
        raise PruningError(
            f"{pluralize(len(common_runs), 'run')} {'is' if len(common_runs) == 1 else 'are'} in both {a.name} and "
            f"{b.name}. Choose two sets without common runs."
        )
    runs = unify_method_names([*a.runs, *b.runs])
    runs_a, repeats_a = drop_repeats(runs[: len(a.runs)])
    runs_b, repeats_b = drop_repeats(runs[len(a.runs) :])
    separating = [name for name in _separating_options(runs_a, runs_b) if name not in DATA_AND_NETWORK]
    options = ["method"] if a.is_method and b.is_method else separating
    groups_a, groups_b = _group_comparable(runs_a, options), _group_comparable(runs_b, options)
    common = [key for key in groups_a if key in groups_b]
    if not common:
        raise PruningError(_nothing_to_compare(a, b, runs_a, runs_b, options))
    label_options = _label_options([groups_a[key][0] for key in common], options)
    rows = [_compare_groups(groups_a[key], groups_b[key], label_options) for key in common]
    differing = {name: _values(runs_a, name) + _values(runs_b, name) for name in options}
    used = [run for key in common for run in (*groups_a[key], *groups_b[key])]
    return Comparison(
        a.name,
        b.name,
        tuple(sorted(rows, key=lambda row: (row.label, row.target))),
        {name: values for name, values in differing.items() if len(set(map(json_key, values))) > 1},
        [*repeats_a, *repeats_b, *environment_warnings(used, f"{a.name} and {b.name}")],
    )


def comparison_table(comparison: Comparison) -> tuple[str, list[str], list[list[str]]]:
    """Return the title, columns and rows of the comparison as text."""
    a, b = comparison.a, comparison.b
    columns = ["target", f"top-1 {a}", f"top-1 {b}", "difference", "95 % interval", "pairs", "verdict"]
    rows = []
    for row in comparison.rows:
        target = f"{row.target.kind} {row.target}" + (f" ({row.label})" if row.label else "")
        difference = "-" if row.difference is None else f"{row.difference.mean:+.2f}"
        interval = "-" if row.interval is None else f"{row.interval.low:+.2f} to {row.interval.high:+.2f}"
        accuracies = [f"{side.format()} (n {side.n})" for side in (row.a, row.b)]
        rows.append([target, *accuracies, difference, interval, str(row.pairs), verdict(comparison, row)])
    return f"{a} and {b}: test top-1 (%) and difference (percentage points), paired by seed", columns, rows


def verdict(comparison: Comparison, row: ComparisonRow) -> str:
    """Return the conclusion of a row: the better side, if the 95 % interval excludes zero."""
    if row.pairs == 0:
        return "inconclusive: no common seed"
    if row.pairs == 1:
        return "inconclusive: only one common seed"
    winner = comparison.winner(row)
    return "not significantly different" if winner is None else f"{winner} is better"


def comparison_notes(comparison: Comparison) -> list[str]:
    """Return notes that explain the table."""
    notes = []
    if len(comparison.differing_options) > 1 or (
        comparison.differing_options and "method" not in comparison.differing_options
    ):
        notes.append(f"A and B differ in: {format_fields(comparison.differing_options)}.")
    if sum(row.pairs > 1 for row in comparison.rows) > 1:
        notes.append(
            "The intervals are not corrected for multiple comparisons: without any true difference, about one "
            "in twenty is significant by chance."
        )
    return notes


def _separating_options(runs_a: Sequence[CompletedRun], runs_b: Sequence[CompletedRun]) -> list[str]:
    """Return the options that have no value in common between the two sides."""
    names = dict.fromkeys(name for run in (*runs_a, *runs_b) for name in run.settings)
    values = {name: [set(map(json_key, _values(runs, name))) for runs in (runs_a, runs_b)] for name in names}
    return [name for name, (values_a, values_b) in values.items() if not values_a & values_b]


def _values(runs: Sequence[CompletedRun], name: str) -> list[Any]:
    return list({json_key(run.settings.get(name)): run.settings.get(name) for run in runs}.values())


def _group_comparable(
    runs: Sequence[CompletedRun], compared_options: Sequence[str]
) -> dict[str, list[CompletedRun]]:
    """Group runs by target and by every option except the seed and the compared options."""
    groups: dict[str, list[CompletedRun]] = {}
    for run in runs:
        equal = {name: value for name, value in run.settings.items() if name not in compared_options}
        groups.setdefault(json_key([equal, run.target.kind, run.target.value]), []).append(run)
    return groups


def _label_options(first_runs: Sequence[CompletedRun], compared_options: Sequence[str]) -> set[str]:
    """Return the options that distinguish rows of the same target, given the first run of each row."""
    by_target: dict[Target, list[dict[str, Any]]] = {}
    for run in first_runs:
        by_target.setdefault(run.target, []).append({**run.settings, **dict.fromkeys(compared_options)})
    return {name for settings in by_target.values() for name in differing_fields(settings)}


def _compare_groups(
    runs_a: Sequence[CompletedRun], runs_b: Sequence[CompletedRun], label_options: set[str]
) -> ComparisonRow:
    by_seed = {run.seed: run.final.top1 for run in runs_b}
    differences = [run.final.top1 - by_seed[run.seed] for run in runs_a if run.seed in by_seed]
    return ComparisonRow(
        target=runs_a[0].target,
        label=format_settings(runs_a[0].settings, label_options),
        a=summarize([run.final.top1 for run in runs_a]),
        b=summarize([run.final.top1 for run in runs_b]),
        difference=summarize(differences) if differences else None,
        interval=confidence_interval(differences, CONFIDENCE),
    )


def _nothing_to_compare(
    a: Selection,
    b: Selection,
    runs_a: Sequence[CompletedRun],
    runs_b: Sequence[CompletedRun],
    compared_options: list[str],
) -> str:
    """Return the error message for two sides without comparable runs."""
    targets_a, targets_b = ({run.target for run in runs} for runs in (runs_a, runs_b))
    message = f"{a.name} and {b.name} have no comparable runs: "
    if not targets_a & targets_b:
        texts = [", ".join(map(str, sorted(targets))) for targets in (targets_a, targets_b)]
        return message + f"the targets of {a.name} are {texts[0]}, those of {b.name} {texts[1]}."
    different = [name for name in _separating_options(runs_a, runs_b) if name not in compared_options]
    values = {name: _values(runs_a, name) + _values(runs_b, name) for name in different}
    return message + (
        f"they differ in {format_fields(values)}." if values else "no two of them agree in all other options."
    )
