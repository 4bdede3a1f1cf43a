"""The file events.jsonl: one JSON object per line, flushed at once."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from pruning.utils.files import write_error


class EventLog:
    """Writes events.jsonl after its first `length` bytes.

    A resumed run passes the length that its checkpoint stores, so that no event is logged twice.
    """

    def __init__(self, path: Path, length: int) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = path.open("ab", buffering=0)
            self._file.truncate(min(length, path.stat().st_size))
        except OSError as error:
            raise write_error(path, error.strerror or str(error)) from error

    @property
    def length(self) -> int:
        """Bytes written so far. RunStoppedError if somebody removed the file."""
        status = os.fstat(self._file.fileno())
        if status.st_nlink == 0:
            raise write_error(self._path, "the run's folder was removed")
        return status.st_size

    def write(self, event: Mapping[str, Any]) -> None:
        """Append an event. RunStoppedError if the disk does not take it whole, or somebody removed the file."""
        before = self.length
        line = (json.dumps(event, allow_nan=False) + "\n").encode()
        try:
            if self._file.write(line) == len(line):
                return
            reason = "disk full"
        except OSError as error:
            reason = error.strerror or str(error)
        with contextlib.suppress(OSError):
            self._file.truncate(before)
        raise write_error(self._path, reason)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
