"""What many runs say together: a report that people look at, and a comparison of two sets of runs. From records alone.

The rooms, in the order in which a report passes through them::

    runs          records, read strictly
    points        runs -> tasks, series, points over seeds
    survey        what was published for the same data set and network
    checklist     what the paper asks of an evaluation
    figures       SVG and PNG (Matplotlib, extra `report`)
    tables        CSV, JSON, Markdown, LaTeX
    page          the HTML page
    comparison    A against B, paired by seed
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pruning.report import figures, tables
from pruning.report.checklist import checklist
from pruning.report.comparison import (
    Comparison,
    Row,
    Selection,
    compare,
    comparison_table,
    notes,
    select,
    verdict,
)
from pruning.report.page import page
from pruning.report.points import arrange
from pruning.report.runs import read, without_repeats
from pruning.utils import files

__all__ = [
    "Comparison",
    "Report",
    "Row",
    "Selection",
    "compare",
    "comparison_table",
    "notes",
    "select",
    "verdict",
    "write",
]


@dataclass(frozen=True)
class Report:
    """What `write` wrote: the page, all files, how many runs and points they show, and what to know of them."""

    page: Path
    files: tuple[Path, ...]
    runs: int
    points: int
    warnings: tuple[str, ...]


def write(folders: Sequence[Path], out: Path) -> Report:
    """Write the report on all complete runs in `folders` and below them into the folder `out`.

    Files: index.html, points.csv, points.json, tables.md, tables.tex, and every figure as .svg and .png. Raises
    PruningError if a folder is missing, has no complete run or a damaged record, if `out` cannot be written to, or
    if Matplotlib is missing; nothing is written then.
    """
    files.check_writable(out, "--out")
    runs, repeats = without_repeats(read(folders))
    tasks = arrange(runs)
    warnings = [*repeats, *(warning for task in tasks for warning in task.warnings)]
    drawn = figures.draw(tasks)
    contents: dict[str, str | bytes] = {
        "points.csv": tables.as_csv(tasks),
        "points.json": tables.as_json(tasks, warnings),
        "tables.md": tables.as_markdown(tasks),
        "tables.tex": tables.as_latex(tasks),
    }
    for figure in (figure for found in drawn.values() for figure in found):
        contents |= {f"{figure.name}.svg": figure.svg, f"{figure.name}.png": figure.png}
    contents["index.html"] = page(tasks, drawn, checklist(tasks), warnings)
    for name, content in contents.items():
        files.write_bytes(out / name, content.encode() if isinstance(content, str) else content)
    return Report(
        page=out / "index.html",
        files=tuple(out / name for name in contents),
        runs=len(runs),
        points=sum(len(task.points) for task in tasks),
        warnings=tuple(warnings),
    )
