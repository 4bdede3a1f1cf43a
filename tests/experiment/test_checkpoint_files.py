"""Checkpoint files: the newest intact one is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pruning.experiment.checkpoint_files import KEPT, CheckpointFiles


def test_the_newest_intact_checkpoint_is_loaded_and_older_ones_are_deleted(tmp_path: Path) -> None:
    checkpoints = CheckpointFiles(tmp_path)
    assert checkpoints.load() is None
    for number in range(4):
        checkpoints.save({"n": torch.tensor(number)}, {"number": number})
    assert len(list(tmp_path.glob("*.json"))) == KEPT
    tensors, values = checkpoints.load() or ({}, {})
    assert (int(tensors["n"]), values["number"]) == (3, 3)


@pytest.mark.parametrize("suffix", ["safetensors", "json"])
@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(suffix: str, damage: str, tmp_path: Path) -> None:
    checkpoints = CheckpointFiles(tmp_path)
    for number in range(2):
        checkpoints.save({"n": torch.tensor(number)}, {"number": number})
    newest = max(tmp_path.glob(f"*.{suffix}"))
    content = newest.read_bytes()
    if damage == "missing":
        newest.unlink()
    elif damage == "truncated":
        newest.write_bytes(content[:-3])
    else:
        newest.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded[1]["number"] == 0


def test_a_checkpoint_can_be_saved_after_a_damaged_one(tmp_path: Path) -> None:
    checkpoints = CheckpointFiles(tmp_path)
    checkpoints.save({"n": torch.tensor(0)}, {"number": 0})
    max(tmp_path.glob("*.json")).write_text("{")
    checkpoints.save({"n": torch.tensor(1)}, {"number": 1})
    assert (checkpoints.load() or ({}, {}))[1]["number"] == 1


def test_a_checkpoint_with_altered_values_in_valid_json_is_skipped(tmp_path: Path) -> None:
    checkpoints = CheckpointFiles(tmp_path)
    for number in (10, 20):
        checkpoints.save({"n": torch.tensor(number)}, {"number": number})
    newest = max(tmp_path.glob("*.json"))
    newest.write_text(newest.read_text().replace('"number": 20', '"number": 21'))
    assert (checkpoints.load() or ({}, {}))[1]["number"] == 10
