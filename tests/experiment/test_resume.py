"""Resuming: a run that is killed or stopped at any point ends bit-identical to an uninterrupted run."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import random
import signal
import subprocess
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    SHORT_RUN,
    Cli,
    SilentObserver,
    command,
    environment,
    events,
    fork,
    reproducible_result,
    small_mnist,
    wait_for_event,
)

from pruning.cli.signals import Signals
from pruning.config.resolution import resolve
from pruning.errors import InterruptedRunError, RunStoppedError
from pruning.experiment.events import BatchLogged, Event
from pruning.experiment.runner import run
from pruning.utils.digests import digest

FREQUENT_CHECKPOINTS = (*SHORT_RUN, "--checkpoint-interval", "0.05", "--log-interval", "1")
WITH_GRADIENTS = (*FREQUENT_CHECKPOINTS, "--method", "global_grad", "--score-batches", "1000")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_to_the_end(tmp_path_factory.mktemp("uninterrupted"), FREQUENT_CHECKPOINTS)


@pytest.fixture(scope="module")
def uninterrupted_with_gradients(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_to_the_end(tmp_path_factory.mktemp("uninterrupted"), WITH_GRADIENTS)


def run_to_the_end(folder: Path, arguments: tuple[str, ...]) -> dict[str, Any]:
    """Start the run named `run` in `folder`, or resume it, until it ends, and return its result."""
    process = fork(*arguments, "--name", "run", cwd=folder)
    outputs = process.communicate(timeout=120)
    assert process.returncode == 0, outputs
    return reproducible_result(folder / "runs/run")


def test_a_run_killed_at_random_times_ends_with_the_same_bits(
    uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    generator = random.Random(1)
    folder = tmp_path / "runs/run"
    for _ in range(4):
        process = fork(*FREQUENT_CHECKPOINTS, "--name", "run", cwd=tmp_path)
        before = len(events(folder))
        while process.poll() is None and len(events(folder)) < before + 2:
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 1))
        process.kill()
        process.wait()
    assert run_to_the_end(tmp_path, FREQUENT_CHECKPOINTS) == uninterrupted


STAGES = {
    "dense training": {"event": "batch", "phase": "dense", "epoch": 2},
    "scoring": {"event": "scoring", "round": 1},
    "evaluation": {"event": "pruning", "round": 1},
    "fine-tuning": {"event": "batch", "phase": "finetune", "round": 2},
}


@pytest.mark.parametrize(
    ("stage", "number"),
    [
        ("dense training", signal.SIGTERM),
        ("dense training", signal.SIGINT),
        ("scoring", signal.SIGINT),
        ("evaluation", signal.SIGTERM),
        ("fine-tuning", signal.SIGINT),
    ],
)
def test_a_run_stopped_by_a_signal_is_saved_and_resumes_with_the_same_bits(
    stage: str, number: signal.Signals, uninterrupted_with_gradients: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "runs/run"
    process = fork(*WITH_GRADIENTS, "--name", "run", cwd=tmp_path)
    wait_for_event(folder, process, **STAGES[stage])
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert f"stopped by {number.name}" in stderr
    assert not (folder / "result.json").exists()
    assert run_to_the_end(tmp_path, WITH_GRADIENTS) == uninterrupted_with_gradients


def test_a_run_whose_terminal_closes_is_saved_and_resumes_with_the_same_bits(
    uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    terminal, child_end = pty.openpty()
    process = subprocess.Popen(
        command(*FREQUENT_CHECKPOINTS, "--name", "run"),
        cwd=tmp_path,
        env=environment(),
        stdin=child_end,
        stdout=child_end,
        stderr=child_end,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(child_end)
    shown = b""
    while b"finetune 1   epoch   1  batch" not in shown:
        shown += os.read(terminal, 65_536)  # OSError when the process ends without
    os.close(terminal)
    assert process.wait(timeout=30) == 128 + signal.SIGHUP
    assert not (tmp_path / "runs/run/result.json").exists()
    assert run_to_the_end(tmp_path, FREQUENT_CHECKPOINTS) == uninterrupted


def test_a_closed_terminal_is_ignored_under_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            signals.check_stop()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_resumed_run_logs_every_batch_once(tmp_path: Path) -> None:
    folder = tmp_path / "runs/run"
    process = fork(*FREQUENT_CHECKPOINTS, "--name", "run", cwd=tmp_path)
    wait_for_event(folder, process, event="batch", phase="finetune", round=1)
    process.kill()
    process.wait()
    run_to_the_end(tmp_path, FREQUENT_CHECKPOINTS)
    batches = [
        (event["phase"], event.get("round"), event["epoch"], event["batch"])
        for event in events(folder)
        if event["event"] == "batch"
    ]
    assert len(batches) == len(set(batches)) == (2 + 1 + 1) * 85


class StopInEvaluation(SilentObserver):
    """Interrupts the run in the evaluation after the last batch of an epoch."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, int, int]] = []
        self.epoch_ended = False

    def event(self, event: Event) -> None:
        if isinstance(event, BatchLogged):
            self.batches.append((event.phase, event.epoch, event.batch))
            self.epoch_ended = event.batch == event.batches

    def check_stop(self) -> None:
        if self.epoch_ended:
            raise InterruptedRunError(signal.SIGTERM)


def test_a_run_stopped_in_the_evaluation_after_an_epoch_repeats_no_batch_of_that_epoch(
    tmp_path: Path,
) -> None:
    config = resolve(
        {
            "dataset": "mnist",
            "data": small_mnist(tmp_path / "mnist"),
            "epochs": 3,
            "sparsity": 0.5,
            "schedule": "gradual",
            "prune_every": 1,
            "checkpoint_interval": 1000,
            "log_interval": 1,
            "measure_seconds": 0,
            "runs_dir": tmp_path / "runs",
            "name": "run",
        }
    )
    batches = []
    for _ in range(7):  # three dense epochs and three gradual ones are interrupted; the last call ends
        stopping = StopInEvaluation()
        with contextlib.suppress(InterruptedRunError):
            run(config, stopping)
        batches += stopping.batches
    assert len(batches) == len(set(batches))
    interrupted = reproducible_result(tmp_path / "runs/run")
    run(config.model_copy(update={"runs_dir": tmp_path / "undisturbed"}), SilentObserver())
    assert interrupted == reproducible_result(tmp_path / "undisturbed/run")


def test_resume_uses_the_options_of_the_folder_and_refuses_others(
    uninterrupted: dict[str, Any], cli: Cli, tmp_path: Path
) -> None:
    folder = tmp_path / "runs/run"
    process = fork(*FREQUENT_CHECKPOINTS, "--name", "run", cwd=tmp_path)
    wait_for_event(folder, process, event="pruning", round=1)
    process.terminate()
    process.wait()
    done = cli("--resume", folder, "--lr", "0.3")
    assert done.returncode == 2
    assert "--lr was 0.1, now 0.3" in done.stderr
    done = cli("--resume", folder)
    assert done.returncode == 0, done.stderr
    assert reproducible_result(folder) == uninterrupted


def test_a_run_resumes_from_the_checkpoint_before_a_damaged_one(
    uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "runs/run"
    process = fork(*FREQUENT_CHECKPOINTS, "--name", "run", cwd=tmp_path)
    wait_for_event(folder, process, event="batch", phase="finetune", round=2, batch=40)
    process.terminate()
    process.wait()
    newest = max((folder / "state").glob("*.safetensors"))
    content = bytearray(newest.read_bytes())
    content[-100] ^= 1
    newest.write_bytes(content)
    assert run_to_the_end(tmp_path, FREQUENT_CHECKPOINTS) == uninterrupted


def test_a_second_process_is_refused_with_the_id_of_the_first(cli: Cli, tmp_path: Path) -> None:
    process = fork(*FREQUENT_CHECKPOINTS, "--name", "run", cwd=tmp_path)
    wait_for_event(tmp_path / "runs/run", process, event="batch")
    done = cli(*FREQUENT_CHECKPOINTS, "--name", "run")
    process.terminate()
    process.wait()
    assert done.returncode == 2
    assert f"by process {process.pid} on " in done.stderr


def test_a_loss_that_is_not_finite_stops_the_run_with_a_lower_lr_as_advice(cli: Cli, tmp_path: Path) -> None:
    done = cli(*SHORT_RUN, "--lr", "1e9")
    assert done.returncode == 1
    assert "Try a lower --lr" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "runs").glob("*/result.json"))


def test_a_network_that_diverges_in_the_last_step_stops_the_run(tmp_path: Path) -> None:
    """The loss of every training batch is finite; only the evaluation shows the divergence."""
    with pytest.raises(RunStoppedError, match=r"diverged.*--lr"):
        run(resolve({"lr": 1e30, "epochs": 1, "batch_size": 10_800, "runs_dir": tmp_path}), SilentObserver())
    assert not list(tmp_path.glob("*/result.json"))


def test_a_run_with_other_images_is_not_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "runs/run"
    process = fork(*FREQUENT_CHECKPOINTS, "--name", "run", cwd=tmp_path)
    wait_for_event(folder, process, event="batch", phase="finetune", round=1)
    process.terminate()
    process.wait()
    for file in (folder / "state").glob("*.json"):
        checkpoint = json.loads(file.read_text())
        checkpoint["values"]["fingerprint"]["images"] = "others"
        checkpoint["values_sha256"] = digest(checkpoint["values"])
        file.write_text(json.dumps(checkpoint))
    process = fork(*FREQUENT_CHECKPOINTS, "--name", "run", cwd=tmp_path)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "images was 'others'" in stderr.replace("--", "")
