"""One writer at a time: told who writes, waiting for it, and free again however the holder ended."""

from __future__ import annotations

import multiprocessing.context
import multiprocessing.synchronize
from pathlib import Path

import pytest

from pruning.errors import PruningError
from pruning.utils.file_locks import claim, hold, is_held

Holder = tuple[multiprocessing.context.SpawnProcess, multiprocessing.synchronize.Event]


def _hold(
    lock: Path, ready: multiprocessing.synchronize.Event, done: multiprocessing.synchronize.Event
) -> None:
    with hold(lock, "This"):
        ready.set()
        done.wait(60)


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "lock"


@pytest.fixture
def holder(lock: Path) -> Holder:
    """Another process that holds the lock, until the event that comes with it is set."""
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(lock, ready, done))
    other.start()
    assert ready.wait(60)
    return other, done


def test_a_second_process_is_told_who_holds_the_lock_and_may_wait(lock: Path, holder: Holder) -> None:
    other, done = holder
    with (
        pytest.raises(PruningError, match=f"The run is being done by process {other.pid} on "),
        hold(lock, "The run"),
    ):
        pass
    told: list[str] = []
    with hold(lock, "The run", told.append, done.set):
        assert f"process {other.pid}" in told[0]
    other.join()


def test_a_lock_is_free_when_its_holder_was_killed(lock: Path, holder: Holder) -> None:
    other, _ = holder
    other.kill()
    other.join()
    with hold(lock, "The run"):
        pass


def test_a_claim_lasts_until_it_is_closed(lock: Path) -> None:
    assert not is_held(lock)
    claimed = claim(lock)
    assert claimed is not None
    assert is_held(lock)
    assert claim(lock) is None
    claimed.close()
    assert not is_held(lock)
