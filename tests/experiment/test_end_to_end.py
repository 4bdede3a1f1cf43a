"""The main job as a user runs it: the command, the files it leaves, and the numbers in them."""

from __future__ import annotations

import json
import math
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import SHORT_RUN, Cli, command, environment, events, only_run, read_result, reproducible_result
from safetensors.torch import load_file

import pruning
from pruning.experiment.events import Event

METRICS = {
    "top1", "top5", "loss", "sparsity", "compression_ratio", "theoretical_speedup", "parameters",
    "nonzero_parameters", "macs", "nonzero_macs",
}  # fmt: skip
FIVE = ["global_mag", "layer_mag", "global_grad", "layer_grad", "random"]
PRUNABLE = {"conv1.weight": 54, "conv2.weight": 864, "fc1.weight": 48_000, "fc2.weight": 10_080}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One short run of the default command, shared by the tests that only read it."""
    folder = tmp_path_factory.mktemp("run")
    subprocess.run(
        command(*SHORT_RUN, "--measure-seconds", "0.05"),
        cwd=folder,
        env=environment(),
        check=True,
        capture_output=True,
    )
    return only_run(folder / "runs")


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def test_the_record_holds_what_the_contract_says(run: Path) -> None:
    result = read_result(run)
    assert set(result) >= {
        "schema_version", "name", "config", "environment", "dense", "rounds", "final", "layers", "timing", "warnings",
    }  # fmt: skip
    assert set(result["dense"]) == METRICS
    assert set(result["final"]) == METRICS
    assert [entry["round"] for entry in result["rounds"]] == [1, 2]
    for entry in result["rounds"]:
        assert set(entry) == METRICS | {"round", "target_sparsity", "top1_before_finetune"}
    assert set(result["timing"]) == {
        "dense_training",
        "scoring",
        "masking",
        "finetuning",
        "evaluation",
        "total",
    }
    for layer in result["layers"]:
        assert set(layer) == {
            "name", "type", "shape", "weights", "nonzero", "sparsity", "macs", "nonzero_macs", "pruned",
        }  # fmt: skip
    assert all(math.isfinite(number) for number in numbers(result))
    assert (
        sum(seconds for stage, seconds in result["timing"].items() if stage != "total")
        <= result["timing"]["total"]
    )


def test_the_network_is_exactly_as_sparse_as_asked(run: Path) -> None:
    result, network, masks = (
        read_result(run),
        load_file(run / "model.safetensors"),
        load_file(run / "masks.safetensors"),
    )
    assert {name: mask.numel() for name, mask in masks.items()} == PRUNABLE
    removed = sum(int((~mask).sum()) for mask in masks.values())
    assert removed == round(0.9 * sum(PRUNABLE.values()))
    assert result["final"]["sparsity"] == removed / sum(PRUNABLE.values())
    for name, mask in masks.items():
        assert network[name][~mask].count_nonzero() == 0
        assert not network[name][~mask].signbit().any(), "-0.0 is stored as a value of its own"
    nonzero = sum(int(tensor.count_nonzero()) for tensor in network.values())
    assert result["final"]["nonzero_parameters"] == nonzero
    assert result["final"]["parameters"] == 60_074
    assert result["final"]["compression_ratio"] == 60_074 / nonzero


def test_remaining_multiply_adds_are_positions_times_nonzero_weights(run: Path) -> None:
    result, network = read_result(run), load_file(run / "model.safetensors")
    positions = {"conv1": 26 * 26, "conv2": 11 * 11, "fc1": 1, "fc2": 1, "fc3": 1}
    macs = {name: times * int(network[f"{name}.weight"].count_nonzero()) for name, times in positions.items()}
    assert result["final"]["nonzero_macs"] == sum(macs.values())
    assert result["final"]["macs"] == 54 * 676 + 864 * 121 + 48_000 + 10_080 + 840
    assert {layer["name"]: layer["nonzero_macs"] for layer in result["layers"]} == {
        f"{name}.weight": count for name, count in macs.items()
    }


def test_bytes_are_those_of_the_files(run: Path, cli: Cli) -> None:
    result = read_result(run)
    assert cli("export", run, "--to", "sparse").returncode == 0
    assert (run / "exported-sparse.safetensors").stat().st_size == result["bytes"]["stored_bytes"]
    assert result["bytes"]["nonzero_bytes"] == 4 * result["final"]["nonzero_parameters"]
    (run / "exported-sparse.safetensors").unlink()


def test_dense_and_pruned_were_timed_at_batch_1_and_64(run: Path) -> None:
    batches = read_result(run)["measured"]["batches"]
    assert [batch["batch_size"] for batch in batches] == [1, 64]
    for batch in batches:
        assert batch["networks"]["dense"]["measured_speedup"] == 1
        assert batch["networks"]["pruned"]["median_ms"] > 0


def test_the_classifier_is_kept(run: Path) -> None:
    layers = {layer["name"]: layer for layer in read_result(run)["layers"]}
    assert (layers["fc3.weight"]["pruned"], layers["fc3.weight"]["sparsity"]) == (False, 0)
    assert all(layers[name]["pruned"] for name in PRUNABLE)


def test_events_tell_the_run_from_start_to_result(run: Path) -> None:
    kinds = [event["event"] for event in events(run)]
    assert (kinds[0], kinds[-1]) == ("start", "result")
    assert kinds.count("round") == 2
    assert kinds.count("pruning") == 2
    logged = [event for event in events(run) if event["event"] == "batch" and event["phase"] == "dense"]
    assert [event["batch"] for event in logged] == [20, 40, 60, 80, 85] * 2


def test_accuracy_is_that_of_an_independent_evaluation(run: Path) -> None:
    from pruning.data import load
    from pruning.models import build

    test = load("fashion_mini").test
    model = build("my", classes=10, shape=(1, 28, 28))
    model.load_state_dict(load_file(run / "model.safetensors"))
    with torch.no_grad():
        images = (test.inputs.float() / 255 - 0.2860) / 0.3530
        outputs = model.eval()(images)
    correct = sum(
        int(output.argmax() == target) for output, target in zip(outputs, test.targets, strict=True)
    )
    assert read_result(run)["final"]["top1"] == pytest.approx(100 * correct / 5000)


def test_the_same_command_shows_the_finished_run_and_touches_nothing(run: Path, cli: Cli) -> None:
    before = {file: file.stat().st_mtime_ns for file in run.iterdir()}
    done = cli(*SHORT_RUN, "--runs-dir", run.parent)
    assert done.returncode == 0
    assert "--fresh runs it anew" in done.stdout
    assert {file: file.stat().st_mtime_ns for file in run.iterdir()} == before


def test_the_saved_configuration_repeats_the_run(run: Path, cli: Cli) -> None:
    done = cli("--config", run / "config.yaml", "--runs-dir", run.parent)
    assert "--fresh runs it anew" in done.stdout


def test_fresh_gives_the_same_bits(run: Path, cli: Cli, tmp_path: Path) -> None:
    done = cli(*SHORT_RUN, "--fresh", "--quiet")
    assert done.returncode == 0, done.stderr
    assert reproducible_result(only_run(tmp_path / "runs")) == reproducible_result(run)
    assert cli(*SHORT_RUN, "--fresh", "--quiet").returncode == 0
    assert reproducible_result(only_run(tmp_path / "runs")) == reproducible_result(run)


def test_another_seed_gives_another_network(run: Path, cli: Cli, tmp_path: Path) -> None:
    cli(*SHORT_RUN, "--seed", "1", "--quiet")
    assert (
        reproducible_result(only_run(tmp_path / "runs"))["model.safetensors"]
        != reproducible_result(run)["model.safetensors"]
    )


def test_a_name_belongs_to_one_run(cli: Cli, tmp_path: Path) -> None:
    untrained = ("--epochs", "0", "--finetune", "none", "--measure-seconds", "0", "--name", "mine")
    assert cli(*untrained, "--quiet").returncode == 0
    before = (tmp_path / "runs/mine/result.json").read_bytes()
    done = cli(*untrained, "--lr", "0.05")
    assert done.returncode == 2
    assert "--lr was 0.1, now 0.05" in done.stderr
    assert (tmp_path / "runs/mine/result.json").read_bytes() == before


def test_methods_at_one_seed_share_the_dense_training(cli: Cli, tmp_path: Path) -> None:
    for method in ("global_mag", "random"):
        assert (
            cli(*SHORT_RUN, "--epochs", "1", "--rounds", "1", "--method", method, "--quiet").returncode == 0
        )
    assert len(list((tmp_path / "runs/.dense").iterdir())) == 1
    folders = [path for path in (tmp_path / "runs").iterdir() if not path.name.startswith(".")]
    first, second = (read_result(folder) for folder in folders)
    assert first["dense"] == second["dense"]


class SilentObserver:
    """An observer that keeps what happened and never stops a run."""

    def __init__(self) -> None:
        self.happened: list[dict[str, Any]] = []

    def event(self, event: Event) -> None:
        self.happened.append(event.to_json())

    def progress(self, done: int, total: int) -> None:
        assert 0 <= done <= total

    def check_stop(self) -> None: ...


@pytest.fixture(scope="module")
def shared_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


def do(runs: Path, **options: Any) -> dict[str, Any]:
    """A run in this process, sharing one short dense training with the others in `runs`."""
    from pruning.config.resolution import resolve
    from pruning.experiment.runner import run

    short = {"epochs": 2, "finetune_epochs": 1, "rounds": 1, "measure_seconds": 0}
    return run(resolve({**short, "runs_dir": runs, **options}), SilentObserver())


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.98])
@pytest.mark.parametrize("method", FIVE)
def test_every_method_removes_exactly_what_was_asked(method: str, sparsity: float, shared_runs: Path) -> None:
    result = do(shared_runs, method=method, sparsity=sparsity)
    masks = pruning.Masks.load(shared_runs / result["name"] / "masks.safetensors")
    if method.startswith("layer"):
        removed = {layer.name: layer.weights - layer.nonzero for layer in masks.layers()}
        assert removed == {name: round(sparsity * weights) for name, weights in PRUNABLE.items()}
    else:
        assert masks.removed == round(sparsity * sum(PRUNABLE.values()))
    network = load_file(shared_runs / result["name"] / "model.safetensors")
    assert all(network[name][~mask].count_nonzero() == 0 for name, mask in masks.items())


def test_random_pruning_is_the_worst_at_98_percent(shared_runs: Path) -> None:
    gently = {"sparsity": 0.98, "rounds": 2}
    top1 = {method: do(shared_runs, method=method, **gently)["final"]["top1"] for method in FIVE}
    assert top1["random"] < min(top1[method] for method in FIVE if method != "random")


def test_what_one_round_removed_the_next_keeps_removed(shared_runs: Path) -> None:
    one = do(shared_runs, method="random", sparsity=0.5, schedule="linear", rounds=1)
    two = do(shared_runs, method="random", sparsity=0.9, schedule="linear", rounds=2, finetune="none")
    assert two["rounds"][0]["sparsity"] < one["final"]["sparsity"] + 0.1
    trace = [entry["nonzero_parameters"] for entry in two["rounds"]]
    assert trace[0] - trace[1] == round(0.9 * 58_998) - round(0.45 * 58_998)


def test_a_compression_ratio_is_reached(shared_runs: Path) -> None:
    final = do(shared_runs, compression=8.0)["final"]
    assert final["compression_ratio"] == pytest.approx(8, rel=1e-3)


def test_a_count_above_a_layers_size_empties_it_with_a_warning(shared_runs: Path) -> None:
    result = do(shared_runs, method="layer_mag", count=1000)
    nonzero = {layer["name"]: layer["nonzero"] for layer in result["layers"]}
    assert (nonzero["conv1.weight"], nonzero["conv2.weight"]) == (0, 0)
    assert nonzero["fc1.weight"] == 47_000
    assert sum("left" in warning for warning in result["warnings"]) == 2


def test_without_finetuning_nothing_is_trained_after_pruning(shared_runs: Path) -> None:
    (entry,) = do(shared_runs, finetune="none")["rounds"]
    assert entry["top1"] == entry["top1_before_finetune"]


def test_a_snapshot_made_later_is_the_one_that_training_went_through(tmp_path: Path) -> None:
    do(tmp_path / "at once", finetune="rewind", name="run")
    do(tmp_path / "later", name="first")  # trains the dense network and keeps no snapshot
    do(tmp_path / "later", finetune="rewind", name="run")
    for file in ("model.safetensors", "masks.safetensors"):
        assert (tmp_path / "at once/run" / file).read_bytes() == (tmp_path / "later/run" / file).read_bytes()


def test_a_run_does_not_load_what_only_torch_compile_needs(tmp_path: Path) -> None:
    """Some of torch's wrappers do, for a second and more: see optimizer.SGD and measure.evaluation.Watch."""
    told = environment(PYTHONPROFILEIMPORTTIME="1")
    done = subprocess.run(
        command("--dry-run"), cwd=tmp_path, env=told, check=True, capture_output=True, text=True
    )
    loaded = set(re.findall(r"^import time: .*\| +(\S+)$", done.stderr, re.MULTILINE))
    assert {"torch", "torch.nn", "pruning.training.loop"} <= loaded
    assert not {"torch._dynamo", "torch._inductor", "sympy"} & loaded


def test_excluded_layers_are_left_whole(shared_runs: Path) -> None:
    result = do(shared_runs, exclude=("conv*",))
    layers = {layer["name"]: layer for layer in result["layers"]}
    assert layers["conv1.weight"]["nonzero"] == 54
    assert not layers["conv1.weight"]["pruned"]
    assert result["final"]["sparsity"] == round(0.9 * 58_080) / 58_080


def test_the_configuration_file_is_plain_yaml_of_every_option(run: Path) -> None:
    from pruning.config.run_config import RunConfig

    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert set(saved) == set(RunConfig.model_fields)
    assert saved == json.loads(json.dumps(read_result(run)["config"]))
