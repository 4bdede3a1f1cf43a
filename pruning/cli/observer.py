"""Observers of a run started from the command line: the terminal, signals and other outputs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pruning.cli.console import Console
from pruning.cli.signals import Signals
from pruning.experiment.events import Event


@dataclass(frozen=True)
class CommandObserver:
    """An `experiment.events.Observer`: events go to the terminal and the sinks, a signal stops the run."""

    console: Console
    signals: Signals
    sinks: tuple[Callable[[Event], None], ...] = ()

    def event(self, event: Event) -> None:
        self.console.event(event)
        for sink in self.sinks:
            sink(event)

    def progress(self, done: int, total: int) -> None:
        self.console.progress(done, total)

    def check_stop(self) -> None:
        self.signals.check_stop()


@contextlib.contextmanager
def observe(console: Console, *sinks: Callable[[Event], None]) -> Iterator[CommandObserver]:
    """Handle signals until the end, then remove the progress bar."""
    try:
        with Signals() as signals:
            yield CommandObserver(console, signals, sinks)
    finally:
        console.close()
