"""Grouping runs into tasks, series and points, the warnings about them, and the styles of series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_records import record, save, save_grid

from pruning.report.runs import read_runs
from pruning.report.series_styles import COLOURS, series_styles
from pruning.report.tasks import Task, make_tasks, record_warnings


def tasks_of(folder: Path) -> list[Task]:
    return make_tasks(read_runs([folder]))


def test_a_label_has_every_option_in_which_series_differ(tmp_path: Path) -> None:
    save(tmp_path, record(80, finetune_lr=0.05, seed=0))
    save(tmp_path, record(81, finetune_lr=0.01, seed=0))
    save(tmp_path, record(82, finetune="reinit", seed=0))
    (task,) = tasks_of(tmp_path)
    assert sorted(series.label for series in task.series) == [
        "global_mag, continue, finetune_lr 0.01",
        "global_mag, continue, finetune_lr 0.05",
        "global_mag, reinit, finetune_lr 0.05",
    ]
    assert "finetune_lr (0.01, 0.05)" in "; ".join(task.warnings)


def test_runs_whose_rounds_grow_with_the_target_are_one_curve(tmp_path: Path) -> None:
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


def test_different_rounds_at_one_target_make_two_curves(tmp_path: Path) -> None:
    for compression, rounds in ((2, 1), (4, 1), (4, 2)):
        save(tmp_path, record(80, compression=compression, rounds=rounds, seed=0))
    (task,) = tasks_of(tmp_path)
    assert [series.label for series in task.series] == ["global_mag, rounds 1", "global_mag, rounds 2"]
    assert "4x: fine-tuning budgets differ: 3, 6 epochs in all" in "; ".join(task.warnings)


def test_threads_folder_and_log_interval_make_no_point_of_their_own(tmp_path: Path) -> None:
    variants: list[dict[str, Any]] = [
        {"threads": 1},
        {"threads": 2},
        {"runs_dir": "other", "log_interval": 5},
    ]
    for seed, options in enumerate(variants):
        save(tmp_path, record(80, seed=seed, **options))
    (task,) = tasks_of(tmp_path)
    assert [point.seeds for point in task.points] == [[0, 1, 2]]


def test_different_versions_give_a_warning(tmp_path: Path) -> None:
    save(tmp_path, record(80, seed=0))
    other = record(80, seed=1)
    other["environment"]["packages"]["torch"] = "2.6.0"
    save(tmp_path, other)
    (task,) = tasks_of(tmp_path)
    assert "packages.torch (2.15.0, 2.6.0)" in "; ".join(sorted(task.warnings))


def test_a_complete_grid_of_equal_runs_has_no_warnings(tmp_path: Path) -> None:
    save_grid(tmp_path)
    (task,) = tasks_of(tmp_path)
    assert task.warnings == []


@pytest.mark.parametrize(
    ("runs", "warning"),
    [
        ([{"seed": 0}], "1 of 1 points"),
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
def test_points_that_are_not_comparable_give_a_warning(
    tmp_path: Path, runs: list[dict[str, Any]], warning: str
) -> None:
    for options in runs:
        save(tmp_path, record(75, **options))
    (task,) = tasks_of(tmp_path)
    assert warning in "; ".join(task.warnings)


def test_a_warning_of_several_records_is_reported_once_with_their_number(tmp_path: Path) -> None:
    for seed in (0, 1):
        save(tmp_path, {**record(80, seed=seed), "warnings": ["fc1 is empty."]})
    assert record_warnings(read_runs([tmp_path])) == ["fc1 is empty. (2 runs)"]


def test_a_method_has_the_same_style_in_every_task_and_curves_of_one_task_differ(tmp_path: Path) -> None:
    save_grid(tmp_path, seeds=(0,))
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
