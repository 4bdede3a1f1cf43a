"""SIGINT, SIGTERM and SIGHUP: the first one saves the run and stops it, a second one ends the process immediately.

SIGHUP stays ignored under nohup.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Self

from pruning.errors import STOP_SIGNALS, InterruptedRunError

Handler = Callable[[int, FrameType | None], object] | int | None  # as signal.signal returns it

# Seconds after the first signal in which further ones are ignored: `timeout` and batch systems send one to a process
# and another to its group, which does not mean that the user lost patience.
ECHO = 0.4


class Signals:
    """Handles the signals while entered; `check_stop` raises after one was received."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.at_once: Callable[[], None] = lambda: None  # called before a second signal ends the process
        self._received_at = 0.0
        self._previous: dict[int, Handler] = {}

    def __enter__(self) -> Self:
        handled = [number for number in STOP_SIGNALS if number != signal.SIGHUP or not _is_ignored(number)]
        self._previous = {number: signal.signal(number, self._handle) for number in handled}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def check_stop(self) -> None:
        """Raise InterruptedRunError if a signal was received."""
        if self.received is not None:
            raise InterruptedRunError(self.received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._received_at = number, now
        elif now - self._received_at > ECHO:
            self.at_once()
            os._exit(128 + number)


def _is_ignored(number: int) -> bool:
    return signal.getsignal(number) == signal.SIG_IGN
