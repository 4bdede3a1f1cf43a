"""Slots: how many runs at once, with how many threads, on which GPUs."""

from __future__ import annotations

from typing import Any

import pytest

from pruning.config.resolution import resolve
from pruning.errors import PruningError
from pruning.sweep import slots
from pruning.sweep.slots import Slots, make_slots

GPUS = ("0", "1", "2", "3")


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "available_cores", lambda: 8)


def slots_of(visible: tuple[str, ...], **values: Any) -> Slots:
    """The slots for one run; `values` are arguments of `make_slots` or options of the run."""
    arguments = {name: values.pop(name, None) for name in ("jobs", "gpus", "jobs_per_gpu")}
    return make_slots([resolve(values)], visible=visible, **arguments)


@pytest.mark.parametrize(
    ("visible", "values", "expected"),
    [
        ((), {}, Slots((None,) * 8, threads=1)),
        ((), {"jobs": 3}, Slots((None,) * 3, threads=2)),
        ((), {"threads": 4}, Slots((None,) * 2, threads=4)),
        (GPUS, {}, Slots(GPUS, threads=1)),
        (GPUS, {"gpus": "0,3", "jobs_per_gpu": 2}, Slots(("0", "3", "0", "3"), threads=1)),
        (GPUS, {"device": "cpu", "jobs": 1}, Slots((None,), threads=8)),
    ],
)
def test_slots_divide_the_cores_or_the_gpus(
    visible: tuple[str, ...], values: dict[str, Any], expected: Slots
) -> None:
    assert slots_of(visible, **values) == expected


@pytest.mark.parametrize(
    ("message", "visible", "values"),
    [
        ("--jobs 2 .*--gpus", GPUS, {"jobs": 2}),
        ("--gpus 0,0: .*each once", GPUS, {"gpus": "0,0"}),
        ("--gpus 4: .*0,1,2,3", GPUS, {"gpus": "4"}),
        ("--gpus 0: .*--jobs", (), {"gpus": "0"}),
        ("device cuda:1: .*--gpus", GPUS, {"device": "cuda:1"}),
        ("device cuda: .*auto or cpu", (), {"device": "cuda"}),
    ],
)
def test_options_that_conflict_with_the_devices_are_refused(
    message: str, visible: tuple[str, ...], values: dict[str, Any]
) -> None:
    with pytest.raises(PruningError, match=f"^{message}"):
        slots_of(visible, **values)
