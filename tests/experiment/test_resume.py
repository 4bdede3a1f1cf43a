"""A run is never lost: killed or stopped anywhere and started again, it ends with the same bits."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import random
import shutil
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
    only_run,
    read_result,
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
GRADIENTS = (*FREQUENT_CHECKPOINTS, "--method", "global_grad", "--score-batches", "1000")


@pytest.fixture(scope="module")
def uninterrupted_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    return _run_to_the_end(tmp_path_factory.mktemp("uninterrupted"), FREQUENT_CHECKPOINTS)


@pytest.fixture(scope="module")
def uninterrupted(uninterrupted_run: Path) -> dict[str, Any]:
    return reproducible_result(uninterrupted_run)


@pytest.fixture(scope="module")
def uninterrupted_with_gradients(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return reproducible_result(_run_to_the_end(tmp_path_factory.mktemp("uninterrupted"), GRADIENTS))


def _run_to_the_end(folder: Path, arguments: tuple[str, ...]) -> Path:
    assert fork(*arguments, "--name", "run", cwd=folder).wait(timeout=120) == 0
    return only_run(folder / "runs")


def test_a_run_killed_at_random_times_ends_bit_identical(
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
    assert fork(*FREQUENT_CHECKPOINTS, "--name", "run", cwd=tmp_path).wait(timeout=120) == 0
    assert reproducible_result(folder) == uninterrupted


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
def test_a_signal_saves_a_checkpoint_and_the_same_command_resumes(
    stage: str, number: signal.Signals, uninterrupted_with_gradients: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "runs/run"
    process = fork(*GRADIENTS, "--name", "run", cwd=tmp_path)
    wait_for_event(folder, process, **STAGES[stage])
    process.send_signal(number)
    _, output = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert f"stopped by {number.name}" in output
    assert "again to resume" in output
    assert not (folder / "result.json").exists()
    assert fork(*GRADIENTS, "--name", "run", cwd=tmp_path).wait(timeout=120) == 0
    assert reproducible_result(folder) == uninterrupted_with_gradients


def test_a_closed_terminal_saves_a_checkpoint_and_the_same_command_resumes(
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
    output = b""
    while b"finetune 1   epoch   1  batch" not in output:
        output += os.read(terminal, 65_536)  # OSError if the process ends before
    os.close(terminal)
    assert process.wait(timeout=30) == 128 + signal.SIGHUP
    assert not (tmp_path / "runs/run/result.json").exists()
    assert fork(*FREQUENT_CHECKPOINTS, "--name", "run", cwd=tmp_path).wait(timeout=120) == 0
    assert reproducible_result(tmp_path / "runs/run") == uninterrupted


def test_under_nohup_a_closed_terminal_is_ignored() -> None:
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
    assert fork(*FREQUENT_CHECKPOINTS, "--name", "run", cwd=tmp_path).wait(timeout=120) == 0
    batches = [
        (event["phase"], event.get("round"), event["epoch"], event["batch"])
        for event in events(folder)
        if event["event"] == "batch"
    ]
    assert len(batches) == len(set(batches)) == (2 + 1 + 1) * 85


class StopsInTheEvaluation(SilentObserver):
    """Asks to stop in the evaluation after the last batch of an epoch."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, int, int]] = []
        self.at_the_end = False

    def event(self, event: Event) -> None:
        if isinstance(event, BatchLogged):
            self.batches.append((event.phase, event.epoch, event.batch))
            self.at_the_end = event.batch == event.batches

    def check_stop(self) -> None:
        if self.at_the_end:
            raise InterruptedRunError(signal.SIGTERM)


def test_a_stop_in_the_evaluation_after_an_epoch_loses_no_batch_of_it(tmp_path: Path) -> None:
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
    for _ in range(7):  # three dense epochs, three gradual ones, and then no further
        stopping = StopsInTheEvaluation()
        with contextlib.suppress(InterruptedRunError):
            run(config, stopping)
        batches += stopping.batches
    assert len(batches) == len(set(batches))
    interrupted = reproducible_result(tmp_path / "runs/run")
    run(config.model_copy(update={"runs_dir": tmp_path / "undisturbed"}), SilentObserver())
    assert interrupted == reproducible_result(tmp_path / "undisturbed/run")


def test_resume_by_folder(uninterrupted: dict[str, Any], cli: Cli, tmp_path: Path) -> None:
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


def test_a_damaged_checkpoint_is_passed_over(uninterrupted: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "runs/run"
    process = fork(*FREQUENT_CHECKPOINTS, "--name", "run", cwd=tmp_path)
    wait_for_event(folder, process, event="batch", phase="finetune", round=2, batch=40)
    process.terminate()
    process.wait()
    newest = max((folder / "state").glob("*.safetensors"))
    content = bytearray(newest.read_bytes())
    content[-100] ^= 1
    newest.write_bytes(content)
    assert fork(*FREQUENT_CHECKPOINTS, "--name", "run", cwd=tmp_path).wait(timeout=120) == 0
    assert reproducible_result(folder) == uninterrupted


def test_a_damaged_dense_cache_is_trained_again(uninterrupted_run: Path, tmp_path: Path) -> None:
    shutil.copytree(uninterrupted_run.parent / ".dense", tmp_path / "runs/.dense")
    (network,) = (tmp_path / "runs/.dense").glob("*/network.safetensors")
    network.write_bytes(network.read_bytes()[:-10])
    again = _run_to_the_end(tmp_path, SHORT_RUN)
    assert reproducible_result(again) == reproducible_result(uninterrupted_run)
    assert [event["cached"] for event in events(again) if event["event"] == "dense"] == [False]


def test_a_second_process_on_a_run_is_refused_with_the_id_of_the_first(cli: Cli, tmp_path: Path) -> None:
    process = fork(*FREQUENT_CHECKPOINTS, "--name", "run", cwd=tmp_path)
    wait_for_event(tmp_path / "runs/run", process, event="batch")
    done = cli(*FREQUENT_CHECKPOINTS, "--name", "run")
    process.terminate()
    process.wait()
    assert done.returncode == 2
    assert f"by process {process.pid} on " in done.stderr


def test_two_runs_that_need_the_same_dense_training_share_it(tmp_path: Path) -> None:
    pair = [
        fork(*FREQUENT_CHECKPOINTS, "--method", method, cwd=tmp_path) for method in ("global_mag", "random")
    ]
    output = [process.communicate(timeout=120) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], output
    assert len(list((tmp_path / "runs/.dense").iterdir())) == 1
    folders = [path for path in (tmp_path / "runs").iterdir() if not path.name.startswith(".")]
    cached = [event["cached"] for folder in folders for event in events(folder) if event["event"] == "dense"]
    assert sorted(cached) == [False, True]
    assert read_result(folders[0])["dense"] == read_result(folders[1])["dense"]


def test_a_loss_that_is_not_finite_stops_the_run_and_suggests_a_lower_lr(cli: Cli, tmp_path: Path) -> None:
    done = cli(*SHORT_RUN, "--lr", "1e9")
    assert done.returncode == 1
    assert "Try a lower --lr" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "runs").glob("*/result.json"))


def test_divergence_in_the_last_step_stops_the_run(tmp_path: Path) -> None:
    """The loss of every training batch was finite; the network is not."""
    with pytest.raises(RunStoppedError, match=r"loss on the \w+ images is .*diverged. Try a lower --lr"):
        run(resolve({"lr": 1e30, "epochs": 1, "batch_size": 10_800, "runs_dir": tmp_path}), SilentObserver())
    assert not list(tmp_path.glob("*/result.json"))


def test_a_run_on_other_images_is_not_resumed(tmp_path: Path) -> None:
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
    _, output = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "images was 'others'" in output.replace("--", "")


def test_a_damaged_state_to_rewind_to_is_trained_again(tmp_path: Path) -> None:
    rewind = (*SHORT_RUN, "--finetune", "rewind", "--rounds", "1")
    folder = _run_to_the_end(tmp_path, rewind)
    before = reproducible_result(folder)
    shutil.rmtree(folder)
    (snapshot,) = (tmp_path / "runs/.dense").glob("*/epoch-1.safetensors")
    snapshot.write_bytes(snapshot.read_bytes()[:-10])
    assert reproducible_result(_run_to_the_end(tmp_path, rewind)) == before
