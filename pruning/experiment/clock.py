"""Seconds that a run spends in each stage."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch


class StageClock:
    """Seconds per stage and in total. Time in a nested stage counts for the inner stage only."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device
        self._stage: str | None = None
        self._since = time.perf_counter()

    def lap(self) -> None:
        """Add the time since the last lap, including work that the device has still to finish."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        for name in (self._stage, "total"):
            if name is not None:
                self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time inside the context for stage `name`."""
        self.lap()
        outer, self._stage = self._stage, name
        try:
            yield
        finally:
            self.lap()
            self._stage = outer
