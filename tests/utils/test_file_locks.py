"""Lock files: one holder at a time, named to the others, and released however the holder ends."""

from __future__ import annotations

import multiprocessing.context
import multiprocessing.synchronize
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pruning.errors import InterruptedRunError, PruningError
from pruning.utils.file_locks import claim, file_lock, is_locked

Event = multiprocessing.synchronize.Event
Holder = tuple[multiprocessing.context.SpawnProcess, Event]

SPAWN = multiprocessing.get_context("spawn")


def hold_until(lock: Path, ready: Event, done: Event) -> None:
    with file_lock(lock, "This"):
        ready.set()
        done.wait(60)


def hold_with_forked_worker(
    lock: Path, ready: Event, done: Event, worker: multiprocessing.Queue[int]
) -> None:
    with file_lock(lock, "This"):
        pid = os.fork()
        if pid == 0:
            done.wait(60)
            os._exit(0)
        worker.put(pid)
        ready.set()
        signal.pause()


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "lock"


@pytest.fixture
def holder(lock: Path) -> Iterator[Holder]:
    """Another process that holds the lock, and the event that makes it release it."""
    ready, done = SPAWN.Event(), SPAWN.Event()
    other = SPAWN.Process(target=hold_until, args=(lock, ready, done))
    other.start()
    assert ready.wait(60)
    yield other, done
    other.kill()  # not done.set(), which waits for a process that a test has killed
    other.join()


def test_a_second_process_is_rejected_and_learns_the_holder(lock: Path, holder: Holder) -> None:
    other, _ = holder
    for _ in range(2):  # a rejected attempt leaves the holder's name in the file
        with (
            pytest.raises(PruningError, match=f"The run small .*process {other.pid} on "),
            file_lock(lock, "The run small"),
        ):
            pass


def test_a_process_that_waits_gets_the_lock_after_its_release(lock: Path, holder: Holder) -> None:
    other, done = holder
    holders: list[str] = []
    with file_lock(lock, "The run", holders.append, done.set):
        other.join(60)
        assert other.exitcode == 0
    assert len(holders) == 1
    assert f"process {other.pid}" in holders[0]


def test_a_stop_request_ends_the_wait_for_a_lock(lock: Path, holder: Holder) -> None:
    def stop() -> None:
        raise InterruptedRunError(signal.SIGTERM)

    with pytest.raises(InterruptedRunError), file_lock(lock, "The run", lambda holder: None, stop):
        pass
    assert is_locked(lock)


def test_a_killed_process_releases_its_lock(lock: Path, holder: Holder) -> None:
    other, _ = holder
    other.kill()
    other.join()
    with file_lock(lock, "The run"):
        assert f'"pid": {os.getpid()}' in lock.read_text()


def test_a_worker_that_survives_its_killed_parent_does_not_keep_the_lock(lock: Path) -> None:
    ready, done = SPAWN.Event(), SPAWN.Event()
    workers = SPAWN.Queue()
    parent = SPAWN.Process(target=hold_with_forked_worker, args=(lock, ready, done, workers))
    parent.start()
    try:
        assert ready.wait(60)
        worker = workers.get(timeout=60)
        assert is_locked(lock)
        parent.kill()
        parent.join()
        os.kill(worker, 0)  # raises if the worker has ended, too
        assert not is_locked(lock)
    finally:
        done.set()


def test_a_lock_is_released_after_an_error(lock: Path) -> None:
    with pytest.raises(ZeroDivisionError), file_lock(lock, "The run"):
        assert is_locked(lock)
        raise ZeroDivisionError
    assert not is_locked(lock)


def test_a_claim_lasts_until_its_file_is_closed(lock: Path) -> None:
    assert not is_locked(lock)
    claimed = claim(lock)
    assert claimed is not None
    assert is_locked(lock)
    assert claim(lock) is None
    claimed.close()
    assert not is_locked(lock)


def test_a_claim_lasts_as_long_as_a_child_process_that_inherited_it(lock: Path) -> None:
    claimed = claim(lock)
    assert claimed is not None
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(claimed.fileno(),)) as child:
        claimed.close()
        assert is_locked(lock)
        child.communicate(b"\n")
    assert not is_locked(lock)


def test_a_lock_in_a_file_instead_of_a_folder_is_rejected_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    lock = tmp_path / "file" / "lock"
    for attempt in (lambda: claim(lock), lambda: file_lock(lock, "The run").__enter__()):
        with pytest.raises(PruningError, match=str(lock)):
            attempt()
