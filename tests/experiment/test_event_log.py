"""The file events.jsonl: a resumed run logs nothing twice, and every line is valid JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pruning.errors import RunStoppedError
from pruning.experiment.event_log import EventLog


def test_a_resumed_log_continues_at_the_length_of_the_checkpoint(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events", 0)
    log.write({"n": 1})
    length = log.length
    log.write({"n": 2})
    log.close()
    resumed = EventLog(tmp_path / "events", length)
    resumed.write({"n": 3})
    resumed.close()
    assert [json.loads(line)["n"] for line in (tmp_path / "events").read_text().splitlines()] == [1, 3]


def test_nan_is_refused_instead_of_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        EventLog(tmp_path / "events", 0).write({"loss": float("nan")})


def test_a_log_that_was_deleted_stops_the_run_at_the_next_event(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events", 0)
    log.write({"n": 1})
    (tmp_path / "events").unlink()
    with pytest.raises(RunStoppedError, match="events could not be written"):
        log.write({"n": 2})
