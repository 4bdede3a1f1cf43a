"""--max-drop: the sparsest network within so many points of the dense one, by the validation images alone."""

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
from pruning.core.masks import Masks
from pruning.errors import DivergedError
from pruning.experiment.events import RoundFinished
from pruning.experiment.rounds import accept, roll_back
from pruning.experiment.run_files import RunFolder
from pruning.experiment.runner import run
from pruning.experiment.setup import prepare
from pruning.experiment.verification import verify
from pruning.report.comparison import compare, comparison_table, select_runs
from pruning.report.runs import read_runs

# Learnt to 100 %, with room to fall.
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
    """A search in which some rounds hold and some do not."""
    runs = tmp_path_factory.mktemp("runs")
    run(search(runs, max_drop=5), SilentObserver())
    return runs / "run"


def test_rounds_hold_by_the_validation_images_and_the_last_that_holds_is_the_result(folder: Path) -> None:
    result = read_result(folder)
    least = result["dense"]["validation_top1"] - 5
    held = [entry["held"] for entry in result["rounds"]]
    assert held == [entry["validation_top1"] >= least for entry in result["rounds"]]
    assert True in held
    assert False in held
    last = next(entry for entry in reversed(result["rounds"]) if entry["held"])
    assert last["sparsity"] == max(entry["sparsity"] for entry in result["rounds"] if entry["held"])
    assert result["final"] == {key: last[key] for key in result["final"]}
    masks = load_file(folder / "masks.safetensors")
    removed = sum(int((~mask).sum()) for mask in masks.values())
    assert removed == round(last["target_sparsity"] * 58_998)
    network = load_file(folder / "model.safetensors")
    assert sum(int(tensor.count_nonzero()) for tensor in network.values()) == last["nonzero_parameters"]


def test_the_record_verifies(folder: Path) -> None:
    checks = verify(RunFolder(folder), SilentObserver())
    assert [check for check in checks if not check.agrees] == []
    assert "validation_top1" in {check.what for check in checks}


@pytest.mark.parametrize("every", [41])
def test_interrupted_again_and_again_it_ends_with_the_same_bits(
    every: int, folder: Path, tmp_path: Path
) -> None:
    config = search(tmp_path, max_drop=5)
    stops = run_with_interruptions(every, lambda observer: run(config, observer))
    assert stops > 2
    assert reproducible_result(tmp_path / "run") == reproducible_result(folder)


def test_if_no_round_holds_the_dense_network_is_the_result(tmp_path: Path) -> None:
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
    assert warning.startswith("No round stayed within --max-drop 0 of the dense network's validation top-1")
    assert all(check.agrees for check in verify(RunFolder(tmp_path / "run"), SilentObserver()))


def test_going_back_restores_network_masks_and_warnings(tmp_path: Path) -> None:
    session = prepare(search(tmp_path, max_drop=5), SilentObserver())
    session.log.open()
    session.warn("about the dense network")
    before = {name: tensor.clone() for name, tensor in session.model.state_dict().items()}
    accept(session)
    kept = {layer.name: torch.zeros_like(layer.parameter, dtype=torch.bool) for layer in session.layers}
    session.masks = Masks(kept).apply(session.model)
    session.warn("everything is gone")
    roll_back(session)
    assert session.masks is None
    assert session.progress.warnings == ["about the dense network"]
    assert all(torch.equal(before[name], tensor) for name, tensor in session.model.state_dict().items())


def test_a_dry_run_says_so_whatever_is_taken_back(tmp_path: Path) -> None:
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
        if self.training and zeros > {trains_to}:
            hidden = hidden * float("nan")
        return self.outer(hidden)
"""


def diverging(folder: Path, trains_to: float) -> RunConfig:
    """A search on a network whose training gives no loss once more than this part of it is removed."""
    (folder / "net.py").write_text(DIVERGING.format(trains_to=trains_to))
    return search(folder, max_drop=100, arch=f"{folder}/net.py:Net")


def test_a_round_whose_training_diverges_is_one_that_did_not_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = diverging(tmp_path, 0.6)
    run(config, SilentObserver())
    result, uninterrupted = read_result(tmp_path / "run"), reproducible_result(tmp_path / "run")
    rounds = result["rounds"]
    assert [entry["held"] for entry in rounds] == [True, False, False, True]
    assert [entry["target_sparsity"] for entry in rounds[:2]] == [0.5, 0.75]
    measured = {"top1", "top5", "loss", "validation_top1"}
    assert rounds[0].keys() - rounds[1].keys() == measured
    assert rounds[1]["sparsity"] == 0.75
    assert rounds[1]["nonzero_parameters"] == result["dense"]["parameters"] - 0.75 * 784 * 20
    assert result["final"] == {key: rounds[3][key] for key in result["final"]}
    assert [warning.split(",")[0] for warning in result["warnings"]] == [
        "Round 2 counts as one that went too far",
        "Round 3 counts as one that went too far",
    ]
    assert all(
        "the training loss is nan in epoch 1 (a lower --finetune-lr" in one for one in result["warnings"]
    )
    assert all(check.agrees for check in verify(RunFolder(tmp_path / "run"), SilentObserver()))

    # The rolled-back round is shown, and a run that is interrupted again and again ends bit-identical.
    Console().result(result, "runs/run")
    for entry in rounds:
        Console().event(RoundFinished(entry=entry))
    shown = capsys.readouterr()
    assert shown.out.count("diverged, rolled back") == 4
    assert "warning: Round 2 counts as" in shown.err
    shutil.rmtree(tmp_path / "run")
    assert run_with_interruptions(11, lambda observer: run(config, observer)) > 2
    assert reproducible_result(tmp_path / "run") == uninterrupted


def test_a_dense_training_that_diverges_stops_the_search(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"the training loss is nan in epoch 1. Try a lower --lr"):
        run(diverging(tmp_path, -1), SilentObserver())
    assert not (tmp_path / "run/result.json").exists()


def test_reports_and_comparisons_read_it(folder: Path, tmp_path: Path) -> None:
    (found,) = read_runs([folder])
    assert (found.target.kind, str(found.target)) == ("max_drop", "5 points")
    for method in ("global_mag", "random"):
        run(search(tmp_path, max_drop=5, rounds=1, method=method, name=method), SilentObserver())
    table = comparison_table(compare(select_runs("global_mag", tmp_path), select_runs("random", tmp_path)))
    assert table[2][0][0] == "max_drop 5 points"
