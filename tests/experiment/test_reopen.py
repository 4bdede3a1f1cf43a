"""Reopening a finished run: its network and masks as they were saved, or a refusal of what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import SilentObserver, small_mnist
from safetensors.torch import load_file, save_file

from pruning.config.resolution import resolve
from pruning.errors import PruningError
from pruning.experiment.reopen import DamagedRecordError, reopen
from pruning.experiment.run_files import RunFolder
from pruning.experiment.runner import run


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    images = small_mnist(tmp_path / ".images", train=100, test=20)
    place = {"dataset": "mnist", "data": images, "runs_dir": tmp_path, "name": "run"}
    untrained = {"epochs": 0, "finetune": "none", "rounds": 1, "measure_seconds": 0}
    run(resolve({**place, **untrained}), SilentObserver())
    return RunFolder(tmp_path / "run")


def test_a_reopened_run_has_the_saved_weights_masks_and_record(folder: RunFolder) -> None:
    session, result = reopen(folder, SilentObserver())
    saved = load_file(folder.model)
    assert all(torch.equal(saved[name], tensor) for name, tensor in session.model.state_dict().items())
    assert session.masks is not None
    masks = load_file(folder.masks)
    assert all(torch.equal(masks[name], mask) for name, mask in session.masks.items())
    assert result == folder.read_result()


def test_weights_of_another_network_are_refused_as_a_damaged_record(folder: RunFolder) -> None:
    save_file({"weight": torch.zeros(2)}, folder.model)
    with pytest.raises(DamagedRecordError, match=r"model\.safetensors"):
        reopen(folder, SilentObserver())


def test_deleted_masks_are_refused_as_a_damaged_record(folder: RunFolder) -> None:
    folder.masks.unlink()
    with pytest.raises(DamagedRecordError, match=r"masks\.safetensors"):
        reopen(folder, SilentObserver())


def test_an_unfinished_run_is_refused_with_the_missing_file(folder: RunFolder) -> None:
    folder.result.unlink()
    with pytest.raises(PruningError, match=r"result\.json"):
        reopen(folder, SilentObserver())
