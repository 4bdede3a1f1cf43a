"""Draw accuracy against compression ratio and speedup: one panel per figure, legible at the width of a phone."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from pruning.report.figure_files import ReportFigure, save_figure, shorten_title, wrap_label
from pruning.report.runs import is_random_baseline
from pruning.report.series_styles import LINES, SeriesStyle
from pruning.report.survey import PublishedResult, published_results
from pruning.report.tasks import Point, Series, Task
from pruning.utils.seed_statistics import Summary

DENSE_COLOUR, SURVEY_COLOUR = "#444444", "#999999"
WIDTH, HEIGHT = 4.8, 3.5  # inches, of the panel with its axis labels; the legend is below it
LEGEND_ROW = 0.2  # inches
LEGEND_WIDTH = 52  # characters
METRIC_NAMES = {"top1": "top-1", "top5": "top-5"}
# If some points are more than ZOOM_TRIGGER percentage points below the dense network, a second figure shows the range
# from ZOOM_RANGE below it to HEADROOM above all points.
ZOOM_TRIGGER, ZOOM_RANGE, HEADROOM = 10.0, 5.0, 0.3


@dataclass(frozen=True)
class RatioAxis:
    """The x axis of a figure.

    Attributes:
        slug: the ratio as part of a file name.
        label: the label of the axis.
        of_point: the ratio of a point; None where it is absent.
        of_published: the ratio of a published result; None where it is absent.
    """

    slug: str
    label: str
    of_point: Callable[[Point], Summary | None]
    of_published: Callable[[PublishedResult], float | None] = lambda _: None


COMPRESSION = RatioAxis(
    "compression",
    "compression ratio (all / non-zero parameters)",
    lambda point: point.summaries.get("compression_ratio"),
    lambda result: result.compression_ratio,
)
THEORETICAL_SPEEDUP = RatioAxis(
    "theoretical-speedup",
    "theoretical speedup (MACs, dense / remaining)",
    lambda point: point.summaries.get("theoretical_speedup"),
    lambda result: result.theoretical_speedup,
)


def measured_speedup_axis(network: str) -> RatioAxis:
    """Return the axis for the measured speedup of a network and batch size, such as `pruned, batch 64`."""
    slug = re.sub(r"[^a-z0-9]+", "-", f"measured speedup {network}".lower())
    return RatioAxis(
        slug, f"measured speedup ({network})", lambda point: point.measured_speedups.get(network)
    )


def draw_accuracy_figures(task_id: str, task: Task, styles: dict[str, SeriesStyle]) -> Iterable[ReportFigure]:
    """Draw every accuracy figure of a task; the names of the files begin with `task_id`."""
    floor = _zoom_floor(task)
    for axis in (COMPRESSION, THEORETICAL_SPEEDUP):
        yield _draw_accuracy(task_id, task, styles, axis, "top1")
        if floor is not None:
            yield _draw_accuracy(task_id, task, styles, axis, "top1", floor)
    for axis in map(measured_speedup_axis, task.measured_networks):
        yield _draw_accuracy(task_id, task, styles, axis, "top1")
    for axis in (COMPRESSION, THEORETICAL_SPEEDUP):
        yield _draw_accuracy(task_id, task, styles, axis, "top5")


def _zoom_floor(task: Task) -> float | None:
    """Return the lower end of the zoomed y axis; None if all points are near the dense network, or none is."""
    dense = max(control.summaries["top1"].mean for control in task.dense)
    means = [point.summaries["top1"].mean for point in task.points]
    return (
        dense - ZOOM_RANGE if min(means) < dense - ZOOM_TRIGGER and max(means) > dense - ZOOM_RANGE else None
    )


def _draw_accuracy(
    task_id: str,
    task: Task,
    styles: dict[str, SeriesStyle],
    axis: RatioAxis,
    metric: str,
    floor: float | None = None,
) -> ReportFigure:
    figure = Figure(layout="constrained")
    panel = figure.add_subplot()
    published = _draw_survey(panel, task, axis, metric)
    for index, control in enumerate(task.dense):
        _draw_dense(panel, control.summaries[metric], control.label, LINES[index % len(LINES)])
    for series in task.series:
        _draw_series(panel, series, styles[series.label], axis, metric)
    panel.set_xlabel(axis.label)
    panel.set_ylabel(f"{METRIC_NAMES[metric]} accuracy (%)")
    panel.set_title(shorten_title(task.title), fontsize="medium")
    _scale_ratio_axis(panel)
    top = panel.get_ylim()[1] if floor is None else panel.dataLim.y1 + HEADROOM
    panel.set_ylim(floor, min(top, 100.5))
    _add_legend_below(figure, panel)
    name = f"{task_id}-{metric}-{axis.slug}" + ("-near-dense" if floor is not None else "")
    title = f"{METRIC_NAMES[metric].capitalize()} accuracy against {axis.slug.replace('-', ' ')}"
    title += ", near dense" if floor is not None else ""
    return save_figure(figure, name, title, _caption(published, zoomed=floor is not None))


def _caption(published: int, *, zoomed: bool) -> str:
    caption = (
        "On the test set. Mean over seeds. Error bars and the band of the dense networks are one sample standard "
        "deviation; a single seed has none."
    )
    if zoomed:
        caption += f" Points more than {ZOOM_RANGE:g} percentage points below dense are not visible."
    if published:
        caption += (
            f" Grey: {published} published results for this data set and network (Blalock et al. 2020)."
        )
    return caption


def _draw_series(panel: Axes, series: Series, style: SeriesStyle, axis: RatioAxis, metric: str) -> None:
    points = [
        (x, point.summaries[metric]) for point in series.points if (x := axis.of_point(point)) is not None
    ]
    if not points:
        return
    panel.errorbar(
        [x.mean for x, _ in points],
        [y.mean for _, y in points],
        # A single seed has no deviation; an error bar of length zero is invisible.
        xerr=[x.std or 0.0 for x, _ in points],
        yerr=[y.std or 0.0 for _, y in points],
        label=series.label + (" (baseline)" if is_random_baseline(series.method) else ""),
        color=style.colour,
        marker=style.marker,
        linestyle=style.line,
        linewidth=1.4,
        markersize=5,
        elinewidth=1,
        capsize=2.5,
    )


def _draw_dense(panel: Axes, accuracy: Summary, label: str, line: str) -> None:
    panel.axhline(accuracy.mean, color=DENSE_COLOUR, linewidth=1, linestyle=line, label=label)
    if accuracy.std is not None:
        low, high = accuracy.mean - accuracy.std, accuracy.mean + accuracy.std
        panel.axhspan(low, high, color=DENSE_COLOUR, alpha=0.13, linewidth=0)


def _draw_survey(panel: Axes, task: Task, axis: RatioAxis, metric: str) -> int:
    """Draw the published results, with a line through those of one paper and method; return their number."""
    lines: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for result in published_results(task.dataset, task.arch):
        x, y = axis.of_published(result), getattr(result, metric)
        if x is not None and y is not None:
            lines.setdefault((result.paper, result.method), []).append((x, y))
    label: str | None = "published (survey)"
    for points in lines.values():
        xs, ys = zip(*sorted(points), strict=True)
        panel.plot(
            xs,
            ys,
            color=SURVEY_COLOUR,
            marker=".",
            markersize=5,
            linewidth=0.7,
            alpha=0.65,
            label=label,
            zorder=1,
        )
        label = None
    return sum(map(len, lines.values()))


def _scale_ratio_axis(panel: Axes) -> None:
    """Scale the x axis by log2, with ticks at 1, 2, 4, ..., closer together for a small range."""
    panel.set_xscale("log", base=2)
    low, high = panel.dataLim.intervalx
    if low == high:
        panel.set_xlim(low / 1.5, high * 1.5)
    low, high = panel.get_xlim()
    octaves = math.log2(high / low)
    if octaves < 1.5:
        panel.xaxis.set_major_locator(MaxNLocator(6))
    else:
        panel.xaxis.set_major_locator(FixedLocator(_ratio_ticks(low, high, with_halves=octaves < 4)))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.4g}x"))


def _ratio_ticks(low: float, high: float, *, with_halves: bool) -> list[float]:
    """Return at most eight powers of two from `low` to `high`; `with_halves` adds 1.5, 3, 6, ..."""
    first, last = math.ceil(math.log2(low)), math.floor(math.log2(high))
    step = math.ceil((last - first + 1) / 8)
    powers = [2.0**k for k in range(first - with_halves, last + 1, step)]
    return sorted([*powers, *(1.5 * power for power in powers if with_halves)])


def _add_legend_below(figure: Figure, panel: Axes) -> None:
    handles, labels = panel.get_legend_handles_labels()
    # The legend shows the line of a series without its error bars.
    handles = [handle[0] if isinstance(handle, ErrorbarContainer) else handle for handle in handles]
    longest = max(map(len, labels))
    columns = 3 if longest <= 16 else 2 if longest <= 30 else 1
    wrapped = [wrap_label(label, LEGEND_WIDTH) for label in labels]
    rows = math.ceil(sum(label.count("\n") + 1 for label in wrapped) / columns)
    figure.set_size_inches(WIDTH, HEIGHT + LEGEND_ROW * rows)
    figure.legend(handles, wrapped, loc="outside lower center", ncols=columns)
