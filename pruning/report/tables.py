"""The numbers of a report as rows, CSV, JSON, Markdown and LaTeX. What was not measured is absent, never NaN."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pruning.report.points import COMPARED, METRICS, Dense, Point, Task
from pruning.report.runs import Target, differing, plain
from pruning.utils.seed_statistics import Summary

SHOWN = {
    "top1": "top-1 accuracy (%)",
    "top5": "top-5 accuracy (%)",
    "compression_ratio": "compression ratio",
    "theoretical_speedup": "theoretical speedup",
}
LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


@dataclass(frozen=True)
class Table:
    """A table ready to be written in any format: cells are text or, with a spread, (mean, deviation)."""

    title: str
    columns: list[str]
    rows: list[list[str | Spread]]


@dataclass(frozen=True)
class Spread:
    """A mean and its sample standard deviation as text with the same digits; None where there is none."""

    mean: str
    std: str | None

    def text(self) -> str:
        return self.mean if self.std is None else f"{self.mean} ± {self.std}"


def spread(summary: Summary | None) -> str | Spread:
    """Two decimals; `-` for what is absent."""
    if summary is None:
        return "-"
    return Spread(f"{summary.mean:.2f}", None if summary.std is None else f"{summary.std:.2f}")


def overview(task: Task, metric: str) -> Table:
    """Series against targets, for one metric; below them, in a column of their own, dense networks that have it."""
    controls = [dense for dense in task.dense if metric in dense.summaries]
    beside = ["dense"] if controls else []
    rows: list[list[str | Spread]] = []
    for series in task.series:
        by_target = {point.target: point for point in series.points}
        cells = [
            spread(by_target[target].summaries.get(metric)) if target in by_target else "-"
            for target in task.targets
        ]
        seeds = _seeds([len(point.runs) for point in series.points])
        rows.append([series.label, seeds, *([""] * len(beside)), *cells])
    for dense in controls:
        cell = spread(dense.summaries[metric])
        rows.append([dense.label, str(len(dense.by_seed)), cell, *([""] * len(task.targets))])
    return Table(f"{task.title}: {SHOWN[metric]}", ["", "seeds", *beside, *map(_heading, task.targets)], rows)


def _heading(target: Target) -> str:
    return f"{target.kind} {target}" if target.kind != "count" else f"{target} removed"


def _seeds(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low}-{high}"


# --- every point ------------------------------------------------------------------------------------------------------


def point_rows(tasks: Sequence[Task]) -> tuple[list[str], list[dict[str, Any]]]:
    """Names of columns, and one row a point: what it is, its seeds, and mean and deviation of every metric."""
    every = [(task, series, point) for task in tasks for series in task.series for point in series.points]
    options = list(dict.fromkeys([*COMPARED, *differing(series.settings for _, series, _ in every)]))
    options = [name for name in options if name not in ("dataset", "arch")]
    rows = [_row(task, point, options) for task, _, point in every]
    return list(dict.fromkeys(name for row in rows for name in row)), rows


def _row(task: Task, point: Point, options: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"dataset": task.dataset, "arch": task.arch}
    row |= {name: point.settings.get(name) for name in options}
    row |= {"target_kind": point.target.kind, "target": point.target.value, "seeds": len(point.runs)}
    every = {name: point.summaries.get(name) for name in METRICS}
    every |= {f"measured_speedup ({name})": summary for name, summary in point.measured.items()}
    for name, summary in every.items():
        row[f"{name}_mean"] = summary.mean if summary else None
        row[f"{name}_std"] = summary.std if summary else None
    return row


def as_csv(tasks: Sequence[Task]) -> str:
    """One line a point; an empty cell is something absent."""
    columns, rows = point_rows(tasks)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {name: " ".join(map(str, cell)) if isinstance(cell, list) else cell for name, cell in row.items()}
        )
    return text.getvalue()


def as_json(tasks: Sequence[Task], warnings: Sequence[str]) -> str:
    """Everything: tasks with dense controls and points, seed by seed. Absent keys are absent numbers."""
    content = {"warnings": list(warnings), "tasks": [_task(task) for task in tasks]}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _task(task: Task) -> dict[str, Any]:
    return {
        "dataset": task.dataset,
        "arch": task.arch,
        "dense": [_dense(dense) for dense in task.dense],
        "series": [
            {
                "label": series.label,
                "settings": series.settings,
                "points": [_point(point) for point in series.points],
            }
            for series in task.series
        ],
    }


def _dense(dense: Dense) -> dict[str, Any]:
    metrics = {name: _summary(summary) for name, summary in dense.summaries.items()}
    by_seed = [
        {"seed": seed, **{name: getattr(run.dense, name) for name in dense.summaries}}
        for seed, run in dense.by_seed.items()
    ]
    return {"label": dense.label, **metrics, "by_seed": by_seed}


def _point(point: Point) -> dict[str, Any]:
    metrics = {name: _summary(summary) for name, summary in point.summaries.items()}
    measured = {name: _summary(summary) for name, summary in point.measured.items()}
    return {
        "target": {point.target.kind: point.target.value},
        "seeds": point.seeds,
        **metrics,
        **({"measured_speedup": measured} if measured else {}),
        "layer_sparsity": point.layers,
        "runs": [
            {
                "name": run.name,
                "seed": run.seed,
                **_present({name: metric(run) for name, metric in METRICS.items()}),
            }
            for run in sorted(point.runs, key=lambda run: run.seed)
        ],
    }


def _summary(summary: Summary) -> dict[str, Any]:
    return _present({"mean": summary.mean, "std": summary.std, "n": summary.n})


def _present(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


# --- for papers -------------------------------------------------------------------------------------------------------


def as_markdown(tasks: Sequence[Task]) -> str:
    """The overviews of every task as Markdown tables: mean ± sample standard deviation."""
    return _document(tasks, _markdown)


def as_latex(tasks: Sequence[Task]) -> str:
    """The same as LaTeX tables."""
    header = "% Needs \\usepackage{booktabs}. Mean and sample standard deviation over seeds.\n"
    return header + _document(tasks, _latex)


def _document(tasks: Sequence[Task], write: Callable[[Table], str]) -> str:
    return "\n".join(write(overview(task, metric)) for task in tasks for metric in SHOWN)


def _markdown(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = ["---", *["---:"] * (len(table.columns) - 1)]
    rows = [[cell if isinstance(cell, str) else cell.text() for cell in row] for row in table.rows]
    return "\n".join([f"### {table.title}", "", *map(line, [table.columns, rule, *rows]), ""])


def _latex(table: Table) -> str:
    def cell(value: str | Spread) -> str:
        if isinstance(value, str):
            return _escape(value)
        return f"${value.mean}$" if value.std is None else f"${value.mean} \\pm {value.std}$"

    lines = [" & ".join(map(cell, row)) + r" \\" for row in table.rows]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escape(table.title)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
            r"\toprule",
            " & ".join(map(_escape, table.columns)) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _escape(text: str) -> str:
    return "".join(LATEX_SPECIAL.get(character, character) for character in text)


# --- conditions -------------------------------------------------------------------------------------------------------


def conditions(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Fields of mappings (environments or settings) as rows of name and value; differing values are all named."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = []
    for name in names:
        values = list(dict.fromkeys(plain(row.get(name)) for row in rows))
        table.append([name, ", ".join(values)])
    return table
