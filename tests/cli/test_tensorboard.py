"""TensorBoard: the scalars that a run's events become, and their steps."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from pruning.cli.app import execute
from pruning.cli.tensorboard import TensorBoardSink
from pruning.config.resolution import resolve
from pruning.experiment.events import BatchLogged, Evaluated, Event, LogOpened, RoundFinished


def test_without_tensorboard_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert execute(["--tensorboard"]) == 2
    assert "pip install -e '.[tensorboard]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_steps_are_batches_since_the_start_for_training_and_rounds_for_metrics(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = resolve({"epochs": 2, "finetune_epochs": 3, "rounds": 2})
    batch: dict[str, Any] = {"batch": 5, "batches": 10, "loss": 0.5, "accuracy": 75.0, "lr": 0.25}
    evaluation: dict[str, Any] = {"top1": 50.0, "top5": 75.0, "loss": 1.5}
    last = dict.fromkeys(
        ("top1", "top5", "loss", "sparsity", "theoretical_speedup", "top1_before_finetune"), 1.0
    )
    events: list[Event] = [
        LogOpened(name="run", resumed=False),
        BatchLogged(**batch, phase="dense", epoch=2),
        Evaluated(**evaluation, what="training", split="validation", phase="dense", epoch=2),
        Evaluated(**evaluation, what="dense", split="test"),
        BatchLogged(**batch, phase="finetune", round=2, epoch=1),
        Evaluated(**evaluation, what="pruned", split="test", round=2),
        RoundFinished(entry={"round": 2, "compression_ratio": None, **last}),
    ]
    with TensorBoardSink(config, tmp_path / "tensorboard") as sink:
        for event in events:
            sink.event(event)
    read = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    found = {name: [(one.step, one.value) for one in read.Scalars(name)] for name in read.Tags()["scalars"]}
    # Batch 5 after 1 and after 5 epochs of 10 batches.
    assert found["training/loss"] == [(15, 0.5), (55, 0.5)]
    assert found["training/learning_rate"] == [(15, 0.25), (55, 0.25)]
    assert found["validation/top1"] == [(20, 50.0)]
    assert found["rounds/top1"] == [(0, 50.0), (2, 1.0)]
    assert "rounds/compression_ratio" not in found


def test_replayed_epochs_of_the_dense_training_follow_it_without_a_gap(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = resolve({"epochs": 4, "finetune": "rewind_lr", "rewind_epoch": 1, "rounds": 2})
    batch: dict[str, Any] = {"batch": 10, "batches": 10, "loss": 0.5, "accuracy": 75.0, "lr": 0.25}
    with TensorBoardSink(config, tmp_path / "tensorboard") as sink:
        for epoch, number in ((4, None), (2, 1), (4, 2)):
            sink.event(BatchLogged(**batch, phase="", epoch=epoch, round=number))
    read = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert [one.step for one in read.Scalars("training/loss")] == [40, 50, 100]


def test_the_folder_is_created_with_the_first_scalar(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with TensorBoardSink(resolve({}), tmp_path / "tensorboard") as sink:
        sink.event(LogOpened(name="run", resumed=False))
        assert not (tmp_path / "tensorboard").exists()
        sink.event(Evaluated(what="dense", split="test", top1=50.0, top5=75.0, loss=1.5))
        assert (tmp_path / "tensorboard").is_dir()
