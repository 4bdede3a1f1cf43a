"""The record of a run, and the numbers in it: contract, sparsity, MACs, bytes, accuracy."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import SHORT_RUN, Cli, command, environment, events, only_run, read_result
from safetensors.torch import load_file

from pruning.config.run_config import RunConfig
from pruning.data import load
from pruning.models import build

METRICS = {
    "top1", "top5", "loss", "sparsity", "compression_ratio", "theoretical_speedup", "parameters",
    "nonzero_parameters", "macs", "nonzero_macs",
}  # fmt: skip
PRUNABLE = {"conv1.weight": 54, "conv2.weight": 864, "fc1.weight": 48_000, "fc2.weight": 10_080}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one short run of the default command; the tests only read it."""
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


def test_the_record_has_every_key_of_its_contract_and_only_finite_numbers(run: Path) -> None:
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


def test_exactly_the_requested_fraction_is_pruned_in_masks_weights_and_metrics(run: Path) -> None:
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


def test_nonzero_macs_are_output_positions_times_nonzero_weights(run: Path) -> None:
    result, network = read_result(run), load_file(run / "model.safetensors")
    positions = {"conv1": 26 * 26, "conv2": 11 * 11, "fc1": 1, "fc2": 1, "fc3": 1}
    macs = {name: times * int(network[f"{name}.weight"].count_nonzero()) for name, times in positions.items()}
    assert result["final"]["nonzero_macs"] == sum(macs.values())
    assert result["final"]["macs"] == 54 * 676 + 864 * 121 + 48_000 + 10_080 + 840
    assert {layer["name"]: layer["nonzero_macs"] for layer in result["layers"]} == {
        f"{name}.weight": count for name, count in macs.items()
    }


def test_recorded_bytes_equal_the_size_of_the_sparse_export(run: Path, cli: Cli) -> None:
    result = read_result(run)
    assert cli("export", run, "--to", "sparse").returncode == 0
    assert (run / "exported-sparse.safetensors").stat().st_size == result["bytes"]["stored_bytes"]
    assert result["bytes"]["nonzero_bytes"] == 4 * result["final"]["nonzero_parameters"]
    (run / "exported-sparse.safetensors").unlink()


def test_dense_and_pruned_networks_are_timed_at_batch_sizes_1_and_64(run: Path) -> None:
    batches = read_result(run)["measured"]["batches"]
    assert [batch["batch_size"] for batch in batches] == [1, 64]
    for batch in batches:
        assert batch["networks"]["dense"]["measured_speedup"] == 1
        assert batch["networks"]["pruned"]["median_ms"] > 0


def test_the_classifier_is_not_pruned(run: Path) -> None:
    layers = {layer["name"]: layer for layer in read_result(run)["layers"]}
    assert (layers["fc3.weight"]["pruned"], layers["fc3.weight"]["sparsity"]) == (False, 0)
    assert all(layers[name]["pruned"] for name in PRUNABLE)


def test_the_log_has_every_stage_of_the_run_and_the_last_batch_of_every_epoch(run: Path) -> None:
    kinds = [event["event"] for event in events(run)]
    assert (kinds[0], kinds[-1]) == ("start", "result")
    assert kinds.count("round") == 2
    assert kinds.count("pruning") == 2
    logged = [event for event in events(run) if event["event"] == "batch" and event["phase"] == "dense"]
    assert [event["batch"] for event in logged] == [20, 40, 60, 80, 85] * 2


def test_recorded_accuracy_equals_an_independent_evaluation_of_the_saved_network(run: Path) -> None:
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


def test_a_short_default_run_reaches_a_minimum_accuracy(run: Path) -> None:
    """Two epochs and 90 % sparsity gave 80.3 % dense and 82.9 % after fine-tuning; guessing gives 10 %."""
    result = read_result(run)
    assert result["dense"]["top1"] > 75
    assert result["final"]["top1"] > 75


def test_the_configuration_file_is_yaml_with_every_option(run: Path) -> None:
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert set(saved) == set(RunConfig.model_fields)
    assert saved == json.loads(json.dumps(read_result(run)["config"]))
