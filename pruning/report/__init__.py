"""Reports on many runs, and comparisons of two sets of runs, from their records alone.

Read in this order::

    runs          read and check records
    tasks         runs -> tasks, series, points over seeds
    survey        published results for the same data set and network
    checklist     requirements of Blalock et al. 2020 for an evaluation
    figures       SVG and PNG (Matplotlib, extra `report`): accuracy_figures, layer_figures
    tables        CSV, JSON, Markdown, LaTeX
    page          the HTML page: templates/page.html, templates/page.css
    comparison    A against B, paired by seed
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pruning.report import tables
from pruning.report.checklist import checklist
from pruning.report.comparison import (
    Comparison,
    ComparisonRow,
    Selection,
    compare,
    comparison_notes,
    comparison_table,
    select_runs,
    verdict,
)
from pruning.report.figures import draw_figures
from pruning.report.page import render_page
from pruning.report.runs import drop_repeats, read_runs
from pruning.report.tasks import make_tasks
from pruning.utils import files

__all__ = [
    "Comparison",
    "ComparisonRow",
    "Selection",
    "WrittenReport",
    "compare",
    "comparison_notes",
    "comparison_table",
    "select_runs",
    "verdict",
    "write_report",
]


@dataclass(frozen=True)
class WrittenReport:
    """The files of a report, the numbers of runs and points in it, and the warnings."""

    page: Path
    files: tuple[Path, ...]
    runs: int
    points: int
    warnings: tuple[str, ...]


def write_report(folders: Sequence[Path], out: Path) -> WrittenReport:
    """Write a report on all complete runs in `folders` and below to the folder `out`.

    Files: index.html, points.csv, points.json, tables.md, tables.tex, and every figure as .svg and .png.

    Raises:
        PruningError: a folder is missing, has no complete run or a damaged record, `out` cannot be written to, or
            Matplotlib is missing. Nothing is written then.
    """
    files.check_folder_writable(out, "--out")
    runs, repeats = drop_repeats(read_runs(folders))
    tasks = make_tasks(runs)
    warnings = [*repeats, *(warning for task in tasks for warning in task.warnings)]
    figures = draw_figures(tasks)
    contents: dict[str, str | bytes] = {
        "points.csv": tables.as_csv(tasks),
        "points.json": tables.as_json(tasks, warnings),
        "tables.md": tables.as_markdown(tasks),
        "tables.tex": tables.as_latex(tasks),
    }
    for figure in (figure for of_task in figures for figure in of_task.all()):
        contents |= {f"{figure.name}.svg": figure.svg, f"{figure.name}.png": figure.png}
    contents["index.html"] = render_page(tasks, figures, checklist(tasks), warnings)
    for name, content in contents.items():
        files.write_bytes_atomic(out / name, content.encode() if isinstance(content, str) else content)
    return WrittenReport(
        page=out / "index.html",
        files=tuple(out / name for name in contents),
        runs=len(runs),
        points=sum(len(task.points) for task in tasks),
        warnings=tuple(warnings),
    )
