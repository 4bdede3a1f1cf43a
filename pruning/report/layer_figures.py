"""Draw the sparsity of each layer: one heat map per target, layers in the network's order against series."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pruning.report.figure_files import ReportFigure, save_figure, shorten_title, wrap_label
from pruning.report.runs import Target
from pruning.report.tasks import Task

LABEL_WIDTH = 30  # characters
MAX_LAYERS_WITH_NUMBERS = 40  # with more layers, a cell is too low for a number
MAX_LAYER_NAMES = 60
LIGHT_TEXT_BELOW = 55  # percent; the colour map is dark there
CAPTION = "Weights removed from each layer, in percent; mean over seeds. Layers that are never pruned are not shown."


def draw_layer_figures(task_id: str, task: Task) -> Iterable[ReportFigure]:
    """Draw a heat map per target; the names of the files begin with `task_id`."""
    for number, target in enumerate(task.targets, 1):
        columns = {
            series.label: point.layer_sparsities
            for series in task.series
            for point in series.points
            if point.target == target and point.layer_sparsities
        }
        if columns:
            yield _draw_heat_map(f"{task_id}-layers-{number}", task, target, columns)


def _draw_heat_map(
    name: str, task: Task, target: Target, columns: dict[str, dict[str, float]]
) -> ReportFigure:
    labels = [wrap_label(label, LABEL_WIDTH) for label in columns]
    layers = list(dict.fromkeys(layer for sparsities in columns.values() for layer in sparsities))
    figure = Figure(figsize=_size(layers, labels), layout="constrained")
    panel = figure.add_subplot()
    cells = [[100 * sparsities.get(layer, math.nan) for sparsities in columns.values()] for layer in layers]
    image = panel.imshow(cells, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    panel.grid(visible=False)
    panel.spines[:].set_visible(False)
    panel.tick_params(length=0)
    panel.set_xticks(range(len(labels)), labels, rotation=40, ha="right", rotation_mode="anchor")
    with_numbers = len(layers) <= MAX_LAYERS_WITH_NUMBERS
    step = math.ceil(len(layers) / MAX_LAYER_NAMES)
    panel.set_yticks(
        range(0, len(layers), step), layers[::step], fontsize="medium" if with_numbers else "x-small"
    )
    if with_numbers:
        _write_numbers(panel, cells)
    figure.colorbar(image, ax=panel, label="sparsity (%)", fraction=0.05, pad=0.03)
    figure.suptitle(f"{shorten_title(task.title)}: {target}", fontsize="medium")
    return save_figure(figure, name, f"Sparsity by layer, target {target}", CAPTION)


def _size(layers: Sequence[str], labels: Sequence[str]) -> tuple[float, float]:
    """Return width and height in inches, with room for cells, layer names and slanted labels."""
    label_lines = [label.split("\n") for label in labels]
    longest = max(len(line) for lines in label_lines for line in lines)
    extra_lines = max(map(len, label_lines)) - 1
    left = 0.075 * max(longest * 0.77, *map(len, layers))
    bottom = 0.055 * longest + 0.15 * extra_lines
    row = 0.3 if len(layers) <= 12 else 0.21 if len(layers) <= MAX_LAYERS_WITH_NUMBERS else 0.14
    width = 0.9 + left + (0.55 + 0.25 * extra_lines) * len(labels)
    return max(4.4, width), 0.8 + bottom + row * min(len(layers), MAX_LAYER_NAMES)


def _write_numbers(panel: Axes, cells: Sequence[Sequence[float]]) -> None:
    for y, row in enumerate(cells):
        for x, percent in enumerate(row):
            if not math.isnan(percent):
                # 100 is for empty layers only.
                text = ">99" if 99.5 <= percent < 100 else f"{percent:.0f}"
                colour = "white" if percent < LIGHT_TEXT_BELOW else "black"
                panel.text(x, y, text, ha="center", va="center", color=colour, fontsize=8)
