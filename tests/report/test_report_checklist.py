"""The checklist of Blalock et al. 2020, and their survey of published results."""

from __future__ import annotations

import csv
from importlib.resources import files
from pathlib import Path

from made_records import record, save, save_grid

from pruning.report.checklist import checklist
from pruning.report.runs import read_runs
from pruning.report.survey import published_results
from pruning.report.tasks import Task, make_tasks


def tasks_of(folder: Path) -> list[Task]:
    return make_tasks(read_runs([folder]))


def items_met(folder: Path) -> dict[str, bool]:
    return {item.requirement.split(",")[0]: item.met for item in checklist(tasks_of(folder))}


def test_the_checklist_of_a_small_save_grid(tmp_path: Path) -> None:
    save_grid(tmp_path)
    assert items_met(tmp_path) == {
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


def test_three_tasks_five_compressions_and_three_seeds_meet_every_requirement(tmp_path: Path) -> None:
    for arch in ("my", "lenet5", "lenet_300_100"):
        for method in ("global_mag", "layer_mag", "random"):
            for compression in (2, 4, 8, 16, 32):
                for seed in range(3):
                    content = record(80, arch=arch, method=method, seed=seed, compression=compression)
                    content["final"]["compression_ratio"] = compression + 0.1
                    save(tmp_path, content)
    assert all(items_met(tmp_path).values())


def test_uncommitted_changes_are_not_identical_code(tmp_path: Path) -> None:
    for seed, commit in enumerate(("abc", "abc+")):
        content = record(80, seed=seed)
        content["environment"]["commit"] = commit
        save(tmp_path, content)
    assert not items_met(tmp_path)["Identical code for every method"]


def test_the_survey_has_150_results_of_31_papers_for_exact_networks_only() -> None:
    text = files("pruning.report").joinpath("survey_results.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) == 150
    assert len({row["paper"] for row in rows}) == 31
    theirs = [
        float(row["top1"]) for row in rows if (row["dataset"], row["model"]) == ("CIFAR-10", "ResNet-56")
    ]
    assert [result.top1 for result in published_results("cifar10", "resnet56")] == theirs
    assert published_results("fashion_mini", "my") == published_results("imagenet", "vgg16_bn") == []
