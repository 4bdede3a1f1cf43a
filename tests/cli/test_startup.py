"""Settings of the process for speed."""

from __future__ import annotations

import gc
import os

import pytest

from pruning.cli.startup import limit_spinning, without_garbage_collection


def test_the_collector_ignores_what_was_created_while_it_was_off_and_is_on_afterwards() -> None:
    before = gc.get_freeze_count()
    try:
        with without_garbage_collection():
            created = [[] for _ in range(1000)]
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() - before > len(created)
        assert not any(found is created[0] for found in gc.get_objects())
    finally:
        gc.unfreeze()


def test_the_collector_is_on_after_a_failed_import() -> None:
    try:
        with pytest.raises(ImportError), without_garbage_collection():
            raise ImportError
        assert gc.isenabled()
    finally:
        gc.unfreeze()


@pytest.mark.parametrize(("of_user", "expected"), [(None, "20000"), ("7", "7")])
def test_openmp_spins_briefly_unless_the_user_has_set_it(
    of_user: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if of_user is not None:
        monkeypatch.setenv("GOMP_SPINCOUNT", of_user)
    limit_spinning()
    assert os.environ["GOMP_SPINCOUNT"] == expected
