"""Write the numbers of a report as CSV, JSON, Markdown and LaTeX. A number that was not measured is absent, not NaN."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pruning.report.runs import Target, differing_fields, format_value
from pruning.report.tasks import COMPARED, METRICS, DenseControl, Point, Task
from pruning.utils.seed_statistics import Summary
from pruning.utils.text import format_range

# Metrics that have a table for papers, with their names there.
PAPER_METRICS = {
    "top1": "top-1 accuracy (%)",
    "top5": "top-5 accuracy (%)",
    "compression_ratio": "compression ratio",
    "theoretical_speedup": "theoretical speedup",
}
LATEX_ESCAPES = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}

Cell = str | Summary


@dataclass(frozen=True)
class OverviewTable:
    """One metric of a task: a row per series or dense network, a column per target."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]

    def as_text(self) -> list[list[str]]:
        """Return the rows with summaries as `mean ± std`."""
        return [[cell if isinstance(cell, str) else cell.format() for cell in row] for row in self.rows]


def overview_table(task: Task, metric: str) -> OverviewTable:
    """Return the table of one metric; dense networks that have the metric are in a column of their own."""
    controls = [control for control in task.dense if metric in control.summaries]
    dense_column = ["dense"] if controls else []
    rows: list[list[Cell]] = []
    for series in task.series:
        by_target = {point.target: point for point in series.points}
        cells = [
            by_target[target].summaries.get(metric, "-") if target in by_target else "-"
            for target in task.targets
        ]
        seeds = format_range(len(point.runs) for point in series.points)
        rows.append([series.label, seeds, *([""] * len(dense_column)), *cells])
    for control in controls:
        seeds, empty = str(len(control.by_seed)), [""] * len(task.targets)
        rows.append([control.label, seeds, control.summaries[metric], *empty])
    columns = ["", "seeds", *dense_column, *map(_heading, task.targets)]
    return OverviewTable(f"{task.title}: {PAPER_METRICS[metric]}", columns, rows)


def _heading(target: Target) -> str:
    return f"{target.kind} {target}" if target.kind != "count" else f"{target} removed"


# --- CSV and JSON: every point ----------------------------------------------------------------------------------------


def as_csv(tasks: Sequence[Task]) -> str:
    """Return one line per point; an empty cell is an absent value."""
    columns, rows = point_rows(tasks)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {name: " ".join(map(str, cell)) if isinstance(cell, list) else cell for name, cell in row.items()}
        )
    return text.getvalue()


def point_rows(tasks: Sequence[Task]) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the names of the columns and a row per point: its settings, seeds, and mean and deviation per metric."""
    settings = [series.settings for task in tasks for series in task.series]
    options = list(dict.fromkeys([*COMPARED, *differing_fields(settings)]))
    options = [name for name in options if name not in ("dataset", "arch")]
    rows = [_point_row(task, point, options) for task in tasks for point in task.points]
    return list(dict.fromkeys(name for row in rows for name in row)), rows


def _point_row(task: Task, point: Point, options: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"dataset": task.dataset, "arch": task.arch}
    row |= {name: point.settings.get(name) for name in options}
    row |= {"target_kind": point.target.kind, "target": point.target.value, "seeds": len(point.runs)}
    summaries = {name: point.summaries.get(name) for name in METRICS}
    summaries |= {f"measured_speedup ({name})": found for name, found in point.measured_speedups.items()}
    for name, summary in summaries.items():
        row[f"{name}_mean"] = summary.mean if summary else None
        row[f"{name}_std"] = summary.std if summary else None
    return row


def as_json(tasks: Sequence[Task], warnings: Sequence[str]) -> str:
    """Return the tasks with dense controls, series, points and single runs. Absent keys are absent numbers."""
    content = {"warnings": list(warnings), "tasks": [_task_json(task) for task in tasks]}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _task_json(task: Task) -> dict[str, Any]:
    return {
        "dataset": task.dataset,
        "arch": task.arch,
        "dense": [_dense_json(control) for control in task.dense],
        "series": [
            {
                "label": series.label,
                "settings": series.settings,
                "points": [_point_json(point) for point in series.points],
            }
            for series in task.series
        ],
    }


def _dense_json(control: DenseControl) -> dict[str, Any]:
    metrics = {name: _summary_json(summary) for name, summary in control.summaries.items()}
    by_seed = [
        {"seed": seed, **{name: getattr(run.dense, name) for name in control.summaries}}
        for seed, run in control.by_seed.items()
    ]
    return {"label": control.label, **metrics, "by_seed": by_seed}


def _point_json(point: Point) -> dict[str, Any]:
    metrics = {name: _summary_json(summary) for name, summary in point.summaries.items()}
    measured = {name: _summary_json(summary) for name, summary in point.measured_speedups.items()}
    return {
        "target": {point.target.kind: point.target.value},
        "seeds": point.seeds,
        **metrics,
        **({"measured_speedup": measured} if measured else {}),
        "layer_sparsity": point.layer_sparsities,
        "runs": [
            {
                "name": run.name,
                "seed": run.seed,
                **_without_none({name: metric(run) for name, metric in METRICS.items()}),
            }
            for run in sorted(point.runs, key=lambda run: run.seed)
        ],
    }


def _summary_json(summary: Summary) -> dict[str, Any]:
    return _without_none({"mean": summary.mean, "std": summary.std, "n": summary.n})


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


# --- Markdown and LaTeX: tables for papers ----------------------------------------------------------------------------


def as_markdown(tasks: Sequence[Task]) -> str:
    """Return the overview tables of every task in Markdown: mean ± sample standard deviation."""
    return _all_overviews(tasks, _markdown)


def as_latex(tasks: Sequence[Task]) -> str:
    """Return the overview tables of every task in LaTeX (booktabs)."""
    header = "% Needs \\usepackage{booktabs}. Mean and sample standard deviation over seeds.\n"
    return header + _all_overviews(tasks, _latex)


def _all_overviews(tasks: Sequence[Task], write: Callable[[OverviewTable], str]) -> str:
    return "\n".join(write(overview_table(task, metric)) for task in tasks for metric in PAPER_METRICS)


def _markdown(table: OverviewTable) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    alignment = ["---", *["---:"] * (len(table.columns) - 1)]
    return "\n".join([f"### {table.title}", "", *map(line, [table.columns, alignment, *table.as_text()]), ""])


def _latex(table: OverviewTable) -> str:
    def cell(value: Cell) -> str:
        if isinstance(value, str):
            return _escape_latex(value)
        return f"${value.format()}$".replace("±", r"\pm")

    lines = [" & ".join(map(cell, row)) + r" \\" for row in table.rows]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_escape_latex(table.title)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
            r"\toprule",
            " & ".join(map(_escape_latex, table.columns)) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _escape_latex(text: str) -> str:
    return "".join(LATEX_ESCAPES.get(character, character) for character in text)


# --- conditions -------------------------------------------------------------------------------------------------------


def condition_rows(mappings: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return a row of name and value per field of the mappings (environments or settings); all values that occur."""
    names = list(dict.fromkeys(name for mapping in mappings for name in mapping))
    rows = []
    for name in names:
        values = list(dict.fromkeys(format_value(mapping.get(name)) for mapping in mappings))
        rows.append([name, ", ".join(values)])
    return rows
