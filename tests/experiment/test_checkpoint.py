"""Checkpoints of a run: they hold all of its state, and are refused under other conditions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import SilentObserver, small_mnist

from pruning.config.resolution import resolve
from pruning.core.masks import Masks
from pruning.errors import PruningError
from pruning.experiment import checkpoint
from pruning.experiment.checkpoint import RunCheckpoint
from pruning.experiment.session import Session
from pruning.experiment.setup import prepare


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """A session at its start whose log is open."""
    images = small_mnist(tmp_path / ".images", train=100, test=20)
    place = {"dataset": "mnist", "data": images, "runs_dir": tmp_path, "name": "run"}
    session = prepare(resolve({**place, "epochs": 2, "rounds": 2}), SilentObserver())
    session.log.open()
    return session


def test_a_restored_session_has_the_network_masks_and_progress_of_the_saved_one(session: Session) -> None:
    kept = {layer.name: torch.rand(layer.parameter.shape) > 0.5 for layer in session.layers}
    session.masks = Masks(kept).apply(session.model)
    session.progress.rounds.append({"round": 1, "top1": 50.0})
    session.warn("a warning")
    training = ({"losses": torch.tensor([1.0])}, {"epoch": 1, "batch": 2, "seen": 3})
    checkpoint.save(session, training)
    weights = {name: tensor.clone() for name, tensor in session.model.state_dict().items()}

    resumed = prepare(session.config.model_copy(update={"seed": 7}), SilentObserver())
    saved = checkpoint.load(resumed)
    assert saved is not None
    checkpoint.restore(resumed, saved)
    assert all(torch.equal(weights[name], tensor) for name, tensor in resumed.model.state_dict().items())
    assert resumed.masks is not None
    assert all(torch.equal(mask, kept[name]) for name, mask in resumed.masks.items())
    assert resumed.progress == session.progress
    assert resumed.steps_done == resumed.dense_steps + resumed.round_steps
    tensors, position = resumed.take_resumed_training() or ({}, {})
    assert torch.equal(tensors["losses"], training[0]["losses"])
    assert position == training[1]
    assert resumed.take_resumed_training() is None


def test_the_values_of_a_checkpoint_are_json_and_unpack_to_the_same_checkpoint(session: Session) -> None:
    packed = checkpoint.checkpoint_of(session)
    tensors, values = packed.pack()
    unpacked = RunCheckpoint.unpack(tensors, json.loads(json.dumps(values)))
    assert unpacked.progress == packed.progress
    assert unpacked.fingerprint == packed.fingerprint
    assert unpacked.training is None
    assert unpacked.network.keys() == packed.network.keys()


def test_a_checkpoint_of_another_format_is_refused_with_both_formats(session: Session) -> None:
    tensors, values = checkpoint.checkpoint_of(session).pack()
    with pytest.raises(PruningError, match=rf"format 99, not {checkpoint.FORMAT}"):
        RunCheckpoint.unpack(tensors, {**values, "format": 99})


def test_a_checkpoint_with_another_fingerprint_is_refused_with_the_difference(session: Session) -> None:
    saved = checkpoint.checkpoint_of(session)
    checkpoint.check_fingerprint(session, saved)
    other = replace(saved, fingerprint={**saved.fingerprint, "threads": 77})
    with pytest.raises(PruningError, match=r"threads was 77, now \d+.*--fresh"):
        checkpoint.check_fingerprint(session, other)
