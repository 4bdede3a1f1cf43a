"""SIGINT, SIGTERM and SIGHUP (a terminal closed, a connection lost): the first asks to save and stop, a second stops at
once. Under nohup, which has SIGHUP ignored, it stays ignored.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Self

from pruning.errors import STOP_SIGNALS, InterruptedRunError

Handler = Callable[[int, FrameType | None], object] | int | None  # as the signal module hands it out

ECHO = 0.4  # seconds: `timeout` and batch systems signal a process and then its group, which is no second thought


class Signals:
    """While entered, signals are noted; `check_stop` raises once one has come."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.at_once: Callable[[], None] = lambda: None  # what to do when a second signal ends the process
        self._since = 0.0
        self._before: dict[int, Handler] = {}

    def __enter__(self) -> Self:
        handled = [number for number in STOP_SIGNALS if number != signal.SIGHUP or not _is_ignored(number)]
        self._before = {number: signal.signal(number, self._note) for number in handled}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check_stop(self) -> None:
        """Raise InterruptedRunError if a signal has come."""
        if self.received is not None:
            raise InterruptedRunError(self.received)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._since = number, now
        elif now - self._since > ECHO:
            self.at_once()
            os._exit(128 + number)


def _is_ignored(number: int) -> bool:
    return signal.getsignal(number) == signal.SIG_IGN
