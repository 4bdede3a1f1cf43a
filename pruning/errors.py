"""The exceptions that the command line turns into one sentence and an exit code; no traceback is shown for them."""

import signal

# Signals that stop a run; it saves first, so that it can be resumed.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class PruningError(Exception):
    """Something the user asked for cannot be done (exit code 2).

    The message is one sentence (two at most): what is wrong, with the value that was given, and what would be right.
    """


class RunStoppedError(Exception):
    """A run could not go on, through no fault of the command: disk full, loss not finite, ... (exit code 1).

    What was saved before is kept; the message says what happened and what to try.
    """


class DivergedError(RunStoppedError):
    """The loss of a training became NaN or infinite; `what` says where, the message also what to try."""

    def __init__(self, what: str, precision: str) -> None:
        other = "" if precision == "fp32" else ", or --precision fp32"
        super().__init__(f"Training stopped: {what}. Try a lower --lr (--finetune-lr after pruning){other}.")
        self.what = what


class InterruptedRunError(Exception):
    """A signal asked the run to stop, and everything is saved (exit code 128 + the signal's number)."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


def first_line(error: Exception) -> str:
    """The first line of what an error says, for a sentence of one's own; its type's name if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
