"""The files of a run: a record with digests, and a damaged one that is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pruning.errors import PruningError
from pruning.experiment.run_files import (
    RunFolder,
    record_digest,
    run_folder,
)
from pruning.utils.files import write_tensors_atomic


def test_a_damaged_record_is_refused_with_its_path(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.read_result() is None
    folder.result.write_text('{"schema_version": 1')
    with pytest.raises(PruningError, match=r"result\.json is damaged"):
        folder.read_result()


def test_a_written_record_has_digests_that_no_longer_match_once_a_metric_changes(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "run")
    write_tensors_atomic(folder.model, {"w": torch.ones(2)})
    write_tensors_atomic(folder.masks, {"w": torch.ones(2, dtype=torch.bool)})
    record = folder.write_result({"schema_version": 1, "final": {"top1": 80.0}})
    assert json.loads(folder.result.read_text()) == record
    assert record["sha256"]["result.json"] == record_digest(record)
    record["final"]["top1"] = 80.1
    assert record["sha256"]["result.json"] != record_digest(record)
