"""The log of a run: every event is written to events.jsonl and passed to the observer."""

from __future__ import annotations

from pruning.experiment.event_log import EventLog
from pruning.experiment.events import Event, LogOpened, Observer
from pruning.experiment.run_files import RunFolder


class RunLog:
    """Writes events to events.jsonl once it is open, and passes every event to the observer."""

    def __init__(self, observer: Observer, folder: RunFolder) -> None:
        self.observer = observer
        self._folder = folder
        self._file: EventLog | None = None

    @property
    def is_open(self) -> bool:
        return self._file is not None

    @property
    def length(self) -> int:
        """Bytes written to events.jsonl."""
        assert self._file is not None, "the log is opened before anything is saved"
        return self._file.length

    def open(self, length: int = 0, *, resumed: bool = False) -> None:
        """Write events to the file from now on, after its first `length` bytes. Does nothing if it is open."""
        if self._file is None:
            self._file = EventLog(self._folder.events, length)
            self._file.write(LogOpened(name=self._folder.path.name, resumed=resumed).to_json())

    def emit(self, event: Event) -> None:
        """Log an event and pass it to the observer."""
        if self._file is not None:
            self._file.write(event.to_json())
        self.observer.event(event)

    def check_stop(self) -> None:
        """Raise InterruptedRunError if the run should save its state and stop."""
        self.observer.check_stop()
