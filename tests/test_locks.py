"""One writer at a time: told who writes, waiting for it, and free again however the holder ended."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from pruning.errors import PruningError
from pruning.locks import claim, hold, is_held


def _hold(
    lock: Path, ready: multiprocessing.synchronize.Event, done: multiprocessing.synchronize.Event
) -> None:
    with hold(lock, "This"):
        ready.set()
        done.wait(60)


def test_a_second_process_is_told_who_holds_the_lock_and_may_wait(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "lock", ready, done))
    other.start()
    assert ready.wait(60)
    with (
        pytest.raises(PruningError, match=f"The run is being done by process {other.pid} on "),
        hold(tmp_path / "lock", "The run"),
    ):
        pass
    told: list[str] = []
    with hold(tmp_path / "lock", "The run", told.append, done.set):
        assert f"process {other.pid}" in told[0]
    other.join()


def test_a_lock_is_free_when_its_holder_was_killed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "lock", ready, done))
    other.start()
    assert ready.wait(60)
    other.kill()
    other.join()
    with hold(tmp_path / "lock", "The run"):
        pass


def test_a_claim_lasts_until_it_is_closed(tmp_path: Path) -> None:
    lock = tmp_path / "locks" / "lock"
    assert not is_held(lock)
    claimed = claim(lock)
    assert claimed is not None
    assert is_held(lock)
    assert claim(lock) is None
    claimed.close()
    assert not is_held(lock)
