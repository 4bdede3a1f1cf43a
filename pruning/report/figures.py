"""The figures of a report, drawn by Matplotlib (extra `report`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pruning.report.figure_files import RC_PARAMS, ReportFigure
from pruning.report.series_styles import series_styles
from pruning.report.tasks import Task
from pruning.utils.extras import require_extra


@dataclass(frozen=True)
class TaskFigures:
    """Figures of one task: accuracy against ratios, and sparsity by layer."""

    accuracy: list[ReportFigure]
    layers: list[ReportFigure]

    def all(self) -> list[ReportFigure]:
        return [*self.accuracy, *self.layers]


def draw_figures(tasks: Sequence[Task]) -> list[TaskFigures]:
    """Draw the figures of every task, in the order of the tasks. PruningError if Matplotlib is missing."""
    require_extra("report", "matplotlib", "report")
    import matplotlib

    from pruning.report.accuracy_figures import draw_accuracy_figures
    from pruning.report.layer_figures import draw_layer_figures

    methods = [series.method for task in tasks for series in task.series]
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC_PARAMS)
        return [
            TaskFigures(
                list(draw_accuracy_figures(f"task{number}", task, series_styles(task, methods))),
                list(draw_layer_figures(f"task{number}", task)),
            )
            for number, task in enumerate(tasks, 1)
        ]
