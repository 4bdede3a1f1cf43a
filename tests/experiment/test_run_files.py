"""The files of a run: the newest good checkpoint, a log without gaps, a record with its digest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pruning.errors import PruningError
from pruning.experiment.event_log import EventLog
from pruning.experiment.run_files import (
    RunFolder,
    record_digest,
    run_folder,
)
from pruning.utils.files import write_tensors_atomic


def test_a_log_is_cut_back_to_where_the_checkpoint_was(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events", 0)
    log.write({"n": 1})
    length = log.length
    log.write({"n": 2})
    log.close()
    again = EventLog(tmp_path / "events", length)
    again.write({"n": 3})
    again.close()
    assert [json.loads(line)["n"] for line in (tmp_path / "events").read_text().splitlines()] == [1, 3]


def test_nan_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        EventLog(tmp_path / "events", 0).write({"loss": float("nan")})


def test_a_damaged_record_is_refused_by_name(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.read_result() is None
    folder.result.write_text('{"schema_version": 1')
    with pytest.raises(PruningError, match="is damaged"):
        folder.read_result()


def test_the_record_contains_its_digest(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "run")
    write_tensors_atomic(folder.model, {"w": torch.ones(2)})
    write_tensors_atomic(folder.masks, {"w": torch.ones(2, dtype=torch.bool)})
    record = folder.write_result({"schema_version": 1, "final": {"top1": 80.0}})
    assert json.loads(folder.result.read_text()) == record
    assert record["sha256"]["result.json"] == record_digest(record)
    record["final"]["top1"] = 80.1
    assert record["sha256"]["result.json"] != record_digest(record)
