"""The exceptions that the command line turns into one sentence and an exit code; none of them shows a traceback."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

# Signals that stop a run; it saves first, so that it can be resumed.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class PruningError(Exception):
    """A mistake in what the user asked for (exit code 2).

    The message is one sentence, two at most: what is wrong, the value, the fix. `options` names the options that the
    error is about, as fields of `RunConfig`, so that a message about options from a YAML file can point to that file.
    """

    def __init__(self, message: str, *, options: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.options = tuple(options)


@contextmanager
def concerning(*options: str) -> Iterator[None]:
    """Name the options that a PruningError raised inside is about, unless it names its own."""
    try:
        yield
    except PruningError as error:
        error.options = error.options or options
        raise


class RunStoppedError(Exception):
    """A run failed although the command is correct: disk full, loss not finite, ... (exit code 1).

    What was saved before is kept; the message names the cause and what to try.
    """


class DivergedError(RunStoppedError):
    """The loss of a training became NaN or infinite; `what` names the place, the message also what to try."""

    def __init__(self, what: str, precision: str) -> None:
        other = "" if precision == "fp32" else ", or --precision fp32"
        super().__init__(f"Training stopped: {what}. Try a lower --lr (--finetune-lr after pruning){other}.")
        self.what = what


class InterruptedRunError(Exception):
    """A signal stopped the run after everything was saved (exit code 128 + the signal's number)."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


def first_line(error: Exception) -> str:
    """The first line of an error's message, to quote in another one; the name of its type if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
