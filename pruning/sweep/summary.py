"""The finished runs of a sweep in one table: top-1 over the seeds. Everything else is for `report` and `compare`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pruning.config.options import TARGET_OPTIONS
from pruning.sweep.grid import distinguishing_options
from pruning.sweep.plan import Run
from pruning.utils.seed_statistics import Summary, summarise

Key = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table as text; the first `words` columns tell the rows apart."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    words: int


def table(runs: Sequence[Run], done: Mapping[str, Mapping[str, Any]]) -> Table:
    """Final top-1 (percent), mean ± sample standard deviation over seeds.

    A row for every choice that the grid makes besides seed and amount, a column for every amount, dense first.
    """
    names = distinguishing_options([run.choices for run in runs])
    amount = next((name for name in names if name in TARGET_OPTIONS), None)
    across = [name for name in names if name not in ("seed", amount)]
    top1: dict[tuple[Key, str], list[float]] = {}
    dense: dict[Key, dict[str, float]] = {}
    for run in runs:
        record = done.get(run.name)
        if record is not None:
            key = tuple(str(run.choices.get(name, "")) for name in across)
            column = str(run.choices.get(amount, getattr(run.config, amount))) if amount else "top-1"
            top1.setdefault((key, column), []).append(record["final"]["top1"])
            dense.setdefault(key, {})[str(run.dense or run.config.seed)] = record["dense"]["top1"]
    keys = list(dict.fromkeys(key for key, _ in top1))
    amounts = _in_order({column for _, column in top1})
    rows = [
        [*key, _spread([*dense[key].values()]), *(_spread(top1.get((key, one), [])) for one in amounts)]
        for key in keys
    ]
    by = f" by {amount}" if amount else ""
    title = f"top-1 (percent){by}, mean ± sample standard deviation over seeds"
    return Table(title, [*across, "dense", *amounts], rows, len(across))


def _in_order(values: Iterable[str]) -> list[str]:
    """Numbers by size, then the rest by name."""

    def key(value: str) -> tuple[bool, float, str]:
        try:
            return False, float(value), value
        except ValueError:
            return True, 0.0, value

    return sorted(values, key=key)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    found: Summary = summarise(values)
    return f"{found.mean:.2f}" + ("" if found.std is None else f" ± {found.std:.2f}")
