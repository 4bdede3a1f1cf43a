"""--max-drop: search the highest sparsity with a validation top-1 drop of at most a number of points."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SilentObserver, read_result, reproducible_result, run_with_interruptions, small_mnist
from safetensors.torch import load_file

from pruning.cli.console import Console
from pruning.config.resolution import resolve
from pruning.config.run_config import RunConfig
from pruning.errors import DivergedError
from pruning.experiment.events import RoundFinished
from pruning.experiment.run_files import RunFolder
from pruning.experiment.runner import run
from pruning.experiment.verification import verify
from pruning.report.comparison import compare, comparison_table, select_runs
from pruning.report.runs import read_runs

# The dense network learns these images to 100 %, so that pruned ones can be clearly worse.
TRAINING = {
    "dataset": "mnist",
    "method": "random",
    "epochs": 4,
    "lr": 0.05,
    "batch_size": 16,
    "finetune_epochs": 1,
    "finetune_lr": 0.01,
    "measure_seconds": 0,
}


def search(folder: Path, **options: Any) -> RunConfig:
    images = folder / ".images" if (folder / ".images").is_dir() else small_mnist(folder / ".images")
    place = {"runs_dir": folder, "name": "run", "data": images}
    return resolve({**TRAINING, "rounds": 4, **place, **options})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search with accepted and rejected rounds."""
    runs = tmp_path_factory.mktemp("runs")
    run(search(runs, max_drop=5), SilentObserver())
    return runs / "run"


def test_rounds_are_accepted_by_validation_top1_and_the_last_accepted_one_is_the_result(folder: Path) -> None:
    result = read_result(folder)
    lowest = result["dense"]["validation_top1"] - 5
    accepted = [entry["held"] for entry in result["rounds"]]
    assert accepted == [entry["validation_top1"] >= lowest for entry in result["rounds"]]
    assert True in accepted
    assert False in accepted
    last = next(entry for entry in reversed(result["rounds"]) if entry["held"])
    assert last["sparsity"] == max(entry["sparsity"] for entry in result["rounds"] if entry["held"])
    assert result["final"] == {key: last[key] for key in result["final"]}
    masks = load_file(folder / "masks.safetensors")
    removed = sum(int((~mask).sum()) for mask in masks.values())
    assert removed == round(last["target_sparsity"] * 58_998)
    network = load_file(folder / "model.safetensors")
    assert sum(int(tensor.count_nonzero()) for tensor in network.values()) == last["nonzero_parameters"]


def test_the_record_of_a_search_verifies_with_its_validation_top1(folder: Path) -> None:
    checks = verify(RunFolder(folder), SilentObserver())
    assert [check for check in checks if not check.agrees] == []
    assert "validation_top1" in {check.what for check in checks}


def test_a_search_interrupted_every_41_checks_ends_with_the_same_bits(folder: Path, tmp_path: Path) -> None:
    config = search(tmp_path, max_drop=5)
    assert run_with_interruptions(41, lambda observer: run(config, observer)) > 2
    assert reproducible_result(tmp_path / "run") == reproducible_result(folder)


def test_the_dense_network_is_the_result_if_every_round_is_rejected(tmp_path: Path) -> None:
    run(search(tmp_path, max_drop=0, finetune="none", rounds=1, seed=2), SilentObserver())
    result = read_result(tmp_path / "run")
    assert [entry["held"] for entry in result["rounds"]] == [False]
    assert result["final"] == result["dense"]
    assert result["final"]["sparsity"] == 0
    assert all(mask.all() for mask in load_file(tmp_path / "run/masks.safetensors").values())
    (dense,) = (tmp_path / ".dense").glob("*/network.safetensors")
    network = load_file(tmp_path / "run/model.safetensors")
    assert all(torch.equal(network[name], tensor) for name, tensor in load_file(dense).items())
    (warning,) = result["warnings"]
    assert "--max-drop 0 " in warning
    assert all(check.agrees for check in verify(RunFolder(tmp_path / "run"), SilentObserver()))


def test_the_warning_of_a_dry_run_remains_when_rounds_are_rolled_back(tmp_path: Path) -> None:
    run(search(tmp_path, max_drop=0, finetune="none", rounds=3, dry_run=True), SilentObserver())
    result = read_result(tmp_path / "run")
    assert result["warnings"][0].startswith("Dry run")


DIVERGING = """
from torch import nn


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.inner, self.outer = nn.Linear(784, 20), nn.Linear(20, classes)

    def forward(self, images):
        zeros = (self.inner.weight == 0).float().mean()
        hidden = self.inner(images.flatten(1)).relu()
        if self.training and zeros > {max_sparsity}:
            hidden = hidden * float("nan")
        return self.outer(hidden)
"""


def diverging(folder: Path, max_sparsity: float) -> RunConfig:
    """A search on a network whose training loss is NaN if its first layer is sparser than `max_sparsity`."""
    (folder / "net.py").write_text(DIVERGING.format(max_sparsity=max_sparsity))
    return search(folder, max_drop=100, arch=f"{folder}/net.py:Net")


def test_a_round_whose_training_diverges_is_rejected_and_the_search_continues(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = diverging(tmp_path, 0.6)
    run(config, SilentObserver())
    result, whole = read_result(tmp_path / "run"), reproducible_result(tmp_path / "run")
    rounds = result["rounds"]
    assert [entry["held"] for entry in rounds] == [True, False, False, True]
    assert [entry["target_sparsity"] for entry in rounds[:2]] == [0.5, 0.75]
    measured = {"top1", "top5", "loss", "validation_top1"}
    assert rounds[0].keys() - rounds[1].keys() == measured
    assert rounds[1]["sparsity"] == 0.75
    assert rounds[1]["nonzero_parameters"] == result["dense"]["parameters"] - 0.75 * 784 * 20
    assert result["final"] == {key: rounds[3][key] for key in result["final"]}
    assert [warning.split(" was rejected")[0] for warning in result["warnings"]] == ["Round 2", "Round 3"]
    assert all("loss is nan in epoch 1" in one and "--finetune-lr" in one for one in result["warnings"])
    assert all(check.agrees for check in verify(RunFolder(tmp_path / "run"), SilentObserver()))

    # The console shows the divergence, and an interrupted search ends bit-identical.
    Console().result(result, Path("runs/run/result.json"))
    for entry in rounds:
        Console().event(RoundFinished(entry=entry))
    shown = capsys.readouterr()
    assert shown.out.count("diverged, rolled back") == 4
    assert "warning: Round 2 was rejected" in shown.err
    shutil.rmtree(tmp_path / "run")
    assert run_with_interruptions(11, lambda observer: run(config, observer)) > 2
    assert reproducible_result(tmp_path / "run") == whole


def test_a_search_stops_if_the_dense_training_diverges(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"loss is nan in epoch 1.*--lr"):
        run(diverging(tmp_path, -1), SilentObserver())
    assert not (tmp_path / "run/result.json").exists()


def test_reports_and_comparisons_name_the_target_of_a_search(folder: Path, tmp_path: Path) -> None:
    (found,) = read_runs([folder])
    assert (found.target.kind, str(found.target)) == ("max_drop", "5 points")
    for method in ("global_mag", "random"):
        run(search(tmp_path, max_drop=5, rounds=1, method=method, name=method), SilentObserver())
    table = comparison_table(compare(select_runs("global_mag", tmp_path), select_runs("random", tmp_path)))
    assert table[2][0][0] == "max_drop 5 points"
