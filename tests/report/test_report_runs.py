"""Reading records: only complete runs, each once, every number checked."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from made_records import record, save

from pruning.errors import PruningError
from pruning.experiment.run_files import RunFolder, complete_runs
from pruning.report.runs import Target, drop_repeats, read_runs


def test_method_seed_target_task_and_metrics_are_those_of_the_record(tmp_path: Path) -> None:
    save(tmp_path, record(80.5, method="layer_mag", sparsity=0.9, seed=3))
    (run,) = read_runs([tmp_path])
    assert (run.method, run.seed, run.target, run.task) == (
        "layer_mag",
        3,
        Target("sparsity", 0.9),
        ("fashion_mini", "my"),
    )
    assert run.final.top1 == 80.5
    assert run.environment["packages.torch"] == "2.15.0"


@pytest.mark.parametrize(
    ("target", "text"),
    [
        (Target("sparsity", 0.98), "98 %"),
        (Target("sparsity", 0.9995), "99.95 %"),
        (Target("compression", 64.0), "64x"),
        (Target("count", 12000), "12,000 weights"),
    ],
)
def test_a_target_is_written_with_its_unit(target: Target, text: str) -> None:
    assert str(target) == text


def test_two_names_of_one_method_become_its_canonical_name(tmp_path: Path) -> None:
    save(tmp_path, record(50, method="random", seed=0))
    save(tmp_path, record(51, method="global_random", seed=1))
    assert {run.method for run in read_runs([tmp_path])} == {"random"}


def test_a_method_with_one_spelling_keeps_it(tmp_path: Path) -> None:
    for seed in (0, 1):
        save(tmp_path, record(50, method="global_snip", seed=seed))
    assert {run.method for run in read_runs([tmp_path])} == {"global_snip"}


def test_only_complete_runs_that_are_no_dry_runs_are_found_at_any_depth(tmp_path: Path) -> None:
    complete = save(tmp_path / "a" / "b", record(80))
    save(tmp_path / ".dense", record(80))
    save(tmp_path, record(80, dry_run=True))
    (tmp_path / "unfinished" / "state").mkdir(parents=True)
    assert [run.path for run in complete_runs(tmp_path)] == [complete]
    assert [run.path for run in complete_runs(complete)] == [complete]


def test_a_run_in_two_of_the_given_folders_is_read_once(tmp_path: Path) -> None:
    run = save(tmp_path, record(80))
    assert len(read_runs([tmp_path, run, tmp_path / "." / run.name])) == 1


def test_a_run_with_the_options_and_seed_of_another_is_dropped_with_a_warning(tmp_path: Path) -> None:
    save(tmp_path, record(80, seed=1), name="first")
    save(tmp_path, record(81, seed=1, threads=2), name="second")
    save(tmp_path, record(82, seed=2), name="third")
    runs, (warning,) = drop_repeats(read_runs([tmp_path]))
    assert [run.final.top1 for run in runs] == [80, 82]
    assert "second repeats" in warning


def changed_record(changes: dict[str, Any]) -> str:
    content = record(80)
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = content
        for parent in parents:
            place = place[parent]
        place[last] = value
    return json.dumps(content)


# A record, and the field or cause that the message must name.
INVALID = {
    "truncated_json": ("{", "result.json"),
    "a_list": ("[]", "result.json"),
    "another_schema": (changed_record({"schema_version": 99}), "schema"),
    "no_final_metrics": (
        json.dumps({key: value for key, value in record(80).items() if key != "final"}),
        "final",
    ),
    "nan_accuracy": (changed_record({"final.top1": math.nan}), "final.top1"),
    "infinite_ratio": (changed_record({"final.compression_ratio": math.inf}), "final.compression_ratio"),
    "nan_in_an_option": (changed_record({"config.lr": math.nan}), "NaN"),
    "accuracy_as_text": (changed_record({"final.top1": "80"}), "final.top1"),
    "accuracy_above_100": (changed_record({"dense.top1": 101}), "dense.top1"),
    "no_seed": (changed_record({"config.seed": None}), "seed"),
    "rounds_as_text": (changed_record({"config.rounds": "three"}), "rounds"),
    "no_target": (changed_record({"config.sparsity": None}), "sparsity"),
    "target_as_text": (changed_record({"config.sparsity": "0.9"}), "value"),
    "latency_without_speedup": (
        changed_record({"measured": {"batches": [{"batch_size": 1, "networks": {"dense": {}}}]}}),
        "measured.batches.0.networks.dense",
    ),
}


@pytest.mark.parametrize("case", INVALID)
def test_an_invalid_record_is_refused_with_its_path_and_field_in_one_line(case: str, tmp_path: Path) -> None:
    text, field = INVALID[case]
    save(tmp_path, record(80), name="run")
    RunFolder(tmp_path / "run").result.write_text(text)
    with pytest.raises(PruningError, match=field) as error:
        read_runs([tmp_path])
    assert str(tmp_path / "run") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_complete_runs_is_refused_with_its_name_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    save(tmp_path / "dry", record(80, dry_run=True))
    for name in ("missing", "empty", "file", "dry"):
        with pytest.raises(PruningError, match=re.escape(str(tmp_path / name))) as error:
            read_runs([tmp_path / name])
        assert "\n" not in str(error.value)
