"""The figures of a report, drawn by Matplotlib (extra `report`): accuracy against ratios, and sparsity by layer.

Colours are those of Okabe and Ito (2008), which colour-blind readers tell apart; markers differ as well. Every
figure is one panel that stays legible at the width of a phone.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from pruning.report.points import Point, Series, Task
from pruning.report.runs import Target, is_random
from pruning.report.survey import Published, published
from pruning.utils.extras import require_extra
from pruning.utils.seed_statistics import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

BLACK, GREY = "#000000", "#999999"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "*", "<", ">", "p")
LINES = ("-", "--", "-.", ":")
BASELINE_MARKERS = ("x", "+", "1", "2")
LEGEND_LINE, HEAT_MAP_LINE = 52, 30  # characters
WIDTH, HEIGHT = 4.8, 3.5  # inches, of the panel and its labels; the legend comes below
LEGEND_ROW = 0.2  # inches
WIDEST = 6.5  # inches that still are legible in a column of the page
LONGEST_TITLE = 46  # characters
FAR, NEAR = 10.0, 5.0  # percentage points below dense: worth a closer look at the top, and what that shows
HEADROOM = 0.3  # percentage points above all that a closer look shows
MOST_CELL_TEXTS = 40  # layers; with more, a cell is too low for a number
STYLE = {
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "svg.fonttype": "path",
    "svg.hashsalt": "pruning",
}
# Empty metadata keep dates, and addresses of vocabularies, out of the files.
SVG_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


@dataclass(frozen=True)
class Figure:
    """A finished figure: file name without suffix, title and caption (plain text), and its two files' contents.

    A `wide` one is not to be shrunk to the width of a column.
    """

    name: str
    title: str
    caption: str
    svg: str
    png: bytes
    wide: bool

    def inline(self) -> str:
        """The SVG as part of an HTML page: no declarations or comments, and ids that no other figure has."""
        body = re.sub(r"<!--.*?-->", "", self.svg[self.svg.index("<svg") :], flags=re.DOTALL)
        body = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", body)
        body = re.sub(r'\bid="([^"]+)"', rf'id="{self.name}-\1"', body)
        body = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{self.name}-", body)
        return body.replace("<svg ", f'<svg role="img" aria-label="{escape(self.title)}" ', 1)


@dataclass(frozen=True)
class Style:
    colour: str
    marker: str
    line: str


@dataclass(frozen=True)
class Axis:
    """What is on the x axis: a file-name word, a label, a point's value there, and a published result's."""

    word: str
    label: str
    of_point: Callable[[Point], Summary | None]
    of_published: Callable[[Published], float | None] = lambda _: None


COMPRESSION = Axis(
    "compression",
    "compression ratio (all / non-zero parameters)",
    lambda point: point.summaries.get("compression_ratio"),
    lambda result: result.compression_ratio,
)
THEORETICAL = Axis(
    "theoretical-speedup",
    "theoretical speedup (multiply-adds, dense / remaining)",
    lambda point: point.summaries.get("theoretical_speedup"),
    lambda result: result.theoretical_speedup,
)


def measured_axis(what: str) -> Axis:
    """The axis of what was timed, `pruned, batch 64` say."""
    word = re.sub(r"[^a-z0-9]+", "-", f"measured speedup {what}".lower())
    return Axis(word, f"measured speedup ({what})", lambda point: point.measured.get(what))


def draw(tasks: Sequence[Task]) -> dict[str, list[Figure]]:
    """All figures, by the title of their task. PruningError if Matplotlib is missing."""
    require_extra("report", "matplotlib", "report")
    import matplotlib
    from matplotlib.figure import Figure as Drawing

    methods = [series.method for task in tasks for series in task.series]
    style: Any = STYLE  # Matplotlib's own type lists the names of all options
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(style)
        return {
            task.title: [
                *_accuracy_figures(Drawing, f"task{number}", task, series_styles(task, methods)),
                *_layer_figures(Drawing, f"task{number}", task),
            ]
            for number, task in enumerate(tasks, 1)
        }


def series_styles(task: Task, methods: Iterable[str]) -> dict[str, Style]:
    """A style for every label of a task; baselines are black and dashed.

    Where a method has but one curve, its style is that of its place among `methods` (those of all tasks), so that it
    looks the same everywhere.
    """
    labels = [series.label for series in task.series]
    own = [series.method for series in task.series]
    order, keys = (sorted(set(methods)), own) if len(set(own)) == len(own) else (labels, labels)
    return {
        label: _style(order.index(key), baseline=is_random(method))
        for label, key, method in zip(labels, keys, own, strict=True)
    }


def _style(place: int, *, baseline: bool) -> Style:
    if baseline:
        return Style(BLACK, BASELINE_MARKERS[place % len(BASELINE_MARKERS)], "--")
    line = LINES[place // len(COLOURS) % len(LINES)]
    return Style(COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)], line)


# --- accuracy ---------------------------------------------------------------------------------------------------------


def _accuracy_figures(
    drawing: type[Drawing], stem: str, task: Task, styles: dict[str, Style]
) -> Iterable[Figure]:
    floor = _near_dense(task)
    for axis in (COMPRESSION, THEORETICAL):
        yield _accuracy(drawing, stem, task, styles, axis, "top1")
        if floor is not None:
            yield _accuracy(drawing, stem, task, styles, axis, "top1", floor)
        yield _accuracy(drawing, stem, task, styles, axis, "top5")
    for axis in map(measured_axis, task.timed):
        yield _accuracy(drawing, stem, task, styles, axis, "top1")


def _near_dense(task: Task) -> float | None:
    """Where the y axis of a closer look begins; None if everything is close anyway, or nothing is."""
    top = max(dense.summaries["top1"].mean for dense in task.dense)
    means = [point.summaries["top1"].mean for point in task.points]
    return top - NEAR if min(means) < top - FAR and max(means) > top - NEAR else None


def _accuracy(
    drawing: type[Drawing],
    stem: str,
    task: Task,
    styles: dict[str, Style],
    axis: Axis,
    metric: str,
    floor: float | None = None,
) -> Figure:
    name = {"top1": "top-1", "top5": "top-5"}[metric]
    figure = drawing(layout="constrained")
    panel = figure.add_subplot()
    survey = _draw_survey(panel, task, axis, metric)
    for place, control in enumerate(task.dense):
        _draw_dense(panel, control.summaries[metric], control.label, LINES[place % len(LINES)])
    for series in task.series:
        _draw_series(panel, series, styles[series.label], axis, metric)
    panel.set_xlabel(axis.label)
    panel.set_ylabel(f"{name} accuracy (%)")
    panel.set_title(_short(task.title), fontsize="medium")
    _ratio_axis(panel)
    top = panel.get_ylim()[1] if floor is None else panel.dataLim.y1 + HEADROOM
    panel.set_ylim(floor, min(top, 100.5))
    _legend_below(figure, panel)
    closer = ", near dense" if floor is not None else ""
    caption = (
        "On the test set. Mean over seeds; bars, and the band of the dense networks, are one sample standard deviation "
        "(a single seed has none)."
    )
    if floor is not None:
        caption += f" Points more than {NEAR:g} percentage points below dense lie under the edge."
    if survey:
        caption += f" Grey: {survey} published results for this data set and network (Blalock et al. 2020)."
    word = f"{stem}-{metric}-{axis.word}" + ("-near-dense" if floor is not None else "")
    return _finish(
        figure, word, f"{name.capitalize()} accuracy against {axis.word.replace('-', ' ')}{closer}", caption
    )


def _draw_series(panel: Axes, series: Series, style: Style, axis: Axis, metric: str) -> None:
    shown = [
        (x, point.summaries[metric]) for point in series.points if (x := axis.of_point(point)) is not None
    ]
    if not shown:
        return
    panel.errorbar(
        [x.mean for x, _ in shown],
        [y.mean for _, y in shown],
        # A bar of zero length is invisible: a single seed has none.
        xerr=[x.std or 0.0 for x, _ in shown],
        yerr=[y.std or 0.0 for _, y in shown],
        label=series.label + (" (baseline)" if is_random(series.method) else ""),
        color=style.colour,
        marker=style.marker,
        linestyle=style.line,
        linewidth=1.4,
        markersize=5,
        elinewidth=1,
        capsize=2.5,
    )


def _draw_dense(panel: Axes, accuracy: Summary, label: str, line: str) -> None:
    panel.axhline(accuracy.mean, color="#444444", linewidth=1, linestyle=line, label=label)
    if accuracy.std is not None:
        low, high = accuracy.mean - accuracy.std, accuracy.mean + accuracy.std
        panel.axhspan(low, high, color="#444444", alpha=0.13, linewidth=0)


def _draw_survey(panel: Axes, task: Task, axis: Axis, metric: str) -> int:
    """Draw the published results, those of one paper and method joined; return how many there are."""
    groups: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for result in published(task.dataset, task.arch):
        x, y = axis.of_published(result), getattr(result, metric)
        if x is not None and y is not None:
            groups.setdefault((result.paper, result.method), []).append((x, y))
    label: str | None = "published (survey)"
    for found in groups.values():
        xs, ys = zip(*sorted(found), strict=True)
        panel.plot(
            xs, ys, color=GREY, marker=".", markersize=5, linewidth=0.7, alpha=0.65, label=label, zorder=1
        )
        label = None
    return sum(map(len, groups.values()))


def _ratio_axis(panel: Axes) -> None:
    """Ratios on a logarithmic axis, marked at 1, 2, 4, ...; closer where the range is small."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    panel.set_xscale("log", base=2)
    low, high = panel.dataLim.intervalx
    if low == high:
        panel.set_xlim(low / 1.5, high * 1.5)
    low, high = panel.get_xlim()
    octaves = math.log2(high / low)
    if octaves < 1.5:
        panel.xaxis.set_major_locator(MaxNLocator(6))
    else:
        panel.xaxis.set_major_locator(FixedLocator(_ratio_ticks(low, high, between=octaves < 4)))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.4g}x"))


def _ratio_ticks(low: float, high: float, *, between: bool) -> list[float]:
    """Powers of two from `low` to `high`, at most eight of them; with 1.5, 3, 6, ... `between` if asked."""
    first, last = math.ceil(math.log2(low)), math.floor(math.log2(high))
    step = math.ceil((last - first + 1) / 8)
    powers = [2.0**k for k in range(first - between, last + 1, step)]
    return sorted([*powers, *(1.5 * power for power in powers if between)])


def _legend_below(figure: Drawing, panel: Axes) -> None:
    from matplotlib.container import ErrorbarContainer

    shown, labels = panel.get_legend_handles_labels()
    handles = [handle[0] if isinstance(handle, ErrorbarContainer) else handle for handle in shown]
    longest = max(map(len, labels))
    columns = 3 if longest <= 16 else 2 if longest <= 30 else 1
    wrapped = [_in_lines(label, LEGEND_LINE) for label in labels]
    rows = math.ceil(sum(label.count("\n") + 1 for label in wrapped) / columns)
    figure.set_size_inches(WIDTH, HEIGHT + LEGEND_ROW * rows)
    figure.legend(handles, wrapped, loc="outside lower center", ncols=columns)


# --- layers -----------------------------------------------------------------------------------------------------------


def _layer_figures(drawing: type[Drawing], stem: str, task: Task) -> Iterable[Figure]:
    """A heat map a target: layers in the network's order against series."""
    for number, target in enumerate(task.targets, 1):
        columns = [
            (series.label, point.layers)
            for series in task.series
            for point in series.points
            if point.target == target and point.layers
        ]
        if columns:
            yield _layers(drawing, f"{stem}-layers-{number}", task, target, columns)


def _layers(
    drawing: type[Drawing],
    name: str,
    task: Task,
    target: Target,
    columns: Sequence[tuple[str, dict[str, float]]],
) -> Figure:
    names = [_in_lines(label, HEAT_MAP_LINE) for label, _ in columns]
    layers = list(dict.fromkeys(layer for _, found in columns for layer in found))
    figure = drawing(figsize=_heat_map_size(layers, names), layout="constrained")
    panel = figure.add_subplot()
    cells = [[100 * found.get(layer, math.nan) for _, found in columns] for layer in layers]
    image = panel.imshow(cells, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    panel.grid(visible=False)
    panel.spines[:].set_visible(False)
    panel.tick_params(length=0)
    panel.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    step = math.ceil(len(layers) / 60)
    size = "medium" if len(layers) <= MOST_CELL_TEXTS else "x-small"
    panel.set_yticks(range(0, len(layers), step), layers[::step], fontsize=size)
    if len(layers) <= MOST_CELL_TEXTS:
        _write_cells(panel, cells)
    figure.colorbar(image, ax=panel, label="sparsity (%)", fraction=0.05, pad=0.03)
    figure.suptitle(f"{_short(task.title)}: {target}", fontsize="medium")
    caption = (
        "Weights removed from each layer, in percent; mean over seeds. Layers never pruned are not shown."
    )
    return _finish(figure, name, f"Sparsity by layer, target {target}", caption)


def _heat_map_size(layers: Sequence[str], labels: Sequence[str]) -> tuple[float, float]:
    """Inches: room for every cell and for the names beside and, slanted, below."""
    lines = [label.split("\n") for label in labels]
    longest = max(len(line) for label in lines for line in label)
    more = max(map(len, lines)) - 1
    beside = 0.075 * max(longest * 0.77, *map(len, layers))
    below = 0.055 * longest + 0.15 * more
    row = 0.3 if len(layers) <= 12 else 0.21 if len(layers) <= MOST_CELL_TEXTS else 0.14
    width = 0.9 + beside + (0.55 + 0.25 * more) * len(labels)
    return max(4.4, width), 0.8 + below + row * min(len(layers), 60)


def _write_cells(panel: Axes, cells: Sequence[Sequence[float]]) -> None:
    for y, row in enumerate(cells):
        for x, percent in enumerate(row):
            if not math.isnan(percent):
                colour = "white" if percent < 55 else "black"
                # Only a layer that is empty has 100.
                text = ">99" if 99.5 <= percent < 100 else f"{percent:.0f}"
                panel.text(x, y, text, ha="center", va="center", color=colour, fontsize=8)


def _in_lines(label: str, longest: int) -> str:
    """A label that fits: a long one in several lines, in which a number stays with its name."""
    return "\n".join(textwrap.wrap(re.sub(r" (?=\d)", "\N{NO-BREAK SPACE}", label), longest)) or label


def _short(title: str) -> str:
    """A title that fits above a panel: a long one loses its middle."""
    half = LONGEST_TITLE // 2
    return title if len(title) <= LONGEST_TITLE else f"{title[:half]}…{title[-half:]}"


def _finish(figure: Drawing, name: str, title: str, caption: str) -> Figure:
    svg, png = io.StringIO(), io.BytesIO()
    metadata: dict[str, Any] = SVG_METADATA
    wide = bool(figure.get_size_inches()[0] > WIDEST)
    figure.savefig(svg, format="svg", metadata=metadata)
    figure.savefig(png, format="png", dpi=200)
    return Figure(name, title, caption, svg.getvalue(), png.getvalue(), wide)
