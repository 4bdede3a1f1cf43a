"""Is A better than B, and by more than the noise between seeds? Paired by seed, everything else equal.

Two runs of one seed share their dense network, data split and order of batches, so that the spread of their difference
is smaller than that of either. The interval for the mean difference is Student's t over the pairs.
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
    Run,
    Target,
    canonical_method,
    describe,
    differing,
    environment_warning,
    key,
    listing,
    read,
    without_repeats,
)
from pruning.utils.seed_statistics import Interval, Summary, confidence_interval, summarise

CONFIDENCE = 0.95
DATA_AND_NETWORK = ("dataset", "data", "arch")


@dataclass(frozen=True)
class Selection:
    """One side of a comparison: what the user called it, and its runs."""

    name: str
    runs: tuple[Run, ...]
    is_method: bool = False


@dataclass(frozen=True)
class Row:
    """A against B at one target. `difference` is top-1 of A - top-1 of B in percentage points, over the pairs.

    It is None without a pair; `interval` (95 %) is None for fewer than two. `where` tells rows of one target apart.
    """

    target: Target
    where: str
    a: Summary
    b: Summary
    difference: Summary | None
    interval: Interval | None

    @property
    def pairs(self) -> int:
        return self.difference.n if self.difference else 0

    @property
    def exceeds_noise(self) -> bool:
        return self.interval is not None and self.interval.excludes_zero()


@dataclass(frozen=True)
class Comparison:
    """Rows in the order of their targets; `differences` are the options in which all of A differ from all of B."""

    a: str
    b: str
    rows: tuple[Row, ...]
    differences: dict[str, list[Any]]
    warnings: list[str]

    def winner(self, row: Row) -> str | None:
        """The better side's name where the difference exceeds the noise; else None."""
        if not row.exceeds_noise or row.difference is None:
            return None
        return self.a if row.difference.mean > 0 else self.b


def select(text: str, runs_dir: Path) -> Selection:
    """The runs that `text` means: a method, a folder (in `runs_dir`, or as it stands), or a pattern (`*` and `?`).

    A method's name means the method, even where a folder has the same name (`./random` is the folder). A pattern is
    matched with the methods and the names of the runs in `runs_dir`. Raises PruningError if nothing is meant.
    """
    folder = next((place for place in (runs_dir / text, Path(text)) if place.is_dir()), None)
    if folder is not None and text not in methods.composed():
        return Selection(text, tuple(read([folder])))
    runs = read([runs_dir])
    of_method = tuple(run for run in runs if run.method == canonical_method(text))
    if of_method:
        return Selection(text, of_method, is_method=True)
    matching = tuple(run for run in runs if fnmatchcase(run.method, text) or fnmatchcase(run.name, text))
    if not matching:
        known = unknown("method", text, sorted({run.method for run in runs}))
        raise PruningError(
            f"In {runs_dir}: {known} A folder of runs, or a pattern of names ('*lr0.1*'), would do too."
        )
    return Selection(text, matching)


def compare(a: Selection, b: Selection) -> Comparison:
    """A against B at every target that both have.

    Between two methods, all other options must agree. Between folders or patterns, options in which all of A differ
    from all of B are what is compared. Raises PruningError if a run is on both sides, or there is nothing to compare.
    """
    both = {run.path.resolve() for run in a.runs} & {run.path.resolve() for run in b.runs}
    if both:
        what = "1 run belongs" if len(both) == 1 else f"{len(both)} runs belong"
        raise PruningError(f"{what} to both {a.name} and {b.name}; a run is not compared with itself.")
    (runs_a, repeats_a), (runs_b, repeats_b) = without_repeats(a.runs), without_repeats(b.runs)
    separating = [name for name in _separating(runs_a, runs_b) if name not in DATA_AND_NETWORK]
    options = ["method"] if a.is_method and b.is_method else separating
    groups_a, groups_b = _groups(runs_a, options), _groups(runs_b, options)
    common = [name for name in groups_a if name in groups_b]
    if not common:
        raise PruningError(_nothing_common(a, b, runs_a, runs_b, options))
    varying = _telling([groups_a[name][0] for name in common], options)
    rows = [_row(groups_a[name], groups_b[name], varying) for name in common]
    differences = {name: _values(runs_a, name) + _values(runs_b, name) for name in options}
    used = [run for name in common for run in (*groups_a[name], *groups_b[name])]
    return Comparison(
        a.name,
        b.name,
        tuple(sorted(rows, key=lambda row: (row.where, row.target))),
        {name: values for name, values in differences.items() if len(set(map(key, values))) > 1},
        [*repeats_a, *repeats_b, *environment_warning(used, f"{a.name} and {b.name}")],
    )


def comparison_table(comparison: Comparison) -> tuple[str, list[str], list[list[str]]]:
    """Title, columns and rows, ready to be shown."""
    a, b = comparison.a, comparison.b
    columns = ["target", f"top-1 {a}", f"top-1 {b}", "difference", "95 % interval", "pairs", "verdict"]
    rows = []
    for row in comparison.rows:
        target = f"{row.target.kind} {row.target}" + (f" ({row.where})" if row.where else "")
        difference = "-" if row.difference is None else f"{row.difference.mean:+.2f}"
        interval = "-" if row.interval is None else f"{row.interval.low:+.2f} to {row.interval.high:+.2f}"
        rows.append(
            [
                target,
                _accuracy(row.a),
                _accuracy(row.b),
                difference,
                interval,
                str(row.pairs),
                verdict(comparison, row),
            ]
        )
    return f"{a} against {b}: top-1 on the test set, in percentage points, paired by seed", columns, rows


def verdict(comparison: Comparison, row: Row) -> str:
    """What the row says, in a few words; a winner is named only where the interval excludes zero."""
    if row.pairs == 0:
        return "no winner: no seed in common"
    if row.pairs == 1:
        return "no winner: one seed says nothing about noise"
    winner = comparison.winner(row)
    return "within the noise" if winner is None else f"{winner} is better"


def notes(comparison: Comparison) -> list[str]:
    """What to know beside the table."""
    found = []
    if len(comparison.differences) > 1 or (comparison.differences and "method" not in comparison.differences):
        found.append(f"What differs: {listing(comparison.differences)}.")
    if sum(row.pairs > 1 for row in comparison.rows) > 1:
        found.append(
            "Each interval stands alone: of twenty such differences, one exceeds the noise by chance."
        )
    return found


def _separating(runs_a: Sequence[Run], runs_b: Sequence[Run]) -> list[str]:
    """The options whose values on one side never occur on the other."""
    names = dict.fromkeys(name for run in (*runs_a, *runs_b) for name in run.settings)
    values = {name: [set(map(key, _values(runs, name))) for runs in (runs_a, runs_b)] for name in names}
    return [name for name, (here, there) in values.items() if not here & there]


def _values(runs: Sequence[Run], name: str) -> list[Any]:
    return list({key(run.settings.get(name)): run.settings.get(name) for run in runs}.values())


def _groups(runs: Sequence[Run], options: Sequence[str]) -> dict[str, list[Run]]:
    """Runs by everything that must be equal but the seed."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        same = {name: value for name, value in run.settings.items() if name not in options}
        groups.setdefault(key([same, run.target.kind, run.target.value]), []).append(run)
    return groups


def _telling(firsts: Sequence[Run], options: Sequence[str]) -> set[str]:
    """The settings, besides `options`, in which rows of the same target differ; by the first run of each row."""
    at: dict[Target, list[dict[str, Any]]] = {}
    for run in firsts:
        at.setdefault(run.target, []).append({**run.settings, **dict.fromkeys(options)})
    return {name for settings in at.values() for name in differing(settings)}


def _row(runs_a: Sequence[Run], runs_b: Sequence[Run], varying: set[str]) -> Row:
    by_seed = {run.seed: run.final.top1 for run in runs_b}
    differences = [run.final.top1 - by_seed[run.seed] for run in runs_a if run.seed in by_seed]
    return Row(
        target=runs_a[0].target,
        where=describe(runs_a[0].settings, varying),
        a=summarise([run.final.top1 for run in runs_a]),
        b=summarise([run.final.top1 for run in runs_b]),
        difference=summarise(differences) if differences else None,
        interval=confidence_interval(differences, CONFIDENCE),
    )


def _nothing_common(
    a: Selection, b: Selection, runs_a: Sequence[Run], runs_b: Sequence[Run], options: list[str]
) -> str:
    targets_a, targets_b = ({run.target for run in runs} for runs in (runs_a, runs_b))
    message = f"{a.name} and {b.name} have nothing to compare: "
    if not targets_a & targets_b:
        shown = [", ".join(map(str, sorted(targets))) for targets in (targets_a, targets_b)]
        return message + f"{a.name} was pruned by {shown[0]}, {b.name} by {shown[1]}."
    different = [name for name in _separating(runs_a, runs_b) if name not in options]
    values = {name: _values(runs_a, name) + _values(runs_b, name) for name in different}
    return message + (
        f"they differ in {listing(values)}." if values else "no two of their runs agree in all else."
    )


def _accuracy(summary: Summary) -> str:
    std = "" if summary.std is None else f" ± {summary.std:.2f}"
    return f"{summary.mean:.2f}{std} (n {summary.n})"
