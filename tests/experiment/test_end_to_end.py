"""Structures, allocations and floors from the command line to the record."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, only_run, read_result

UNTRAINED = ("--epochs", "0", "--finetune-epochs", "0", "--rounds", "1", "--measure-seconds", "0")


def layer_sparsities(result: dict[str, Any]) -> dict[str, float]:
    return {layer["name"]: layer["sparsity"] for layer in result["layers"]}


def run(cli: Cli, folder: Path, *arguments: str) -> dict[str, Any]:
    done = cli(*UNTRAINED, *arguments)
    assert done.returncode == 0, done.stderr
    return read_result(only_run(folder / "runs"))


def test_structure_2_4_prunes_half_of_every_layer_that_it_fits(cli: Cli, tmp_path: Path) -> None:
    excluded = ("--exclude", "conv1", "--exclude", "conv2")
    result = run(cli, tmp_path, "--structure", "2:4", "--method", "layer_mag", *excluded)
    assert result["final"]["sparsity"] == 0.5
    assert layer_sparsities(result)["fc1.weight"] == layer_sparsities(result)["fc2.weight"] == 0.5


def test_a_configuration_file_sets_sparsities_by_kind_of_layer_and_a_floor(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("method: layer_mag\nlayer_sparsity: conv=0.2 linear=0.4\nfloor: 0.5\n")
    found = layer_sparsities(run(cli, tmp_path, "--config", "run.yaml"))
    convolutions = {"conv1.weight": 11 / 54, "conv2.weight": 173 / 864}
    assert found == pytest.approx({**convolutions, "fc1.weight": 0.4, "fc2.weight": 0.4, "fc3.weight": 0})


@pytest.mark.skipif(find_spec("torch_pruning") is None, reason="the extra shrink is not installed")
def test_pruned_filters_are_recorded_shrunk_and_verified_with_their_biases(cli: Cli, tmp_path: Path) -> None:
    options = ("--structure", "filter", "--method", "layer_fpgm", "--sparsity", "0.5")
    result = run(cli, tmp_path, *options, "--measure-seconds", "0.01")
    assert result["final"]["sparsity"] == 0.5
    weights, biases = 54 + 864 + 48_000 + 10_080, 6 + 16 + 120 + 84
    final = result["final"]
    assert final["nonzero_parameters"] == final["parameters"] - (weights + biases) // 2
    for batch in result["measured"]["batches"]:
        assert list(batch["networks"]) == ["dense", "pruned", "shrunk"]
    left = (3 * 9 + 3) + (8 * 3 * 9 + 8) + (8 * 25 * 60 + 60) + (60 * 42 + 42) + (42 * 10 + 10)
    assert result["shrunk"]["parameters"] == left
    done = cli("verify", str(only_run(tmp_path / "runs")))
    assert done.returncode == 0, done.stdout + done.stderr
    done = cli("measure", str(only_run(tmp_path / "runs")), "--batch-size", "2", "--seconds", "0.01")
    timed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("2 ")]
    assert timed == ["dense", "pruned", "shrunk"], done.stdout + done.stderr


def test_a_structure_that_fits_no_layer_is_refused_before_any_training(cli: Cli, tmp_path: Path) -> None:
    done = cli("--structure", "block4x4", "--epochs", "100000")
    assert done.returncode == 2
    assert "--exclude conv1.weight --exclude conv2.weight" in " ".join(done.stderr.split())
    assert not (tmp_path / "runs").exists()


def test_a_run_that_prunes_single_weights_is_not_shrunk_even_if_whole_rows_are_pruned(
    cli: Cli, tmp_path: Path
) -> None:
    result = run(cli, tmp_path, "--arch", "lenet_300_100", "--sparsity", "0.99", "--measure-seconds", "0.01")
    for batch in result["measured"]["batches"]:
        assert list(batch["networks"]) == ["dense", "pruned"]
    assert "shrunk" not in result
    assert not any("filters" in warning for warning in result["warnings"])
