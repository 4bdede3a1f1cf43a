"""The report as one HTML page: no scripts, no network, figures inside; for a desktop and a phone, light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from pruning.report.checklist import Item
from pruning.report.figures import Figure
from pruning.report.points import METRICS, Point, Series, Task, record_warnings
from pruning.report.runs import differing
from pruning.report.survey import SOURCE, published
from pruning.report.tables import Spread, conditions, overview
from pruning.utils.seed_statistics import Summary

# Nothing may be loaded or run, whatever a record's text contains.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --soft: #5a5a5a; --line: #d9d9d9; --back: #ffffff; --card: #f6f6f4;
  --warn: #fdf3dc; --warn-line: #e69f00; --met: #00664a; --lacks: #a84300; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececec; --soft: #a8a8a8; --line: #3d3d3d; --back: #161616;
  --card: #202020; --warn: #33290f; --warn-line: #e69f00; --met: #4fd0a5; --lacks: #ff9a5c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2, nav a, summary { overflow-wrap: anywhere; }
.checklist { list-style: none; padding: 0; } .checklist li { margin: .7rem 0; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .5rem; }
p, li { max-width: 75ch; overflow-wrap: anywhere; }
.soft, figcaption { color: var(--soft); font-size: .875rem; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin-top: .8rem; }
a { color: inherit; }
.warnings { background: var(--warn); border-left: 4px solid var(--warn-line); padding: .6rem 1rem; margin: 1.2rem 0; }
.warnings h2 { border: 0; margin: 0; padding: 0; font-size: 1rem; }
.warnings ul { margin: .3rem 0; padding-left: 1.2rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); gap: 1rem; }
figure { margin: 0; padding: .7rem; background: var(--card); border-radius: 8px; min-width: 0; }
figure h4 { margin: 0 0 .5rem; font-size: .95rem; }
.plot { background: #ffffff; border-radius: 5px; padding: .4rem; text-align: center; overflow-x: auto; }
.plot svg { max-width: 100%; height: auto; }
.wide { grid-column: 1 / -1; } .wide .plot { text-align: left; } .wide .plot svg { max-width: none; }
figcaption { margin-top: .5rem; }
@media (max-width: 600px) { main { padding: 1rem .6rem 3rem; } figure { padding: .5rem .3rem; } .plot { padding: 0; }
  figure h4, figcaption { margin-left: .3rem; } }
/* A shadow at the edge while there is more to scroll to, covered at the end by what scrolls along. */
.scroll { overflow-x: auto; margin: .5rem 0 1rem; background:
  linear-gradient(to left, var(--back) 40%, transparent) right / 3rem 100% no-repeat local,
  linear-gradient(to left, var(--line), transparent) right / .7rem 100% no-repeat scroll; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .7rem .28rem 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { font-weight: 600; white-space: normal; vertical-align: bottom; min-width: 4.4rem; }
th:first-child, td:first-child, .words td, .words th { text-align: left; }
.words td + td { white-space: normal; overflow-wrap: anywhere; }
.met { color: var(--met); font-weight: 600; } .lacks { color: var(--lacks); font-weight: 600; }
summary { cursor: pointer; margin: .6rem 0; }
"""
SUMMARY_COLUMNS = {
    "top1": "top-1 (%)",
    "top5": "top-5 (%)",
    "loss": "loss",
    "top1_change": "top-1 − dense (points)",
    "sparsity": "sparsity (%)",
    "compression_ratio": "compression (x)",
    "theoretical_speedup": "theoretical speedup (x)",
}
DECIMALS = {"loss": 4}
IN_PERCENT = ("sparsity",)


def page(
    tasks: Sequence[Task],
    figures: Mapping[str, Sequence[Figure]],
    items: Sequence[Item],
    warnings: Sequence[str],
) -> str:
    """The whole page."""
    sections = [
        _header(tasks),
        _warnings(warnings),
        *(_task(number, task, figures[task.title]) for number, task in enumerate(tasks, 1)),
        _checklist(items),
        _conditions(tasks),
        _points(tasks),
        _runs(tasks),
        _notes(tasks),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>Pruning report</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(filter(None, sections))
        + "\n</main>\n</body>\n</html>\n"
    )


def _header(tasks: Sequence[Task]) -> str:
    runs = [run for task in tasks for run in task.runs]
    points = sum(len(task.points) for task in tasks)
    seeds = len({run.seed for run in runs})
    links = [(f"task{n}", task.title) for n, task in enumerate(tasks, 1)]
    links += [
        ("checklist", "Checklist"),
        ("conditions", "Conditions"),
        ("points", "All points"),
        ("runs", "All runs"),
    ]
    nav = "".join(f'<a href="#{anchor}">{escape(text)}</a>' for anchor, text in links)
    counts = (_count(len(runs), "run"), _count(points, "point"), _count(seeds, "seed"))
    return f'<h1>Pruning report</h1>\n<p class="soft">{", ".join(counts)}.</p>\n<nav>{nav}</nav>'


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    return f'<section class="warnings"><h2>Before comparing</h2><ul>{items}</ul></section>'


def _task(number: int, task: Task, figures: Sequence[Figure]) -> str:
    accuracy = [figure for figure in figures if "layers" not in figure.name]
    layers = [figure for figure in figures if "layers" in figure.name]
    parts = [
        f'<section id="task{number}"><h2>{escape(task.title)}</h2>',
        _overview(task, "top1"),
        f'<div class="figures">{"".join(map(_figure, accuracy))}</div>',
    ]
    if layers:
        parts.append("<h3>Sparsity by layer</h3>")
        parts.append(f'<div class="figures">{"".join(map(_figure, layers))}</div>')
    return "\n".join([*parts, "</section>"])


def _overview(task: Task, metric: str) -> str:
    table = overview(task, metric)
    rows = [[cell.text() if isinstance(cell, Spread) else cell for cell in row] for row in table.rows]
    return _table([name or "series" for name in table.columns], rows, "Top-1 accuracy (%) by target")


def _figure(figure: Figure) -> str:
    kind = ' class="wide"' if figure.wide else ""
    return (
        f'<figure{kind}><h4>{escape(figure.title)}</h4><div class="plot">{figure.inline()}</div>'
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
    )


def _checklist(items: Sequence[Item]) -> str:
    rows = "".join(
        f'<li><span class="{"met" if item.met else "lacks"}">{"✓ met" if item.met else "✗ lacking"}</span> '
        f'{escape(item.asked)}<br><span class="soft">{escape(item.found)}</span></li>'
        for item in items
    )
    met = sum(item.met for item in items)
    return (
        '<section id="checklist"><h2>What the paper asks of an evaluation</h2>'
        f"<p>This report meets {met} of {len(items)} demands of Blalock et al. 2020 (arXiv 2003.03033).</p>"
        f'<ul class="checklist">{rows}</ul></section>'
    )


def _conditions(tasks: Sequence[Task]) -> str:
    runs = [run for task in tasks for run in task.runs]
    environment = conditions([run.environment for run in runs])
    parts = [
        '<section id="conditions"><h2>Conditions</h2>',
        _words(["hardware and versions", ""], environment),
    ]
    for task in tasks:
        settings = [series.settings for series in task.series]
        varied = set(differing(settings))
        rows = [[name, values] for name, values in conditions(settings) if name not in varied]
        parts.append(f"<details><summary>Options of {escape(task.title)} that all its curves share</summary>")
        parts.append(_words(["option", "value"], rows) + "</details>")
    return "\n".join([*parts, "</section>"])


def _points(tasks: Sequence[Task]) -> str:
    parts = ['<section id="points"><h2>All points</h2>']
    parts.append('<p class="soft">Mean ± sample standard deviation over seeds; the same in points.csv.</p>')
    for task in tasks:
        columns = ["series", "target", "seeds", *(SUMMARY_COLUMNS[name] for name in METRICS)]
        columns += [f"measured speedup, {what} (x)" for what in task.timed]
        rows = [_point_row(task, series, point) for series in task.series for point in series.points]
        parts.append(_table(columns, rows, task.title))
    return "\n".join([*parts, "</section>"])


def _point_row(task: Task, series: Series, point: Point) -> list[str]:
    metrics = [_number(name, point.summaries.get(name)) for name in METRICS]
    measured = [_number("measured", point.measured.get(what)) for what in task.timed]
    return [series.label, str(point.target), str(len(point.runs)), *metrics, *measured]


def _number(name: str, summary: Summary | None) -> str:
    if summary is None:
        return "-"
    scale, digits = (100 if name in IN_PERCENT else 1), DECIMALS.get(name, 2)
    mean = f"{scale * summary.mean:.{digits}f}"
    return mean if summary.std is None else f"{mean} ± {scale * summary.std:.{digits}f}"


def _runs(tasks: Sequence[Task]) -> str:
    columns = [
        "run",
        "seed",
        "dense top-1 (%)",
        "top-1 (%)",
        "top-5 (%)",
        "compression (x)",
        "theoretical speedup (x)",
    ]
    rows = [
        [
            run.name,
            str(run.seed),
            f"{run.dense.top1:.2f}",
            f"{run.final.top1:.2f}",
            f"{run.final.top5:.2f}",
            _ratio(run.final.compression_ratio),
            _ratio(run.final.theoretical_speedup),
        ]
        for task in tasks
        for run in task.runs
    ]
    return (
        '<section id="runs"><h2>All runs</h2><details><summary>Raw numbers, run by run</summary>'
        + _table(columns, rows)
        + "</details></section>"
    )


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _notes(tasks: Sequence[Task]) -> str:
    found = record_warnings(run for task in tasks for run in task.runs)
    notes = [f"In the records: {message}" for message in found]
    if any(published(task.dataset, task.arch) for task in tasks):
        notes.append(
            f"Published results: {SOURCE}. Their dense networks, training and counting differ from ours."
        )
    notes.append(
        "Sparsity is the fraction removed of the prunable weights. Theoretical speedup counts multiply-adds; "
        "only what is called measured was timed."
    )
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<section><h2>Notes</h2><ul>{items}</ul></section>"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "", kind: str = "") -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    title = f'<p class="soft">{escape(caption)}</p>' if caption else ""
    attribute = f' class="{kind}"' if kind else ""
    return f'{title}<div class="scroll"><table{attribute}><tr>{head}</tr>{body}</table></div>'


def _words(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return _table(columns, rows, kind="words")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
