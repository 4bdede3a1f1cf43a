"""Compute the runs of a sweep, one process each, so that a failed run does not affect the others.

A sweep claims a run with a lock file, which the run's process inherits. So two sweeps over the same runs divide the
work, on one machine or on several that share the folder. The records alone determine what is finished, so a restarted
sweep continues, however the last one ended. If the sweep's own process is killed, the runs that it started go on, and
a sweep that is started meanwhile leaves them alone.
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
from pruning.sweep.plan import PlannedRun, SweepPlan, epochs_per_run
from pruning.sweep.progress import NOT_STARTED, RunProgress, estimate_seconds_left, read_progress
from pruning.sweep.slots import Slots
from pruning.utils.file_locks import claim, is_locked

# Seconds between two checks.
POLL_INTERVAL = 0.1  # of the processes
PROGRESS_INTERVAL = 1.0  # of the logs of running runs
RETRY_INTERVAL = 2.0  # of a run that another process has claimed
LOG_LINES = 8  # of a failed run
# Exit codes of a run that a signal stopped; it can be resumed, so it has not failed.
STOPPED_CODES = tuple(code for number in STOP_SIGNALS for code in (-number, 128 + number))


class SweepObserver(Protocol):
    """Receives the progress of a sweep and may stop it: the terminal and the signals."""

    def update(self, state: SweepState) -> None:
        """Show the state; called at every poll."""

    def run_ended(self, state: SweepState, run: PlannedRun) -> None:
        """Show that a run is finished or failed."""

    def stopping(self, running: int) -> None:
        """Show that a signal arrived and `running` runs are saving their state."""

    def check_stop(self) -> None:
        """Raise InterruptedRunError if a signal has arrived."""

    def on_forced_exit(self, action: Callable[[], None]) -> None:
        """Register an action to run before a second signal ends this process."""


@dataclass
class RunProcess:
    """The process of a run. Times are seconds of the monotonic clock.

    Attributes:
        claimed: the lock file of the run, open as long as the process runs.
        gpu: the GPU of its slot, None for a slot without one.
        started: when the process was started.
        progress: the latest progress, from the log.
        first_progress: time and fraction when the fraction was first above zero.
    """

    run: PlannedRun
    popen: subprocess.Popen[bytes]
    claimed: IO[str]
    gpu: str | None
    started: float
    progress: RunProgress = NOT_STARTED
    first_progress: tuple[float, float] | None = None

    def read_progress(self) -> None:
        """Update the progress from the log."""
        self.progress = read_progress(self.run.config, self.run.files.run.latest_events())
        if self.first_progress is None and self.progress.fraction > 0:
            self.first_progress = time.monotonic(), self.progress.fraction

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    @property
    def seconds_left(self) -> float | None:
        """Time left at the speed since the first progress; None before there is a speed."""
        if self.first_progress is None or self.progress.fraction <= self.first_progress[1]:
            return None
        began, fraction = self.first_progress
        speed = (self.progress.fraction - fraction) / (time.monotonic() - began)
        return (1 - self.progress.fraction) / speed


@dataclass(frozen=True)
class Failure:
    """Exit code and last output of a run's process that ended without a record."""

    exit_code: int
    log_lines: tuple[str, ...]


@dataclass
class SweepState:
    """State of a sweep, by the names of the runs. Each run is in one of waiting, running, done and failed.

    Attributes:
        plan: the runs.
        slots: the places for runs.
        waiting: runs to compute.
        running: processes that this sweep started.
        done: records of finished runs.
        failed: runs that failed.
        elsewhere: names of the waiting runs that another process has claimed.
        seconds: duration of the runs that this sweep finished.
        free_gpus: GPUs of the free slots (None for a slot without one).
        last_checked: when this sweep last tried to start a run.
    """

    plan: SweepPlan
    slots: Slots
    waiting: dict[str, PlannedRun] = field(default_factory=dict)
    running: dict[str, RunProcess] = field(default_factory=dict)
    done: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    failed: dict[str, Failure] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)
    seconds: dict[str, float] = field(default_factory=dict)
    free_gpus: list[str | None] = field(default_factory=list)
    last_checked: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.done = dict(self.plan.records)
        self.waiting = {run.name: run for run in self.plan.unfinished}
        self.free_gpus = list(self.slots.gpus)
        self.epochs = epochs_per_run(self.plan.runs)

    @property
    def elapsed(self) -> float:
        """Seconds since the sweep started."""
        return time.monotonic() - self.started

    def seconds_left(self) -> float | None:
        """Estimate the time left from the runs that this sweep finished; None before the first."""
        finished = [
            (self.epochs[name], seconds) for name, seconds in self.seconds.items() if name in self.done
        ]
        waiting = [(self.epochs[name], 1.0) for name in self.waiting]
        running = [(self.epochs[name], 1 - one.progress.fraction) for name, one in self.running.items()]
        return estimate_seconds_left(finished, [*waiting, *running], len(self.slots))


def run_sweep(plan: SweepPlan, slots: Slots, observer: SweepObserver, *, retry: bool = False) -> SweepState:
    """Compute the unfinished runs of the plan, as many at once as there are slots, and return the final state.

    Args:
        plan: the runs.
        slots: the places for runs.
        observer: receives the progress.
        retry: also compute runs that failed in an earlier sweep.

    Raises:
        InterruptedRunError: raised by the observer; all runs have saved their state by then.
    """
    state = SweepState(plan, slots)
    progress_read = 0.0
    observer.on_forced_exit(lambda: _kill_processes(state))
    if retry:
        _clear_failures(state)
    try:
        while state.waiting or state.running:
            observer.check_stop()
            for process in _collect_ended(state):
                observer.run_ended(state, process.run)
            if time.monotonic() - progress_read > PROGRESS_INTERVAL:
                progress_read = time.monotonic()
                for process in state.running.values():
                    process.read_progress()
            _fill_slots(state, observer)
            observer.update(state)
            time.sleep(POLL_INTERVAL)
    except InterruptedRunError as error:
        observer.stopping(len(state.running))
        _stop_processes(state, error.signal_number)
        raise
    except BaseException:
        _stop_processes(state, signal.SIGTERM)
        raise
    return state


def _fill_slots(state: SweepState, observer: SweepObserver) -> None:
    """Start runs on the free slots."""
    while state.free_gpus:
        run = _next_run(state)
        if run is None:
            return
        state.last_checked[run.name] = time.monotonic()
        claimed = claim(run.files.lock)
        if claimed is None or is_locked(run.files.run.lock):
            state.elsewhere.add(run.name)
        elif _move_if_ended(state, run):
            observer.run_ended(state, run)
        else:
            state.running[run.name] = _start_process(run, claimed, state.free_gpus.pop(0))
            del state.waiting[run.name]
            state.elsewhere.discard(run.name)
            continue
        if claimed is not None:
            claimed.close()


def _next_run(state: SweepState) -> PlannedRun | None:
    """Return the waiting run to start now, or None.

    A run is not started while it depends on an unfinished run, or while another run trains its dense network, because
    it would only occupy a slot. Runs whose dense training has not begun are first, then those on which most others
    depend. A run that another process has claimed is checked again and again, because that process may stop.
    """
    now = time.monotonic()
    begun, unfinished = _dense_trainings(state)
    dependents = dict.fromkeys(state.waiting, 0)
    for run in state.waiting.values():
        for name in run.depends_on & dependents.keys():
            dependents[name] += 1
    candidates = [
        run
        for run in state.waiting.values()
        if not any(name in state.waiting or name in state.running for name in run.depends_on)
        and (run.dense_key not in unfinished or run.name in state.elsewhere)
        and now - state.last_checked.get(run.name, -RETRY_INTERVAL) >= RETRY_INTERVAL
    ]
    return min(candidates, key=lambda run: (run.dense_key in begun, -dependents[run.name]), default=None)


def _dense_trainings(state: SweepState) -> tuple[set[str], set[str]]:
    """Return the keys of the dense trainings that any process has begun, and of the unfinished ones among them."""
    here = [(process.run.dense_key, process.progress.has_dense) for process in state.running.values()]
    elsewhere = [
        (run.dense_key, read_progress(run.config, run.files.run.latest_events()).has_dense)
        for run in state.plan.runs
        if run.name in state.elsewhere
    ]
    finished = {run.dense_key for run in state.plan.runs if run.name in state.done}
    begun = {key for key, _ in [*here, *elsewhere] if key is not None}
    ready = {key for key, has_dense in [*here, *elsewhere] if has_dense} | finished
    return begun | {key for key in finished if key is not None}, begun - ready


def _move_if_ended(state: SweepState, run: PlannedRun) -> bool:
    """If a waiting run is finished by now or failed before, move it to done or failed and return True."""
    record = run.files.run.read_result()
    ending = run.files.read_ending()
    if record is not None:
        state.done[run.name] = record
    elif ending is not None and ending["code"] != 0:
        state.failed[run.name] = Failure(ending["code"], tuple(run.files.end_of_log(LOG_LINES)))
    else:
        return False
    del state.waiting[run.name]
    state.elsewhere.discard(run.name)
    return True


def _start_process(run: PlannedRun, claimed: IO[str], gpu: str | None) -> RunProcess:
    """Start a run in a process group of its own, so that Ctrl-C reaches it once, through this process."""
    files = run.files
    files.write_config(run.config.to_dict())
    python_path = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": python_path, "PYTHONUNBUFFERED": "1", "COLUMNS": "120"}
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
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
    return RunProcess(run, popen, claimed, gpu, time.monotonic())


def _collect_ended(state: SweepState) -> Iterator[RunProcess]:
    """Yield each process that ended since the last poll, after its run has moved to its new state."""
    for process in [one for one in state.running.values() if one.popen.poll() is not None]:
        _move_ended(state, process)
        process.claimed.close()
        state.free_gpus.append(process.gpu)
        yield process


def _move_ended(state: SweepState, process: RunProcess) -> None:
    run, exit_code = process.run, process.popen.returncode
    del state.running[run.name]
    record = run.files.run.read_result()
    if record is not None:
        state.done[run.name] = record
        state.seconds[run.name] = process.elapsed
        run.files.write_ending(0, process.elapsed)
    elif is_locked(run.files.run.lock):
        # The process was refused because the user runs the same command by hand.
        state.waiting[run.name] = run
        state.elsewhere.add(run.name)
    else:
        state.failed[run.name] = Failure(exit_code, tuple(run.files.end_of_log(LOG_LINES)))
        if exit_code not in STOPPED_CODES:
            run.files.write_ending(exit_code, process.elapsed)


def _clear_failures(state: SweepState) -> None:
    """Forget earlier failures, except of runs that another sweep has claimed."""
    for run in state.waiting.values():
        ending = run.files.read_ending()
        if ending is None or ending["code"] == 0:
            continue
        claimed = claim(run.files.lock)
        if claimed is not None:
            run.files.ending.unlink(missing_ok=True)
            claimed.close()


def _stop_processes(state: SweepState, signal_number: int) -> None:
    """Send the signal to all runs and wait until they have saved their state."""
    for process in state.running.values():
        process.popen.send_signal(signal_number)
    for process in state.running.values():
        process.popen.wait()
        process.claimed.close()


def _kill_processes(state: SweepState) -> None:
    """Kill all runs; their last checkpoints are complete."""
    for process in state.running.values():
        process.popen.kill()
