"""Doing a sweep: one process a run, so that one that dies takes nobody along.

Whoever works on a run holds its claim (a lock file, which the run's process inherits), so that two sweeps on the same
runs share the work, on one machine or on several that share the folder. What was done is read from the records alone:
a sweep that is started again goes on where it was, whatever became of it. When its own process is killed outright, the
runs that it had started go on to their ends; one that is started meanwhile leaves these to them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Protocol

from pruning.errors import STOP_SIGNALS, InterruptedRunError
from pruning.sweep import progress
from pruning.sweep.plan import Plan, Run, epochs_each
from pruning.sweep.progress import Position
from pruning.sweep.slots import Slots
from pruning.utils.file_locks import claim, is_held

TICK = 0.1  # seconds between two looks at the processes
READING = 1.0  # seconds between two looks at what the runs say
LOOKING = 2.0  # seconds between two looks at runs that other sweeps are doing
LINES = 8  # of a failed run's log to show
# Exit codes of a run that a signal stopped, and that goes on from there.
STOPPED = tuple(code for number in STOP_SIGNALS for code in (-number, 128 + number))


class Watcher(Protocol):
    """What watches a sweep: the terminal and the signals."""

    def show(self, board: SweepState) -> None:
        """Show how things stand; called a few times a second."""

    def ended(self, board: SweepState, run: Run) -> None:
        """A run is finished or has failed."""

    def stopping(self, running: int) -> None:
        """A signal has come; so many runs are saving."""

    def check_stop(self) -> None:
        """Raise InterruptedRunError if a signal asked to stop."""

    def when_forced(self, action: Callable[[], None]) -> None:
        """Do this when a second signal ends this process at once."""


@dataclass
class Process:
    """A run's process, the slot it has, and how far it is. Times are of the monotonic clock, in seconds."""

    run: Run
    popen: subprocess.Popen[bytes]
    claimed: IO[str]
    slot: str | None
    began: float
    position: Position = progress.START
    moved: tuple[float, float] | None = None  # time and fraction when it was first seen past its start

    def look(self) -> None:
        """Read how far it is."""
        self.position = progress.position(self.run.config, self.run.files.run.latest_events())
        if self.moved is None and self.position.fraction > 0:
            self.moved = time.monotonic(), self.position.fraction

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def left(self) -> float | None:
        """Seconds that the run still takes if it goes on as it went; None as long as nothing tells."""
        if self.moved is None or self.position.fraction <= self.moved[1]:
            return None
        began, fraction = self.moved
        speed = (self.position.fraction - fraction) / (time.monotonic() - began)
        return (1 - self.position.fraction) / speed


@dataclass(frozen=True)
class Failure:
    """How a run's process ended that left no record, and the end of what it said."""

    code: int
    said: tuple[str, ...]


@dataclass
class SweepState:
    """How things stand, by the names of the runs. Each is in one of `waiting`, `running`, `done` and `failed`.

    `elsewhere` are those of the waiting that another process works on. `seconds` is what runs took that ended here.
    """

    plan: Plan
    slots: Slots
    waiting: dict[str, Run] = field(default_factory=dict)
    running: dict[str, Process] = field(default_factory=dict)
    done: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    failed: dict[str, Failure] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.done = dict(self.plan.finished)
        self.waiting = {run.name: run for run in self.plan.unfinished}
        self.epochs = epochs_each(self.plan.runs)
        self._began = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the sweep was started."""
        return time.monotonic() - self._began

    def seconds_left(self) -> float | None:
        """About how long the sweep still takes, by the runs that ended here; None before the first."""
        ended = [(self.epochs[name], took) for name, took in self.seconds.items() if name in self.done]
        waiting = [(self.epochs[name], 1.0) for name in self.waiting]
        running = [(self.epochs[name], 1 - one.position.fraction) for name, one in self.running.items()]
        return progress.seconds_left(ended, [*waiting, *running], len(self.slots))


def work(plan: Plan, slots: Slots, watcher: Watcher, *, retry: bool = False) -> SweepState:
    """Do all runs of the plan that are not finished, as many at once as there are slots, and return how they ended.

    A run that failed before is left alone, unless `retry`. InterruptedRunError if the watcher says so; by then the runs
    have saved and stopped.
    """
    board = SweepState(plan, slots)
    free = list(slots.gpus)
    looked: dict[str, float] = {}
    read_last = 0.0
    watcher.when_forced(lambda: _kill(board))
    if retry:
        _forget_failures(board)
    try:
        while board.waiting or board.running:
            watcher.check_stop()
            for process in _ended(board):
                free.append(process.slot)
                watcher.ended(board, process.run)
            if time.monotonic() - read_last > READING:
                read_last = time.monotonic()
                for process in board.running.values():
                    process.look()
            _fill(board, free, looked, watcher)
            watcher.show(board)
            time.sleep(TICK)
    except InterruptedRunError as error:
        watcher.stopping(len(board.running))
        _stop(board, error.signal_number)
        raise
    except BaseException:
        _stop(board, signal.SIGTERM)
        raise
    return board


def _fill(board: SweepState, free: list[str | None], looked: dict[str, float], watcher: Watcher) -> None:
    """Start what can be started on the slots that are free."""
    while free:
        run = _next(board, looked)
        if run is None:
            return
        looked[run.name] = time.monotonic()
        claimed = claim(run.files.lock)
        if claimed is None or is_held(run.files.run.lock):
            board.elsewhere.add(run.name)
        elif not _settled(board, run):
            board.running[run.name] = _start(run, claimed, free.pop(0))
            del board.waiting[run.name]
            board.elsewhere.discard(run.name)
            continue
        else:
            watcher.ended(board, run)
        if claimed is not None:
            claimed.close()


def _next(board: SweepState, looked: Mapping[str, float]) -> Run | None:
    """The run to start now: of those that need not wait for another, the one for which most others wait.

    A run waits for those whose rounds it takes over, and for the dense training that another run is doing: it would
    only hold a slot while it waits itself. Runs whose dense training nobody has begun come first. A run that another
    process works on is looked at again and again: that process may have been stopped.
    """
    now = time.monotonic()
    begun, training = _dense_trainings(board)
    followers = dict.fromkeys(board.waiting, 0)
    for run in board.waiting.values():
        for name in run.after & followers.keys():
            followers[name] += 1
    candidates = [
        run
        for run in board.waiting.values()
        if not any(name in board.waiting or name in board.running for name in run.after)
        and (run.dense not in training or run.name in board.elsewhere)
        and now - looked.get(run.name, -LOOKING) >= LOOKING
    ]
    return min(candidates, key=lambda run: (run.dense in begun, -followers[run.name]), default=None)


def _dense_trainings(board: SweepState) -> tuple[set[str], set[str]]:
    """The dense trainings that somebody has begun, and those of them that are not done yet."""
    here = [(process.run.dense, process.position.has_dense) for process in board.running.values()]
    there = [
        (run.dense, progress.position(run.config, run.files.run.latest_events()).has_dense)
        for run in board.plan.runs
        if run.name in board.elsewhere
    ]
    finished = {run.dense for run in board.plan.runs if run.name in board.done}
    begun = {dense for dense, _ in [*here, *there] if dense is not None}
    ready = {dense for dense, has in [*here, *there] if has} | finished
    return begun | {dense for dense in finished if dense is not None}, begun - ready


def _settled(board: SweepState, run: Run) -> bool:
    """Whether the run has ended by now, in whatever process; if so it is entered."""
    record = run.files.run.read_result()
    ending = run.files.read_ending()
    if record is not None:
        board.done[run.name] = record
    elif ending is not None and ending["code"] != 0:
        board.failed[run.name] = Failure(ending["code"], tuple(run.files.end_of_log(LINES)))
    else:
        return False
    del board.waiting[run.name]
    board.elsewhere.discard(run.name)
    return True


def _start(run: Run, claimed: IO[str], slot: str | None) -> Process:
    """Start a run's process. It has a group of its own, so that Ctrl-C reaches it through this one only, and once."""
    files = run.files
    files.write_config(run.config.to_dict())
    found_here = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": found_here, "PYTHONUNBUFFERED": "1", "COLUMNS": "120"}
    if slot is not None:
        environment["CUDA_VISIBLE_DEVICES"] = slot
    with files.log.open("wb") as log:
        popen = subprocess.Popen(
            [sys.executable, "-P", "-m", "pruning", "--config", str(files.config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            pass_fds=(claimed.fileno(),),
            process_group=0,
        )
    return Process(run, popen, claimed, slot, time.monotonic())


def _ended(board: SweepState) -> Iterator[Process]:
    """The processes that have ended since the last look, each once it is entered."""
    for process in [one for one in board.running.values() if one.popen.poll() is not None]:
        _enter(board, process)
        process.claimed.close()
        yield process


def _enter(board: SweepState, process: Process) -> None:
    run, code = process.run, process.popen.returncode
    del board.running[run.name]
    record = run.files.run.read_result()
    if record is not None:
        board.done[run.name] = record
        board.seconds[run.name] = process.seconds
        run.files.write_ending(0, process.seconds)
    elif is_held(run.files.run.lock):
        board.waiting[run.name] = run  # somebody runs the same command by hand: it was refused
        board.elsewhere.add(run.name)
    else:
        board.failed[run.name] = Failure(code, tuple(run.files.end_of_log(LINES)))
        if code not in STOPPED:
            run.files.write_ending(code, process.seconds)


def _forget_failures(board: SweepState) -> None:
    """Let runs that failed before be done again, but not those that another sweep is at."""
    for run in board.waiting.values():
        ending = run.files.read_ending()
        if ending is None or ending["code"] == 0:
            continue
        claimed = claim(run.files.lock)
        if claimed is not None:
            run.files.ending.unlink(missing_ok=True)
            claimed.close()


def _stop(board: SweepState, signal_number: int) -> None:
    """Hand the signal on and wait until the runs have saved."""
    for process in board.running.values():
        process.popen.send_signal(signal_number)
    for process in board.running.values():
        process.popen.wait()
        process.claimed.close()


def _kill(board: SweepState) -> None:
    """Stop the runs at once; what they saved last is whole."""
    for process in board.running.values():
        process.popen.kill()
