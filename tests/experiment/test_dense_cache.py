"""What the dense network depends on: whatever changes it is in its key, so that no run takes another's network."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import SilentObserver, small_mnist

from pruning.config.resolution import resolve
from pruning.experiment.runner import run
from pruning.experiment.setup import prepare

NET = """
from torch import nn


def make(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, {width}), nn.{between}(), nn.Linear({width}, classes))
"""


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    images = small_mnist(tmp_path / ".images", train=100, test=20)
    values = {"epochs": 0, "finetune": "none", "rounds": 1, "measure_seconds": 0}
    return {"dataset": "mnist", "data": images, "runs_dir": tmp_path, **values}


def fingerprint(**options: Any) -> dict[str, Any]:
    return prepare(resolve(options), SilentObserver()).fingerprint


def test_a_network_of_ones_own_that_was_edited_is_another_one(
    options: dict[str, Any], tmp_path: Path
) -> None:
    """Also where the file only puts together what torch brings."""
    file = tmp_path / "net.py"
    found = []
    for width, between in ((20, "ReLU"), (20, "Tanh"), (30, "ReLU")):
        file.write_text(NET.format(width=width, between=between))
        own = {**options, "arch": f"{file}:make", "name": f"{width}{between}"}
        found.append(fingerprint(**own)["network_source"])
        assert found[-1] == fingerprint(**own)["network_source"]
        run(resolve(own), SilentObserver())
    assert len(set(found)) == 3
    assert len(list(tmp_path.glob(".dense/*"))) == 3


def test_a_file_that_the_network_takes_functions_from_counts_too_and_one_that_merely_lies_there_does_not(
    options: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / "net.py").write_text(NET.format(width=20, between="ReLU") + "\n\nimport widths_of_mine\n")
    (folder / "widths_of_mine.py").write_text("from deeper_of_mine import width\n")
    code = (
        "import sys; sys.path.append('..'); from test_dense_cache import fingerprint\n"
        "print(fingerprint(**eval(sys.argv[1]))['network_source'])"
    )
    own = {**options, "arch": f"{folder / 'net.py'}:make"}
    own = {name: str(value) if isinstance(value, Path) else value for name, value in own.items()}

    def found() -> str:
        """In a process of its own, as every run is."""
        call = [sys.executable, "-B", "-c", code, repr(own)]
        done = subprocess.run(call, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
        return done.stdout

    (folder / "deeper_of_mine.py").write_text("def width(): return 20\n")
    first = found()
    (folder / "unused.py").write_text("def width(): return 20\n")
    assert found() == first
    (folder / "deeper_of_mine.py").write_text("def width(): return 30\n")
    assert found() != first


def test_architectures_and_what_they_are_made_of_have_their_own_digests(options: dict[str, Any]) -> None:
    digests = [
        fingerprint(**options, arch=arch)["network_source"] for arch in ("my", "lenet5", "lenet_300_100")
    ]
    assert len(set(digests)) == 3


def test_what_is_done_to_the_images_counts_too(options: dict[str, Any]) -> None:
    images = prepare(resolve(options), SilentObserver()).data
    others = [replace(images, mean=(0.9,)), replace(images, std=(0.9,)), replace(images, augmentation="flip")]
    assert len({one.fingerprint() for one in (images, *others)}) == 4


ADDS_UP = """
from pruning.registry import ACCUMULATORS, SCORES


@ACCUMULATORS.register("gradients")
def add_gradients(sums, weights, gradients):
    for sum_, gradient in zip(sums, gradients):
        sum_.add_(gradient, alpha={factor})


@SCORES.register("along", accumulates=("gradients",), elementwise=True, source="mine")
def along(weights):
    return weights["gradients"]
"""


def test_what_a_plugin_adds_up_is_shared_by_its_contents(options: dict[str, Any], tmp_path: Path) -> None:
    plugin = tmp_path / "adds_up.py"
    own = {**options, "plugin": plugin, "epochs": 1}
    found = []
    for factor in (1, -1):
        plugin.write_text(ADDS_UP.format(factor=factor))
        found.append([fingerprint(**own, method=method) for method in ("global_along", "global_mag")])
    assert found[0][0] != found[1][0]
    assert found[0][1] == found[1][1]
