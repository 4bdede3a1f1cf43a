"""Written reports: their numbers equal those computed from the records with NumPy; the page is self-contained."""

from __future__ import annotations

import csv
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from jinja2.utils import markupsafe
from made_records import LAYERS, measured, record, save, save_grid

from pruning import report
from pruning.errors import PruningError
from pruning.report.runs import read_runs
from pruning.report.tables import overview_table
from pruning.report.tasks import Task, make_tasks

METRICS = ("top1", "top5", "loss", "sparsity", "compression_ratio", "theoretical_speedup")
HTML_NAME = "nets/--><script>alert('$x_1$')</script>&.py:net"


def make_records(folder: Path) -> None:
    """Save a grid of three seeds, a timed run of a network with published results, and a run with HTML in its name."""
    save_grid(folder / "grid")
    save(
        folder / "cifar",
        {
            **record(91.25, 92.5, dataset="cifar10", arch="resnet56", seed=5),
            "measured": measured(1.75),
            "warnings": ["A caveat."],
        },
    )
    html = record(70.0, seed=7)
    html["config"]["arch"] = HTML_NAME
    save(folder / "html", html)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    make_records(folder)
    return folder


@pytest.fixture(scope="module")
def written(records: Path, tmp_path_factory: pytest.TempPathFactory) -> report.WrittenReport:
    pytest.importorskip("matplotlib")
    return report.write_report([records], tmp_path_factory.mktemp("out") / "report")


@pytest.fixture(scope="module")
def page(written: report.WrittenReport) -> str:
    return written.page.read_text(encoding="utf-8")


def raw(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("*.json"))]


def points(folder: Path) -> dict[tuple[str, str, str, float], list[dict[str, Any]]]:
    """Return the records of each point: data set, architecture, method and sparsity."""
    groups: dict[tuple[str, str, str, float], list[dict[str, Any]]] = {}
    for one in raw(folder):
        config = one["config"]
        name = (config["dataset"], config["arch"], config["method"], config["sparsity"])
        groups.setdefault(name, []).append(one)
    return groups


def tasks_of(folder: Path) -> list[Task]:
    return make_tasks(read_runs([folder]))


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_the_csv_has_mean_and_sample_deviation_of_every_point(
    records: Path, written: report.WrittenReport
) -> None:
    rows = list(csv.DictReader((written.page.parent / "points.csv").read_text().splitlines()))
    expected = points(records)
    assert len(rows) == len(expected) == written.points == 11
    for row in rows:
        found = expected[row["dataset"], row["arch"], row["method"], float(row["target"])]
        assert int(row["seeds"]) == len(found)
        for metric in METRICS:
            values = [one["final"][metric] for one in found]
            assert float(row[f"{metric}_mean"]) == pytest.approx(np.mean(values), rel=1e-12)
            if len(values) == 1:
                assert row[f"{metric}_std"] == ""
            else:
                assert float(row[f"{metric}_std"]) == pytest.approx(
                    np.std(values, ddof=1), rel=1e-9, abs=1e-12
                )
        changes = [one["final"]["top1"] - one["dense"]["top1"] for one in found]
        assert float(row["top1_change_mean"]) == pytest.approx(np.mean(changes), rel=1e-9)


def test_the_json_has_every_seed_and_the_mean_sparsity_of_every_layer(
    records: Path, written: report.WrittenReport
) -> None:
    content = json.loads((written.page.parent / "points.json").read_text())
    expected = points(records)
    for task in content["tasks"]:
        for series in task["series"]:
            for point in series["points"]:
                target = point["target"]["sparsity"]
                found = expected[task["dataset"], task["arch"], series["settings"]["method"], target]
                assert point["seeds"] == sorted(one["config"]["seed"] for one in found)
                assert {run["seed"]: run["top1"] for run in point["runs"]} == {
                    one["config"]["seed"]: one["final"]["top1"] for one in found
                }
                assert point["top1"]["mean"] == pytest.approx(
                    np.mean([one["final"]["top1"] for one in found])
                )
                assert ("std" in point["top1"]) == (len(found) > 1)
                assert list(point["layer_sparsity"]) == list(LAYERS[:-1])
                layer = [one["layers"][0]["sparsity"] for one in found]
                assert point["layer_sparsity"][LAYERS[0]] == pytest.approx(np.mean(layer))


def test_the_dense_control_counts_a_seed_once_even_if_several_runs_share_it(
    records: Path, written: report.WrittenReport
) -> None:
    content = json.loads((written.page.parent / "points.json").read_text())
    (dense,) = next(task for task in content["tasks"] if task["arch"] == "my")["dense"]
    values = {one["config"]["seed"]: one["dense"]["top1"] for one in raw(records / "grid")}
    assert dense["top1"]["n"] == 3
    assert dense["top1"]["mean"] == pytest.approx(np.mean(list(values.values())))
    assert dense["top1"]["std"] == pytest.approx(np.std(list(values.values()), ddof=1))


def test_measured_speedup_is_present_only_where_a_record_has_it(written: report.WrittenReport) -> None:
    content = json.loads((written.page.parent / "points.json").read_text())
    found = {
        task["arch"]: point.get("measured_speedup")
        for task in content["tasks"]
        for series in task["series"]
        for point in series["points"]
    }
    assert found == {"my": None, HTML_NAME: None, "resnet56": {"pruned, batch 64": {"mean": 1.75, "n": 1}}}
    figures = [path.name for path in written.files if "measured" in path.name]
    assert {name.split("-")[0] for name in figures} == {"task1"}


class Tables(HTMLParser):
    """Collects the cells of every table of a page, row by row."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self._in_cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._in_cell = True
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.tables[-1][-1][-1] += data


def expected_cell(values: list[float], scale: float = 1) -> str:
    mean = f"{scale * np.mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {scale * np.std(values, ddof=1):.2f}"


def test_the_page_has_mean_and_deviation_of_every_point(records: Path, page: str) -> None:
    tables = Tables(page).tables
    shown = [row for table in tables if table[0][:3] == ["series", "target", "seeds"] for row in table[1:]]
    expected = []
    for (_, _, method, sparsity), found in points(records).items():
        final = {metric: [one["final"][metric] for one in found] for metric in METRICS}
        head = [
            method,
            f"{100 * sparsity:g} %",
            str(len(found)),
            expected_cell(final["top1"]),
            expected_cell(final["top5"]),
        ]
        tail = [
            expected_cell(final["sparsity"], 100),
            expected_cell(final["compression_ratio"]),
            expected_cell(final["theoretical_speedup"]),
        ]
        expected.append((*head, *tail))
    assert sorted((*row[:5], *row[7:10]) for row in shown) == sorted(expected)


def test_the_page_has_the_accuracies_of_every_run(records: Path, page: str) -> None:
    (table,) = (table for table in Tables(page).tables if table[0][0] == "run")
    expected = [
        (one["name"], f"{one['dense']['top1']:.2f}", f"{one['final']['top1']:.2f}") for one in raw(records)
    ]
    assert sorted((row[0], row[2], row[3]) for row in table[1:]) == sorted(expected)


def test_markdown_and_latex_have_the_same_means(records: Path, written: report.WrittenReport) -> None:
    markdown = (written.page.parent / "tables.md").read_text()
    latex = (written.page.parent / "tables.tex").read_text()
    for found in points(records).values():
        values = [one["final"]["top1"] for one in found]
        assert expected_cell(values) in markdown
        assert "$" + expected_cell(values).replace(" ± ", r" \pm ") + "$" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 12
    assert r"--><script>alert('\$x\_1\$')</script>\&.py" in latex


def test_the_dense_network_has_a_column_of_its_own(tmp_path: Path) -> None:
    save_grid(tmp_path)
    (task,) = tasks_of(tmp_path)
    table = overview_table(task, "top1")
    assert table.columns == ["", "seeds", "dense", "sparsity 50 %", "sparsity 90 %", "sparsity 98 %"]
    *series, dense = table.rows
    assert {row[2] for row in series} == {""}
    assert dense[3:] == ["", "", ""]
    assert dense[2] == task.dense[0].summaries["top1"]
    ratios = overview_table(task, "compression_ratio")
    assert ratios.columns == ["", "seeds", *table.columns[3:]]
    assert {len(row) for row in ratios.rows} == {len(ratios.columns)}


def test_no_file_contains_nan_or_infinity(written: report.WrittenReport) -> None:
    for file in written.files:
        if file.suffix in (".html", ".csv", ".json", ".md", ".tex"):
            assert not re.search(r"\b(nan|inf|infinity)\b", file.read_text(), re.IGNORECASE), file


def test_a_fully_pruned_network_has_an_empty_speedup(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    save(tmp_path, record(10.0, sparsity=1.0, seed=0))
    (task,) = tasks_of(tmp_path)
    assert "theoretical_speedup" not in task.points[0].summaries
    report.write_report([tmp_path], tmp_path / "out")
    (row,) = csv.DictReader((tmp_path / "out" / "points.csv").read_text().splitlines())
    assert row["theoretical_speedup_mean"] == row["theoretical_speedup_std"] == ""


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_loads_nothing_and_has_no_script(page: str) -> None:
    assert "http:" not in page
    assert "https:" not in page
    assert not re.search(r"<(script|link|iframe|object|img)\b", page, re.IGNORECASE)
    assert all(
        target.startswith(("#", "data:image/png;base64,")) for target in re.findall(r'href="([^"]*)"', page)
    )
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_html_in_a_record_is_escaped(page: str) -> None:
    assert "<script" not in page
    assert str(markupsafe.escape(HTML_NAME)) in page


def test_every_reference_within_the_page_has_exactly_one_target(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    wanted = re.findall(r'href="#([^"]*)"', page) + re.findall(r"url\(#([^)]*)\)", page)
    assert set(wanted) <= set(ids)


def test_every_figure_is_a_valid_svg_and_a_png(written: report.WrittenReport) -> None:
    svgs = [file for file in written.files if file.suffix == ".svg"]
    pngs = [file for file in written.files if file.suffix == ".png"]
    assert {file.stem for file in svgs} == {file.stem for file in pngs} != set()
    for file in svgs:
        addresses = set(re.findall(r"https?://[^\s\"<>]+", file.read_text()))
        assert all(address.startswith("http://www.w3.org/") for address in addresses)
        ElementTree.parse(file)
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in pngs)
    assert all(file.stat().st_size for file in written.files)


def test_the_same_records_give_the_same_files_except_png(
    records: Path, written: report.WrittenReport, tmp_path: Path
) -> None:
    again = report.write_report([records], tmp_path / "again")
    for one, other in zip(written.files, again.files, strict=True):
        assert one.name == other.name
        if one.suffix != ".png":
            assert one.read_bytes() == other.read_bytes(), one.name


def test_published_results_appear_only_for_the_same_data_set_and_network(page: str) -> None:
    assert page.count("Published results: Blalock") == 1
    resnet = page[page.index('id="task1"') : page.index('id="task2"')]
    assert "published results for this data set and network" in resnet
    rest = page[page.index('id="task2"') : page.index('id="checklist"')]
    assert "published results" not in rest


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_folder_without_runs_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    save_grid(tmp_path / "good", seeds=(0,))
    out = tmp_path / "out"
    for folder in ("missing", "empty"):
        with pytest.raises(PruningError, match=str(tmp_path / folder)):
            report.write_report([tmp_path / "good", tmp_path / folder], out)
    assert not out.exists()
    out.write_text("a file")
    with pytest.raises(PruningError, match=f"--out {out}"):
        report.write_report([tmp_path / "good"], out)


def test_without_matplotlib_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, record(80))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PruningError, match=r"pip install -e '\.\[report\]'"):
        report.write_report([tmp_path], tmp_path / "out")
    assert not (tmp_path / "out").exists()
