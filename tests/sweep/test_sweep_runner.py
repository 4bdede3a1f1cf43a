"""Sweeps as processes: two at once, failed runs, --retry, and signals."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import pytest
from conftest import SilentObserver, events, reproducible_result
from sweep_files import planned

from pruning.cli.app import execute
from pruning.experiment.event_log import EventLog
from pruning.experiment.runner import run as experiment
from pruning.sweep.plan import PlannedRun
from pruning.sweep.runner import SweepState, run_sweep
from pruning.sweep.slots import Slots
from pruning.utils.file_locks import claim

ONE_SLOT = Slots((None,), threads=1)
# A network whose runs fail once most weights are pruned while the file `broken` exists, and are slow while `slow` does.
NET = """
import time
from pathlib import Path

from torch import nn


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.inner, self.outer = nn.Linear(784, 20), nn.Linear(20, classes)

    def forward(self, images):
        zeros = (self.inner.weight == 0).float().mean()
        if zeros > 0.7 and Path("broken").exists():
            raise RuntimeError("broken in round 2")
        if Path("slow").exists():
            time.sleep(0.2)
        return self.outer(self.inner(images.flatten(1)).relu())
"""
# Three runs: one round at seeds 0 and 1, and two rounds at seed 0, which reuse the first of them.
SWEEP = {
    "options": {
        "arch": "net.py:Net",
        "epochs": 1,
        "finetune_epochs": 1,
        "batch_size": 1000,
        "measure_seconds": 0,
        "threads": 1,
        "checkpoint_interval": 0.05,
        "log_interval": 1,
    },
    "grid": {
        "sparsity": [{"sparsity": 0.5, "rounds": 1}, {"sparsity": 0.75, "rounds": 2}],
        "seed": [0, 1],
    },
    "exclude": [{"sparsity": 0.75, "seed": 1}],
}


class SilentSweepObserver:
    """Observes a sweep without output and without stopping it."""

    def update(self, state: SweepState) -> None: ...
    def run_ended(self, state: SweepState, run: PlannedRun) -> None: ...
    def stopping(self, running: int) -> None: ...
    def check_stop(self) -> None: ...
    def on_forced_exit(self, action: Callable[[], None]) -> None: ...


class ReleasesTheOtherClaim(SilentSweepObserver):
    """Releases the claim of another process once the sweep has seen it; fails if the sweep then never ends."""

    def __init__(self, claimed: IO[str]) -> None:
        self.claimed = claimed
        self.updates = 0

    def update(self, state: SweepState) -> None:
        self.updates += 1
        assert self.updates < 100, "the sweep still waits for a process that ended"
        if state.elsewhere:
            self.claimed.close()


def stop_after_resumption(run: PlannedRun, signal_number: signal.Signals) -> None:
    """Send this process a signal as soon as the run has logged, from now on, that it resumed."""
    start = time.time()
    while time.time() - start < 120:
        if any(event["event"] == "resumed" and event["time"] > start for event in events(run.files.run.path)):
            os.kill(os.getpid(), signal_number)
            return
        time.sleep(0.005)


def test_a_run_whose_process_ended_in_the_dense_training_is_computed_by_the_next_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = planned(tmp_path, {"options": {"epochs": 1}, "grid": {"sparsity": [0.5, 0.9]}})
    abandoned = plan.runs[0].files
    log = EventLog(abandoned.run.events, 0)
    log.write({"event": "batch", "phase": "dense", "epoch": 1, "batch": 1, "batches": 9})
    log.close()
    for run in plan.runs:
        # Both runs count as failed before, so the sweep ends without starting a process.
        run.files.write_ending(1, 0.0)
    claimed = claim(abandoned.lock)
    assert claimed is not None
    observer = ReleasesTheOtherClaim(claimed)
    state = run_sweep(plan, ONE_SLOT, observer)
    assert claimed.closed
    assert state.failed.keys() == {run.name for run in plan.runs}


def test_sweeps_divide_the_work_keep_failures_retry_and_resume_with_the_results_of_single_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "broken").touch()
    plan = planned(tmp_path, SWEEP)
    *complete, failing = plan.runs
    sweep = ["sweep", "grid.yaml", "--jobs", "2"]

    # Two sweeps at once start every run once; only the run of two rounds fails.
    with ThreadPoolExecutor() as threads:
        sweeps = [threads.submit(run_sweep, plan, ONE_SLOT, SilentSweepObserver()) for _ in range(2)]
    for finished in sweeps:
        state = finished.result()
        assert state.done.keys() == {run.name for run in complete}
        assert "RuntimeError: broken in round 2" in state.failed[failing.name].log_lines[-1]
    for run in plan.runs:
        assert [event["event"] for event in events(run.files.run.path)].count("start") == 1

    # Without --retry a failed run is not computed again, but reported.
    (tmp_path / "broken").unlink()
    assert execute(sweep) == 1
    output = capsys.readouterr().out
    assert "3 runs; 2 finished, 1 failed before" in output
    assert "broken in round 2" in output
    assert "2 of 3 runs done\n" in output

    # With --retry it resumes; a signal makes it save its state again. It is slow so that the signal arrives in time.
    (tmp_path / "slow").touch()
    for signal_number in (signal.SIGTERM, signal.SIGHUP):
        with ThreadPoolExecutor() as threads:
            threads.submit(stop_after_resumption, failing, signal_number)
            assert execute([*sweep, "--retry"]) == 128 + signal_number
    (tmp_path / "slow").unlink()
    assert not failing.files.run.result.exists()
    assert execute(sweep) == 0
    assert "3 of 3 runs done, 1 of them now" in capsys.readouterr().out

    # Every record equals that of the same run outside a sweep.
    for run in plan.runs:
        alone = run.config.model_copy(update={"runs_dir": tmp_path / "alone", "share_rounds": False})
        experiment(alone, SilentObserver())
        assert reproducible_result(tmp_path / "alone" / run.name) == reproducible_result(run.files.run.path)
