"""The cache of dense networks: its key has everything that training depends on, and a damaged file is replaced."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import SilentObserver, events, fork, read_result, reproducible_result, small_mnist

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


def test_an_edited_file_with_the_users_network_gets_another_cache_entry(
    options: dict[str, Any], tmp_path: Path
) -> None:
    """Even if the file defines no module class and only combines modules of torch."""
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


def test_the_key_depends_on_the_files_that_the_network_imports_and_on_no_other_file(
    options: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / "net.py").write_text(NET.format(width=20, between="ReLU") + "\n\nimport own_widths\n")
    (folder / "own_widths.py").write_text("from own_constants import width\n")
    code = (
        "import sys; sys.path.append('..'); from test_dense_cache import fingerprint\n"
        "print(fingerprint(**eval(sys.argv[1]))['network_source'])"
    )
    own = {**options, "arch": f"{folder / 'net.py'}:make"}
    own = {name: str(value) if isinstance(value, Path) else value for name, value in own.items()}

    def network_source() -> str:
        """Return the digest from a new process, which has imported none of the files."""
        call = [sys.executable, "-B", "-c", code, repr(own)]
        done = subprocess.run(call, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
        return done.stdout

    (folder / "own_constants.py").write_text("def width(): return 20\n")
    first = network_source()
    (folder / "unused.py").write_text("def width(): return 20\n")
    assert network_source() == first
    (folder / "own_constants.py").write_text("def width(): return 30\n")
    assert network_source() != first


def test_every_architecture_has_its_own_source_digest(options: dict[str, Any]) -> None:
    digests = [
        fingerprint(**options, arch=arch)["network_source"] for arch in ("my", "lenet5", "lenet_300_100")
    ]
    assert len(set(digests)) == 3


def test_the_fingerprint_of_the_data_depends_on_normalisation_and_augmentation(
    options: dict[str, Any],
) -> None:
    images = prepare(resolve(options), SilentObserver()).data
    others = [replace(images, mean=(0.9,)), replace(images, std=(0.9,)), replace(images, augmentation="flip")]
    assert len({one.fingerprint() for one in (images, *others)}) == 4


ACCUMULATING_PLUGIN = """
from pruning.registry import ACCUMULATORS, SCORES


@ACCUMULATORS.register("gradients")
def add_gradients(sums, weights, gradients):
    for sum_, gradient in zip(sums, gradients):
        sum_.add_(gradient, alpha={factor})


@SCORES.register("summed", accumulates=("gradients",), elementwise=True, source="mine")
def summed(weights):
    return weights["gradients"]
"""


def test_the_contents_of_a_plugin_are_in_the_key_only_if_its_accumulator_is_used(
    options: dict[str, Any], tmp_path: Path
) -> None:
    plugin = tmp_path / "accumulating.py"
    own = {**options, "plugin": plugin, "epochs": 1}
    found = []
    for factor in (1, -1):
        plugin.write_text(ACCUMULATING_PLUGIN.format(factor=factor))
        found.append([fingerprint(**own, method=method) for method in ("global_summed", "global_mag")])
    assert found[0][0] != found[1][0]
    assert found[0][1] == found[1][1]


def trained(runs: Path, **options: Any) -> Path:
    """The folder of a finished run on small data with two epochs of dense training."""
    images = runs / ".images" if (runs / ".images").is_dir() else small_mnist(runs / ".images")
    training = {"epochs": 2, "finetune_epochs": 1, "rounds": 1, "batch_size": 50, "measure_seconds": 0}
    place = {"dataset": "mnist", "data": images, "runs_dir": runs, "name": "run"}
    run(resolve({**training, **place, **options}), SilentObserver())
    return runs / str(options.get("name", "run"))


def was_cached(folder: Path) -> list[bool]:
    return [event["cached"] for event in events(folder) if event["event"] == "dense"]


REWIND = {"finetune": "rewind", "finetune_epochs": None}


def test_a_damaged_network_in_the_cache_is_trained_again_with_the_same_bits(tmp_path: Path) -> None:
    folder = trained(tmp_path)
    expected = reproducible_result(folder)
    (network,) = tmp_path.glob(".dense/*/network.safetensors")
    network.write_bytes(network.read_bytes()[:-10])
    shutil.rmtree(folder)
    assert reproducible_result(trained(tmp_path)) == expected
    assert was_cached(folder) == [False]


def test_a_damaged_rewind_state_in_the_cache_is_trained_again_with_the_same_bits(tmp_path: Path) -> None:
    folder = trained(tmp_path, **REWIND)
    expected = reproducible_result(folder)
    (state,) = tmp_path.glob(".dense/*/epoch-1.safetensors")
    state.write_bytes(state.read_bytes()[:-10])
    shutil.rmtree(folder)
    assert reproducible_result(trained(tmp_path, **REWIND)) == expected
    assert was_cached(folder) == [True]


def test_a_rewind_state_that_is_trained_later_equals_that_of_the_dense_training(tmp_path: Path) -> None:
    expected = reproducible_result(trained(tmp_path / "at once", **REWIND))
    trained(tmp_path / "later", name="first")  # trains the dense network without writing a rewind state
    assert not list(tmp_path.glob("later/.dense/*/epoch-1.safetensors"))
    later = trained(tmp_path / "later", **REWIND)
    assert was_cached(later) == [True]
    assert reproducible_result(later) == expected


def test_two_processes_that_need_the_same_dense_training_do_it_once(tmp_path: Path) -> None:
    options = ("--epochs", "1", "--finetune", "none", "--rounds", "1", "--measure-seconds", "0")
    pair = [fork(*options, "--method", method, cwd=tmp_path) for method in ("global_mag", "random")]
    outputs = [process.communicate(timeout=120) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], outputs
    assert len(list((tmp_path / "runs/.dense").iterdir())) == 1
    folders = [path for path in (tmp_path / "runs").iterdir() if not path.name.startswith(".")]
    assert sorted(was_cached(folders[0]) + was_cached(folders[1])) == [False, True]
    assert read_result(folders[0])["dense"] == read_result(folders[1])["dense"]
