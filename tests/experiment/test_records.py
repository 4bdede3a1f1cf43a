"""Finished runs: found by their options and by the contents of the user's own files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SilentObserver, small_mnist

from pruning.config.resolution import resolve
from pruning.errors import PruningError
from pruning.experiment.records import finished
from pruning.experiment.run_files import RunFolder
from pruning.experiment.runner import run
from pruning.experiment.verification import verify
from pruning.models import build
from pruning.utils.files import write_state_dict_atomic

NET = """
from torch import nn


def make(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 20), nn.{between}(), nn.Linear(20, classes))
"""


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """Options of a run with a network and weights of the user's own."""
    net, weights = tmp_path / "net.py", tmp_path / "weights.safetensors"
    net.write_text(NET.format(between="ReLU"))
    own = f"{net}:make"
    write_state_dict_atomic(weights, build(own, classes=10, shape=(1, 28, 28)).state_dict())
    images = small_mnist(tmp_path / ".images", train=100, test=20)
    given = {"dataset": "mnist", "data": images, "arch": own, "weights": weights, "name": "run"}
    return {**given, "runs_dir": tmp_path, "epochs": 0, "finetune": "none", "rounds": 1, "measure_seconds": 0}


def disagreeing(options: dict[str, Any]) -> set[str]:
    checks = verify(RunFolder(options["runs_dir"] / "run"), SilentObserver())
    return {check.what for check in checks if not check.agrees}


def test_a_finished_run_is_found_while_its_files_are_unchanged_or_deleted(
    options: dict[str, Any],
) -> None:
    run(resolve(options), SilentObserver())
    assert finished(resolve(options)) is not None
    assert not disagreeing(options)
    config = resolve(options)
    options["weights"].unlink()
    assert finished(config) is not None
    assert not disagreeing(options)


def test_a_finished_run_is_refused_after_its_network_or_weights_changed(
    options: dict[str, Any], tmp_path: Path
) -> None:
    run(resolve(options), SilentObserver())
    (tmp_path / "net.py").write_text(NET.format(between="Tanh"))
    with pytest.raises(PruningError, match=r"--arch .*net\.py:make.*--name"):
        finished(resolve(options))
    assert "files given" in disagreeing(options)
    (tmp_path / "net.py").write_text(NET.format(between="ReLU"))
    assert finished(resolve(options)) is not None
    torch.manual_seed(1)
    other = build(options["arch"], classes=10, shape=(1, 28, 28)).state_dict()
    write_state_dict_atomic(options["weights"], other)
    with pytest.raises(PruningError, match=r"--weights .*weights\.safetensors"):
        finished(resolve(options))
    assert disagreeing(options) == {"files given"}
