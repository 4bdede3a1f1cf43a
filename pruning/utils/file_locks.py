"""Lock files: one writer at a time. The operating system releases a lock when its holder ends, even by SIGKILL."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from pruning.errors import PruningError

POLL_SECONDS = 0.1


@contextmanager
def file_lock(
    lock: Path,
    task: str,
    on_wait: Callable[[str], None] | None = None,
    check_stop: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Hold a lock file inside the `with` block, in this process alone: forked workers do not inherit it.

    Args:
        lock: The lock file; it and its folder are created. It names its holder.
        task: What the lock protects, as the subject of a message: "The run NAME".
        on_wait: Called with the holder's description before waiting. Without it a lock in use is an error.
        check_stop: Called ten times a second while waiting; an error that it raises ends the wait.

    Raises:
        PruningError: The folder is not writable, or another process holds the lock and `on_wait` is None.
    """
    _create_folder(lock)
    holder_lock = FileLock(lock)
    try:
        holder_lock.acquire(blocking=False)
    except Timeout:
        if on_wait is None:
            raise PruningError(
                f"{task} is in use by {_holder(lock)}. Wait for that process, or stop it."
            ) from None
        on_wait(_holder(lock))
        _wait(holder_lock, check_stop)
    except OSError as error:
        raise _not_writable(lock, error) from None
    try:
        lock.write_text(_own_description())
        yield
    finally:
        holder_lock.release()


def claim(lock: Path) -> IO[str] | None:
    """Acquire a lock that child processes inherit with the open file; None if another process holds it.

    The lock lasts until this process and every child have closed the file or ended. filelock cannot do this: its
    release unlocks the file for the children, too.
    """
    _create_folder(lock)
    try:
        file = lock.open("a+")
    except OSError as error:
        raise _not_writable(lock, error) from None
    if not _acquire(file):
        file.close()
        return None
    file.truncate(0)
    file.write(_own_description())
    file.flush()
    return file


def is_locked(lock: Path) -> bool:
    """Whether any process holds this lock file."""
    try:
        with lock.open("r+") as file:
            return not _acquire(file)
    except OSError:
        return False


def _acquire(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


def _wait(lock: FileLock, check_stop: Callable[[], None]) -> None:
    while True:
        check_stop()
        try:
            lock.acquire(timeout=POLL_SECONDS, poll_interval=POLL_SECONDS)
            return
        except Timeout:
            continue


def _create_folder(lock: Path) -> None:
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(lock, error) from None


def _not_writable(lock: Path, error: OSError) -> PruningError:
    reason = error.strerror or error
    return PruningError(
        f"The lock file {lock} cannot be created ({reason}). Choose a folder that is writable."
    )


def _own_description() -> str:
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.ctime()})


def _holder(lock: Path) -> str:
    """Describe the process that holds a lock file, as far as the file names it."""
    try:
        holder = json.loads(lock.read_text())
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
