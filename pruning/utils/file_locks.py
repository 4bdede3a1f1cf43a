"""One writer at a time: lock files that the system frees when their holder ends, however it ends.

They lie in one folder inside the records folder, which is the one that an error names.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from pruning.errors import PruningError


@contextlib.contextmanager
def hold(
    lock: Path,
    what: str,
    on_wait: Callable[[str], None] | None = None,
    while_waiting: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Hold a lock file while writing; the system lets go of it when the process ends, however it ends.

    If another process holds it: PruningError that names that process; or, with `on_wait`, tell that and wait, calling
    `while_waiting` (which may raise) ten times a second.
    """
    with _open_lock(lock) as file:
        if not _taken(file):
            holder = _holder(file)
            if on_wait is None:
                raise PruningError(f"{what} is being done by {holder}; wait for it, or stop it first.")
            on_wait(holder)
            while not _taken(file):
                while_waiting()
                time.sleep(0.1)
        _sign(file)
        yield


def claim(lock: Path) -> IO[str] | None:
    """Hold a lock file until what is returned is closed, in this process and in every child that inherited it.

    None if another process holds it.
    """
    file = _open_lock(lock)
    if not _taken(file):
        file.close()
        return None
    _sign(file)
    return file


def is_held(lock: Path) -> bool:
    """Whether a process holds this lock file now."""
    try:
        with lock.open("r+") as file:
            return not _taken(file)
    except OSError:
        return False


def _open_lock(lock: Path) -> IO[str]:
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        return lock.open("a+")
    except OSError as error:
        runs_dir = lock.parent.parent
        raise PruningError(
            f"--runs-dir {runs_dir} cannot be written to ({error.strerror}); give another folder.",
            options=("runs_dir",),
        ) from None


def _taken(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


def _sign(file: IO[str]) -> None:
    """Write into a lock file who holds it."""
    file.seek(0)
    file.truncate()
    file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.ctime()}))
    file.flush()


def _holder(file: IO[str]) -> str:
    file.seek(0)
    try:
        holder = json.loads(file.read())
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
