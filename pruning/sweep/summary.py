"""Summarise the finished runs of a sweep in one table of top-1 accuracy. Use `report` and `compare` for the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pruning.config.options import TARGET_OPTIONS
from pruning.sweep.grid import distinguishing_options
from pruning.sweep.plan import PlannedRun
from pruning.utils.seed_statistics import summarize


@dataclass(frozen=True)
class SummaryTable:
    """A table as text; its first `label_columns` columns identify a row, the others hold numbers."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    label_columns: int


def summary_table(runs: Sequence[PlannedRun], records: Mapping[str, Mapping[str, Any]]) -> SummaryTable:
    """Return the final top-1 (percent), mean ± sample standard deviation over seeds.

    A row is a combination of the grid's choices without seed and pruning target. Columns are the dense network and
    every target.

    Args:
        runs: the runs of the sweep.
        records: the records of the finished runs, by name.
    """
    names = distinguishing_options([run.choices for run in runs])
    target = next((name for name in names if name in TARGET_OPTIONS), None)
    labels = [name for name in names if name not in ("seed", target)]
    final: dict[tuple[tuple[str, ...], str], list[float]] = {}
    dense: dict[tuple[str, ...], dict[str, float]] = {}
    for run in runs:
        record = records.get(run.name)
        if record is not None:
            label = tuple(str(run.choices.get(name, "")) for name in labels)
            column = str(run.choices.get(target, getattr(run.config, target))) if target else "top-1"
            final.setdefault((label, column), []).append(record["final"]["top1"])
            # Runs that share a dense network count once.
            dense.setdefault(label, {})[str(run.dense_key or run.config.seed)] = record["dense"]["top1"]
    columns = _sorted_numbers_first({column for _, column in final})
    rows = [
        [*label, _format([*dense[label].values()]), *(_format(final.get((label, c), [])) for c in columns)]
        for label in dict.fromkeys(label for label, _ in final)
    ]
    by = f" by {target}" if target else ""
    title = f"top-1 (%){by}, mean ± sample std over seeds"
    return SummaryTable(title, [*labels, "dense", *columns], rows, len(labels))


def _sorted_numbers_first(texts: Iterable[str]) -> list[str]:
    """Sort numbers by value, then other texts by name."""

    def key(text: str) -> tuple[bool, float, str]:
        try:
            return False, float(text), text
        except ValueError:
            return True, 0.0, text

    return sorted(texts, key=key)


def _format(values: Sequence[float]) -> str:
    return summarize(values).format() if values else ""
