"""Records as reports read them: strictly, each once, only complete ones. Makes the records of the report's tests."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from pruning.config.resolution import resolve
from pruning.errors import PruningError
from pruning.experiment.run_files import SCHEMA_VERSION, RunFolder, complete_runs
from pruning.report.runs import Target, read, without_repeats

LAYERS = ("conv1.weight", "fc1.weight", "fc2.weight")


def metrics(top1: float, sparsity: float) -> dict[str, Any]:
    """The numbers of a network of 10,000 weights and 100 biases."""
    weights = 10_000 - round(10_000 * sparsity)
    return {
        "top1": top1,
        "top5": min(100.0, top1 + 8.25),
        "loss": 1 - top1 / 200,
        "sparsity": 1 - weights / 10_000,
        "compression_ratio": 10_100 / (weights + 100),
        "theoretical_speedup": 10_000 / weights if weights else None,
        "parameters": 10_100,
        "nonzero_parameters": weights + 100,
        "macs": 10_000,
        "nonzero_macs": weights,
    }


def record(top1: float, dense: float = 90.0, **options: Any) -> dict[str, Any]:
    """A record as a run leaves it, with these accuracies; `options` are those of a run."""
    config = resolve(options).to_dict()
    sparsity = config["sparsity"] or 0.5
    final = metrics(top1, sparsity)
    rounds = [
        {"round": number, "target_sparsity": sparsity * number / 2, "top1_before_finetune": top1 - 1, **entry}
        for number, entry in ((1, metrics(top1 + 0.5, sparsity / 2)), (2, final))
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "name": resolve(options).run_name(),
        "config": config,
        "environment": {
            "python": "3.11.7",
            "packages": {"pruning": "0.1.0", "torch": "2.15.0"},
            "device": "cpu",
            "device_name": "a processor",
            "commit": "0123abcd",
        },
        "dense": metrics(dense, 0.0),
        "rounds": rounds,
        "final": final,
        "layers": [
            {
                "name": name,
                "type": "Linear",
                "shape": [50, 100],
                "weights": 5000,
                "nonzero": round(5000 * (1 - share)),
                "sparsity": share,
                "macs": 5000,
                "nonzero_macs": round(5000 * (1 - share)),
                "pruned": name != LAYERS[-1],
            }
            for name, share in zip(LAYERS, (sparsity / 2, sparsity, 0.0), strict=True)
        ],
        "timing": {"total": 1.5},
        "warnings": [],
    }


def measured(speedup: float) -> dict[str, Any]:
    networks = {"dense": {"measured_speedup": 1.0}, "pruned": {"measured_speedup": speedup}}
    return {"device": "cpu", "batches": [{"batch_size": 64, "turns": 10, "networks": networks}]}


def save(folder: Path, content: dict[str, Any], name: str | None = None) -> Path:
    """Write a record where a run would have; return the run's folder."""
    run = RunFolder(folder / (name or content["name"]))
    run.path.mkdir(parents=True, exist_ok=True)
    run.result.write_text(json.dumps(content))
    return run.path


def grid(folder: Path, seeds: tuple[int, ...] = (0, 1, 2), **options: Any) -> None:
    """Three methods at three sparsities; better methods lose less, and every seed has its own noise."""
    for method, loss in (("global_mag", 1.0), ("layer_mag", 2.0), ("random", 9.0)):
        for sparsity in (0.5, 0.9, 0.98):
            for seed in seeds:
                noise = random.Random(f"{method} {sparsity} {seed}").gauss(0, 0.2)
                dense = 90 + random.Random(seed).gauss(0, 0.2)
                top1 = dense + loss * math.log2(1 - sparsity) * sparsity + noise
                content = record(top1, dense, method=method, sparsity=sparsity, seed=seed, **options)
                save(folder, content)


def test_a_run_is_read_as_its_record_says(tmp_path: Path) -> None:
    save(tmp_path, record(80.5, method="layer_mag", sparsity=0.9, seed=3))
    (run,) = read([tmp_path])
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
def test_targets_are_written_as_people_say_them(target: Target, text: str) -> None:
    assert str(target) == text


def test_random_and_global_random_are_one_method(tmp_path: Path) -> None:
    save(tmp_path, record(50, method="random", seed=0))
    save(tmp_path, record(51, method="global_random", seed=1))
    assert {run.method for run in read([tmp_path])} == {"random"}


def test_complete_runs_are_found_at_any_depth_and_nothing_else_is(tmp_path: Path) -> None:
    wanted = save(tmp_path / "a" / "b", record(80))
    save(tmp_path / ".dense", record(80))
    save(tmp_path, record(80, dry_run=True))
    (tmp_path / "unfinished" / "state").mkdir(parents=True)
    assert [run.path for run in complete_runs(tmp_path)] == [wanted]
    assert [run.path for run in complete_runs(wanted)] == [wanted]


def test_a_run_named_twice_is_read_once(tmp_path: Path) -> None:
    run = save(tmp_path, record(80))
    assert len(read([tmp_path, run, tmp_path / "." / run.name])) == 1


def test_a_repeated_run_is_left_out_and_named(tmp_path: Path) -> None:
    save(tmp_path, record(80, seed=1), name="first")
    save(tmp_path, record(81, seed=1, threads=2), name="second")
    save(tmp_path, record(82, seed=2), name="third")
    runs, (warning,) = without_repeats(read([tmp_path]))
    assert [run.final.top1 for run in runs] == [80, 82]
    assert "second repeats" in warning


def _with(changes: dict[str, Any]) -> str:
    content = record(80)
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = content
        for parent in parents:
            place = place[parent]
        place[last] = value
    return json.dumps(content)


BAD = {
    "no JSON": "{",
    "a list": "[]",
    "another schema": _with({"schema_version": 99}),
    "no final": json.dumps({key: value for key, value in record(80).items() if key != "final"}),
    "NaN accuracy": _with({"final.top1": math.nan}),
    "infinite ratio": _with({"final.compression_ratio": math.inf}),
    "NaN in an option": _with({"config.lr": math.nan}),
    "accuracy as text": _with({"final.top1": "80"}),
    "accuracy above 100": _with({"dense.top1": 101}),
    "no seed": _with({"config.seed": None}),
    "rounds in words": _with({"config.rounds": "three"}),
    "no amount": _with({"config.sparsity": None}),
    "amount as text": _with({"config.sparsity": "0.9"}),
    "measured nothing": _with({"measured": {"batches": [{"batch_size": 1, "networks": {"dense": {}}}]}}),
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_a_bad_record_is_refused_in_one_sentence(tmp_path: Path, text: str) -> None:
    save(tmp_path, record(80), name="run")
    RunFolder(tmp_path / "run").result.write_text(text)
    with pytest.raises(PruningError) as refusal:
        read([tmp_path])
    message = str(refusal.value)
    assert str(tmp_path / "run") in message
    assert "\n" not in message


def test_bad_folders_are_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    save(tmp_path / "dry", record(80, dry_run=True))
    for name in ("missing", "empty", "file", "dry"):
        with pytest.raises(PruningError, match=rf"{name}\b.*(no such folder|no complete run)") as refusal:
            read([tmp_path / name])
        assert "\n" not in str(refusal.value)
