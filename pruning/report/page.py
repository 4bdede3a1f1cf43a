"""Render the report as one HTML page without scripts or external files, for desktop and phone, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pruning.report.checklist import ChecklistItem
from pruning.report.figures import TaskFigures
from pruning.report.runs import differing_fields
from pruning.report.survey import CITATION, published_results
from pruning.report.tables import condition_rows, overview_table
from pruning.report.tasks import METRICS, Point, Series, Task, record_warnings
from pruning.utils.seed_statistics import Summary
from pruning.utils.text import pluralize

TEMPLATES = Path(__file__).parent / "templates"
METRIC_COLUMNS = {
    "top1": "top-1 (%)",
    "top5": "top-5 (%)",
    "loss": "loss",
    "top1_change": "top-1 − dense (points)",
    "sparsity": "sparsity (%)",
    "compression_ratio": "compression (x)",
    "theoretical_speedup": "theoretical speedup (x)",
}
RUN_COLUMNS = (
    "run",
    "seed",
    "dense top-1 (%)",
    "top-1 (%)",
    "top-5 (%)",
    "compression (x)",
    "theoretical speedup (x)",
)
DIGITS = {"loss": 4}  # decimals; 2 for all other metrics
SCALE = {"sparsity": 100}  # shown in percent

Rows = list[list[str]]


@dataclass(frozen=True)
class TaskSection:
    """One task as the template shows it: figures and the text of tables."""

    id: str
    title: str
    figures: TaskFigures
    overview_columns: list[str]
    overview_rows: Rows
    shared_options: Rows
    point_columns: list[str]
    point_rows: Rows


def render_page(
    tasks: Sequence[Task],
    figures: Sequence[TaskFigures],
    items: Sequence[ChecklistItem],
    warnings: Sequence[str],
) -> str:
    """Return the HTML. All text is escaped by Jinja2; only the SVG figures are inserted as they are."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    runs = [run for task in tasks for run in task.runs]
    counts = (
        pluralize(len(runs), "run"),
        pluralize(sum(len(task.points) for task in tasks), "point"),
        pluralize(len({run.seed for run in runs}), "seed"),
    )
    return environment.get_template("page.html").render(
        counts=", ".join(counts),
        warnings=warnings,
        tasks=[
            _task_section(f"task{number}", task, of_task)
            for number, (task, of_task) in enumerate(zip(tasks, figures, strict=True), 1)
        ],
        items=items,
        environment=condition_rows([run.environment for run in runs]),
        run_columns=RUN_COLUMNS,
        run_rows=_run_rows(tasks),
        notes=_notes(tasks),
    )


def _task_section(section_id: str, task: Task, figures: TaskFigures) -> TaskSection:
    overview = overview_table(task, "top1")
    settings = [series.settings for series in task.series]
    varied = differing_fields(settings)
    return TaskSection(
        id=section_id,
        title=task.title,
        figures=figures,
        overview_columns=[name or "series" for name in overview.columns],
        overview_rows=overview.as_text(),
        shared_options=[[name, values] for name, values in condition_rows(settings) if name not in varied],
        point_columns=[
            "series",
            "target",
            "seeds",
            *(METRIC_COLUMNS[name] for name in METRICS),
            *(f"measured speedup, {network} (x)" for network in task.measured_networks),
        ],
        point_rows=[_point_row(task, series, point) for series in task.series for point in series.points],
    )


def _point_row(task: Task, series: Series, point: Point) -> list[str]:
    metrics = [_format_metric(name, point.summaries.get(name)) for name in METRICS]
    measured = [
        _format_metric("speedup", point.measured_speedups.get(name)) for name in task.measured_networks
    ]
    return [series.label, str(point.target), str(len(point.runs)), *metrics, *measured]


def _format_metric(name: str, summary: Summary | None) -> str:
    return "-" if summary is None else summary.format(DIGITS.get(name, 2), SCALE.get(name, 1))


def _run_rows(tasks: Sequence[Task]) -> Rows:
    return [
        [
            run.name,
            str(run.seed),
            f"{run.dense.top1:.2f}",
            f"{run.final.top1:.2f}",
            f"{run.final.top5:.2f}",
            _format_ratio(run.final.compression_ratio),
            _format_ratio(run.final.theoretical_speedup),
        ]
        for task in tasks
        for run in task.runs
    ]


def _format_ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


def _notes(tasks: Sequence[Task]) -> list[str]:
    notes = [
        f"Warning in the records: {message}"
        for message in record_warnings(run for task in tasks for run in task.runs)
    ]
    if any(published_results(task.dataset, task.arch) for task in tasks):
        notes.append(
            f"Published results: {CITATION}. Their dense networks, training and counting differ from ours."
        )
    notes.append(
        "Sparsity is the removed fraction of the prunable weights. Theoretical speedup is the ratio of multiply-adds "
        "(MACs). Only speedups that are called measured were timed."
    )
    return notes
