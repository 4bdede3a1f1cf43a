"""The report: its numbers are those of the records, computed here a second time with NumPy; its page stands alone."""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from test_report_runs import LAYERS, grid, measured, record, save

from pruning import report
from pruning.errors import PruningError
from pruning.report.checklist import checklist
from pruning.report.figures import COLOURS, series_styles
from pruning.report.points import Task, arrange, record_warnings
from pruning.report.runs import read
from pruning.report.survey import published
from pruning.report.tables import overview, spread

METRICS = ("top1", "top5", "loss", "sparsity", "compression_ratio", "theoretical_speedup")
NASTY = "nets/--><script>alert('$x_1$')</script>&.py:net"


def make_records(folder: Path) -> None:
    """A whole grid of three seeds; a network with published results, one seed, timed; and a nasty name."""
    grid(folder / "grid")
    save(
        folder / "cifar",
        {
            **record(91.25, 92.5, dataset="cifar10", arch="resnet56", seed=5),
            "measured": measured(1.75),
            "warnings": ["Something to know."],
        },
    )
    nasty = record(70.0, seed=7)
    nasty["config"]["arch"] = NASTY
    save(folder / "nasty", nasty)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    make_records(folder)
    return folder


@pytest.fixture(scope="module")
def written(records: Path, tmp_path_factory: pytest.TempPathFactory) -> report.Report:
    pytest.importorskip("matplotlib")
    return report.write([records], tmp_path_factory.mktemp("out") / "report")


@pytest.fixture(scope="module")
def page(written: report.Report) -> str:
    return written.page.read_text(encoding="utf-8")


def raw(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("*.json"))]


def points(folder: Path) -> dict[tuple[str, str, str, float], list[dict[str, Any]]]:
    """The records by data set, architecture, method and sparsity, which is all that differs here but seeds."""
    groups: dict[tuple[str, str, str, float], list[dict[str, Any]]] = {}
    for one in raw(folder):
        config = one["config"]
        name = (config["dataset"], config["arch"], config["method"], config["sparsity"])
        groups.setdefault(name, []).append(one)
    return groups


def tasks_of(folder: Path) -> list[Task]:
    return arrange(read([folder]))


def one_line(found: Iterable[str]) -> str:
    return "; ".join(found)


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_the_csv_holds_mean_and_sample_deviation_of_every_point(
    records: Path, written: report.Report
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


def test_the_json_holds_points_seed_by_seed_and_layers(records: Path, written: report.Report) -> None:
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


def test_the_dense_control_counts_a_seed_once_however_many_runs_share_it(
    records: Path, written: report.Report
) -> None:
    content = json.loads((written.page.parent / "points.json").read_text())
    (dense,) = next(task for task in content["tasks"] if task["arch"] == "my")["dense"]
    values = {one["config"]["seed"]: one["dense"]["top1"] for one in raw(records / "grid")}
    assert dense["top1"]["n"] == 3
    assert dense["top1"]["mean"] == pytest.approx(np.mean(list(values.values())))
    assert dense["top1"]["std"] == pytest.approx(np.std(list(values.values()), ddof=1))


def test_measured_speedup_is_there_where_a_record_has_it_and_absent_elsewhere(written: report.Report) -> None:
    content = json.loads((written.page.parent / "points.json").read_text())
    found = {
        task["arch"]: point.get("measured_speedup")
        for task in content["tasks"]
        for series in task["series"]
        for point in series["points"]
    }
    assert found == {"my": None, NASTY: None, "resnet56": {"pruned, batch 64": {"mean": 1.75, "n": 1}}}
    figures = [path.name for path in written.files if "measured" in path.name]
    assert {name.split("-")[0] for name in figures} == {"task1"}


class Tables(HTMLParser):
    """The cells of every table of a page, row by row."""

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


def _cell(values: list[float], scale: float = 1) -> str:
    mean = f"{scale * np.mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {scale * np.std(values, ddof=1):.2f}"


def test_the_page_shows_the_numbers_of_the_records(records: Path, page: str) -> None:
    tables = Tables(page).tables
    shown = [row for table in tables if table[0][:3] == ["series", "target", "seeds"] for row in table[1:]]
    expected = []
    for (_, _, method, sparsity), found in points(records).items():
        final = {metric: [one["final"][metric] for one in found] for metric in METRICS}
        head = [method, f"{100 * sparsity:g} %", str(len(found)), _cell(final["top1"]), _cell(final["top5"])]
        tail = [
            _cell(final["sparsity"], 100),
            _cell(final["compression_ratio"]),
            _cell(final["theoretical_speedup"]),
        ]
        expected.append((*head, *tail))
    assert sorted((*row[:5], *row[7:10]) for row in shown) == sorted(expected)


def test_the_page_shows_every_run(records: Path, page: str) -> None:
    (table,) = (table for table in Tables(page).tables if table[0][0] == "run")
    expected = [
        (one["name"], f"{one['dense']['top1']:.2f}", f"{one['final']['top1']:.2f}") for one in raw(records)
    ]
    assert sorted((row[0], row[2], row[3]) for row in table[1:]) == sorted(expected)


def test_the_tables_for_papers_hold_the_same_means(records: Path, written: report.Report) -> None:
    markdown = (written.page.parent / "tables.md").read_text()
    latex = (written.page.parent / "tables.tex").read_text()
    for found in points(records).values():
        values = [one["final"]["top1"] for one in found]
        assert _cell(values) in markdown
        assert "$" + _cell(values).replace(" ± ", r" \pm ") + "$" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 12
    assert r"--><script>alert('\$x\_1\$')</script>\&.py" in latex


def test_the_dense_network_stands_under_no_target(tmp_path: Path) -> None:
    grid(tmp_path)
    (task,) = tasks_of(tmp_path)
    table = overview(task, "top1")
    assert table.columns == ["", "seeds", "dense", "sparsity 50 %", "sparsity 90 %", "sparsity 98 %"]
    *series, dense = table.rows
    assert {row[2] for row in series} == {""}
    assert dense[3:] == ["", "", ""]
    assert dense[2] == spread(task.dense[0].summaries["top1"])
    ratios = overview(task, "compression_ratio")
    assert ratios.columns == ["", "seeds", *table.columns[3:]]
    assert {len(row) for row in ratios.rows} == {len(ratios.columns)}


def test_no_file_says_nan_or_infinity(written: report.Report) -> None:
    for file in written.files:
        if file.suffix in (".html", ".csv", ".json", ".md", ".tex"):
            assert not re.search(r"\b(nan|inf|infinity)\b", file.read_text(), re.IGNORECASE), file


def test_a_network_with_nothing_left_has_no_speedup_and_no_gap_is_filled(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    save(tmp_path, record(10.0, sparsity=1.0, seed=0))
    (task,) = tasks_of(tmp_path)
    assert "theoretical_speedup" not in task.points[0].summaries
    report.write([tmp_path], tmp_path / "out")
    (row,) = csv.DictReader((tmp_path / "out" / "points.csv").read_text().splitlines())
    assert row["theoretical_speedup_mean"] == row["theoretical_speedup_std"] == ""


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_needs_no_network_and_runs_nothing(page: str) -> None:
    assert "http:" not in page
    assert "https:" not in page
    assert not re.search(r"<(script|link|iframe|object|img)\b", page, re.IGNORECASE)
    assert all(
        target.startswith(("#", "data:image/png;base64,")) for target in re.findall(r'href="([^"]*)"', page)
    )
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_every_reference_within_the_page_leads_to_one_place(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    wanted = re.findall(r'href="#([^"]*)"', page) + re.findall(r"url\(#([^)]*)\)", page)
    assert set(wanted) <= set(ids)


def test_figures_are_whole_files_of_their_own(written: report.Report) -> None:
    svgs = [file for file in written.files if file.suffix == ".svg"]
    pngs = [file for file in written.files if file.suffix == ".png"]
    assert {file.stem for file in svgs} == {file.stem for file in pngs} != set()
    for file in svgs:
        addresses = set(re.findall(r"https?://[^\s\"<>]+", file.read_text()))
        assert all(address.startswith("http://www.w3.org/") for address in addresses)
        ElementTree.parse(file)
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in pngs)
    assert all(file.stat().st_size for file in written.files)


def test_the_same_records_give_the_same_files(records: Path, written: report.Report, tmp_path: Path) -> None:
    again = report.write([records], tmp_path / "again")
    for one, other in zip(written.files, again.files, strict=True):
        assert one.name == other.name
        if one.suffix != ".png":
            assert one.read_bytes() == other.read_bytes(), one.name


def test_published_results_stand_behind_the_same_data_set_and_network_only(page: str) -> None:
    assert page.count("Published results: Blalock") == 1
    resnet = page[page.index('id="task1"') : page.index('id="task2"')]
    assert "published results for this data set and network" in resnet
    rest = page[page.index('id="task2"') : page.index('id="checklist"')]
    assert "published results" not in rest


# --- grouping and warnings --------------------------------------------------------------------------------------------


def test_series_are_told_apart_by_every_option_that_differs(tmp_path: Path) -> None:
    save(tmp_path, record(80, finetune_lr=0.05, seed=0))
    save(tmp_path, record(81, finetune_lr=0.01, seed=0))
    save(tmp_path, record(82, finetune="reinit", seed=0))
    (task,) = tasks_of(tmp_path)
    assert sorted(series.label for series in task.series) == [
        "global_mag, continue, finetune_lr 0.01",
        "global_mag, continue, finetune_lr 0.05",
        "global_mag, reinit, finetune_lr 0.05",
    ]
    assert "differ in options that are not compared: finetune_lr (0.01, 0.05)" in one_line(task.warnings)


def test_a_trajectory_with_more_rounds_the_farther_it_goes_is_one_curve(tmp_path: Path) -> None:
    for method in ("global_mag", "random"):
        for compression, rounds in ((2, 1), (4, 2), (8, 3)):
            save(tmp_path, record(80, method=method, compression=compression, rounds=rounds, seed=0))
    (task,) = tasks_of(tmp_path)
    assert [series.label for series in task.series] == ["global_mag", "random"]
    for series in task.series:
        assert [(point.target.value, point.settings["rounds"]) for point in series.points] == [
            (2, 1),
            (4, 2),
            (8, 3),
        ]
        assert series.settings["rounds"] == [1, 2, 3]
    assert not any("budgets" in warning for warning in task.warnings)


def test_rounds_that_differ_at_one_target_tell_curves_apart(tmp_path: Path) -> None:
    for compression, rounds in ((2, 1), (4, 1), (4, 2)):
        save(tmp_path, record(80, compression=compression, rounds=rounds, seed=0))
    (task,) = tasks_of(tmp_path)
    assert [series.label for series in task.series] == ["global_mag, rounds 1", "global_mag, rounds 2"]
    assert "4x: fine-tuning budgets differ: 3, 6 epochs in all" in one_line(task.warnings)


def test_where_a_run_was_made_and_kept_makes_no_point_of_its_own(tmp_path: Path) -> None:
    elsewhere: list[dict[str, Any]] = [
        {"threads": 1},
        {"threads": 2},
        {"runs_dir": "other", "log_interval": 5},
    ]
    for seed, options in enumerate(elsewhere):
        save(tmp_path, record(80, seed=seed, **options))
    (task,) = tasks_of(tmp_path)
    assert [point.seeds for point in task.points] == [[0, 1, 2]]


def test_other_hardware_or_versions_are_warned_of(tmp_path: Path) -> None:
    save(tmp_path, record(80, seed=0))
    other = record(80, seed=1)
    other["environment"]["packages"]["torch"] = "2.6.0"
    save(tmp_path, other)
    (task,) = tasks_of(tmp_path)
    assert "packages.torch (2.15.0, 2.6.0)" in one_line(sorted(task.warnings))


def test_a_tidy_grid_has_no_warnings(tmp_path: Path) -> None:
    grid(tmp_path)
    (task,) = tasks_of(tmp_path)
    assert task.warnings == []


@pytest.mark.parametrize(
    ("runs", "warning"),
    [
        ([{"seed": 0}], "1 of 1 points have one seed only"),
        ([{"seed": 0}, {"seed": 1}, {"seed": 0, "method": "random"}], "not all means over the same seeds"),
        (
            [{"seed": 0}, {"seed": 0, "rounds": 1, "method": "random"}],
            "fine-tuning budgets differ: 3, 9 epochs",
        ),
        (
            [{"seed": 0, "dense": 90.0}, {"seed": 0, "dense": 80.0, "sparsity": 0.5}],
            "different dense networks",
        ),
    ],
)
def test_what_makes_points_incomparable_is_warned_of(
    tmp_path: Path, runs: list[dict[str, Any]], warning: str
) -> None:
    for options in runs:
        save(tmp_path, record(75, **options))
    (task,) = tasks_of(tmp_path)
    assert warning in one_line(task.warnings)


def test_warnings_of_the_records_are_passed_on_once(tmp_path: Path) -> None:
    for seed in (0, 1):
        save(tmp_path, {**record(80, seed=seed), "warnings": ["fc1 is empty."]})
    assert record_warnings(read([tmp_path])) == ["fc1 is empty. (2 runs)"]


def test_a_method_looks_the_same_in_every_task_and_curves_of_one_task_differ(tmp_path: Path) -> None:
    grid(tmp_path, seeds=(0,))
    save(tmp_path, record(80, arch="lenet5", method="layer_mag", dataset="mnist"))
    tasks = tasks_of(tmp_path)
    methods = [series.method for task in tasks for series in task.series]
    mnist, fashion = (series_styles(task, methods) for task in reversed(tasks))
    assert mnist["layer_mag"] == fashion["layer_mag"]
    assert (
        len({style.colour for style in fashion.values()})
        == len({style.marker for style in fashion.values()})
        == 3
    )
    assert fashion["random"].line == "--"
    assert len(set(COLOURS)) == len(COLOURS)


# --- what the paper asks ----------------------------------------------------------------------------------------------


def _items(folder: Path) -> dict[str, bool]:
    return {item.asked.split(",")[0]: item.met for item in checklist(tasks_of(folder))}


def test_the_checklist_of_a_small_grid(tmp_path: Path) -> None:
    grid(tmp_path)
    assert _items(tmp_path) == {
        "At least 3 pairs of data set and architecture": False,
        "Exact names of data set and architecture": True,
        "Compression ratio and theoretical speedup": True,
        "Top-1 and top-5 accuracy": True,
        "5 or more operating points": False,
        "The same metrics for the unpruned control": True,
        "Mean and sample standard deviation over seeds (3 or more)": True,
        "Random and magnitude pruning as baselines": True,
        "Raw accuracies at every point": True,
        "Hardware": True,
        "Identical code for every method": True,
    }


def test_an_evaluation_as_the_paper_wants_it_meets_everything(tmp_path: Path) -> None:
    for arch in ("my", "lenet5", "lenet_300_100"):
        for method in ("global_mag", "layer_mag", "random"):
            for compression in (2, 4, 8, 16, 32):
                for seed in range(3):
                    content = record(80, arch=arch, method=method, seed=seed, compression=compression)
                    content["final"]["compression_ratio"] = compression + 0.1
                    save(tmp_path, content)
    assert all(_items(tmp_path).values())


def test_code_that_was_not_committed_or_not_the_same_is_not_identical_code(tmp_path: Path) -> None:
    for seed, commit in enumerate(("abc", "abc+")):
        content = record(80, seed=seed)
        content["environment"]["commit"] = commit
        save(tmp_path, content)
    assert not _items(tmp_path)["Identical code for every method"]


def test_the_survey_is_whole_and_matches_exact_networks_only() -> None:
    file = Path(sys.modules["pruning.report.survey"].__file__ or "").parent / "survey_results.csv"
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert len(rows) == 150
    assert len({row["paper"] for row in rows}) == 31
    theirs = [
        float(row["top1"]) for row in rows if (row["dataset"], row["model"]) == ("CIFAR-10", "ResNet-56")
    ]
    assert [result.top1 for result in published("cifar10", "resnet56")] == theirs
    assert published("fashion_mini", "my") == published("imagenet", "vgg16_bn") == []


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_bad_folders_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    grid(tmp_path / "good", seeds=(0,))
    out = tmp_path / "out"
    for folder in ("missing", "empty"):
        with pytest.raises(PruningError, match=folder):
            report.write([tmp_path / "good", tmp_path / folder], out)
    assert not out.exists()
    out.write_text("a file")
    with pytest.raises(PruningError, match="not a folder"):
        report.write([tmp_path / "good"], out)


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, record(80))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PruningError, match=r"pip install -e '\.\[report\]'"):
        report.write([tmp_path], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert math.isclose(tasks_of(tmp_path)[0].points[0].summaries["top1"].mean, 80)
