"""Colours, markers and line styles of curves.

The colours are those of Okabe and Ito (2008), which colour-blind readers can distinguish; markers differ as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pruning.report.runs import is_random_baseline
from pruning.report.tasks import Task

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "*", "<", ">", "p")
LINES = ("-", "--", "-.", ":")
BASELINE_COLOUR = "#000000"
BASELINE_MARKERS = ("x", "+", "1", "2")


@dataclass(frozen=True)
class SeriesStyle:
    """Style of one curve, as Matplotlib names it."""

    colour: str
    marker: str
    line: str


def series_styles(task: Task, methods: Iterable[str]) -> dict[str, SeriesStyle]:
    """Return the style of every series of a task by its label; random baselines are black and dashed.

    Args:
        task: the task.
        methods: the methods of all tasks. If each method has only one curve in this task, its place among them
            determines its style, so that a method looks the same in every task.
    """
    labels = [series.label for series in task.series]
    task_methods = [series.method for series in task.series]
    one_curve_each = len(set(task_methods)) == len(task_methods)
    order, keys = (sorted(set(methods)), task_methods) if one_curve_each else (labels, labels)
    return {
        label: _style(order.index(key), is_random_baseline(method))
        for label, key, method in zip(labels, keys, task_methods, strict=True)
    }


def _style(index: int, is_baseline: bool) -> SeriesStyle:
    if is_baseline:
        return SeriesStyle(BASELINE_COLOUR, BASELINE_MARKERS[index % len(BASELINE_MARKERS)], "--")
    line = LINES[index // len(COLOURS) % len(LINES)]
    return SeriesStyle(COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)], line)
