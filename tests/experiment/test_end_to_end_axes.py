"""Structures, allocations and floors as a user meets them: from the command line to the record and back."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, only_run, read_result

QUICK = ("--epochs", "0", "--finetune-epochs", "0", "--rounds", "1", "--measure-seconds", "0")


def layers(result: dict[str, Any]) -> dict[str, float]:
    return {layer["name"]: layer["sparsity"] for layer in result["layers"]}


def run(cli: Cli, folder: Path, *arguments: str) -> dict[str, Any]:
    done = cli(*QUICK, *arguments)
    assert done.returncode == 0, done.stderr
    return read_result(only_run(folder / "runs"))


def test_two_of_four(cli: Cli, tmp_path: Path) -> None:
    result = run(
        cli,
        tmp_path,
        "--structure",
        "2:4",
        "--method",
        "layer_mag",
        "--exclude",
        "conv1",
        "--exclude",
        "conv2",
    )
    assert result["final"]["sparsity"] == 0.5
    assert layers(result)["fc1.weight"] == layers(result)["fc2.weight"] == 0.5


def test_fractions_by_kind_of_layer_from_a_file(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("method: layer_mag\nlayer_sparsity: conv=0.2 linear=0.4\nfloor: 0.5\n")
    found = layers(run(cli, tmp_path, "--config", "run.yaml"))
    assert found == pytest.approx(
        {
            "conv1.weight": 11 / 54,
            "conv2.weight": 173 / 864,
            "fc1.weight": 0.4,
            "fc2.weight": 0.4,
            "fc3.weight": 0,
        }
    )


@pytest.mark.skipif(find_spec("torch_pruning") is None, reason="the extra shrink is not installed")
def test_filters_are_recorded_and_verified_with_their_biases(cli: Cli, tmp_path: Path) -> None:
    options = (
        "--structure",
        "filter",
        "--method",
        "layer_fpgm",
        "--sparsity",
        "0.5",
        "--measure-seconds",
        "0.01",
    )
    result = run(cli, tmp_path, *options)
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


def test_what_does_not_fit_is_said_before_any_training(cli: Cli, tmp_path: Path) -> None:
    done = cli("--structure", "block4x4", "--epochs", "100000")
    assert done.returncode == 2
    assert "--exclude conv1.weight --exclude conv2.weight" in " ".join(done.stderr.split())
    assert not (tmp_path / "runs").exists()


def test_single_weights_are_no_filters_even_where_whole_rows_go(cli: Cli, tmp_path: Path) -> None:
    result = run(cli, tmp_path, "--arch", "lenet_300_100", "--sparsity", "0.99", "--measure-seconds", "0.01")
    for batch in result["measured"]["batches"]:
        assert list(batch["networks"]) == ["dense", "pruned"]
    assert "shrunk" not in result
    assert not any("filters" in warning for warning in result["warnings"])
