"""Failures during a run: a message that helps, no damaged file, and a bit-identical result after resuming."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import command, environment, fork, reproducible_result, wait_for_event
from forked import ForkedProcess
from safetensors.torch import load_file

RUN = (
    *("--epochs", "1", "--finetune-epochs", "1", "--rounds", "1", "--batch-size", "256"),
    *("--name", "run", "--checkpoint-interval", "0.05", "--log-interval", "1"),
    *("--measure-seconds", "0"),
)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("uninterrupted")
    finish(place)
    return reproducible_result(place / "runs/run")


def finish(place: Path) -> None:
    process = fork(*RUN, cwd=place)
    outputs = process.communicate(timeout=120)
    assert process.returncode == 0, outputs


def assert_stopped(process: subprocess.CompletedProcess[str] | ForkedProcess, stderr: str) -> None:
    """Assert exit code 1 and a message without traceback."""
    assert process.returncode == 1, stderr
    assert stderr.startswith("error: ")
    assert "Traceback" not in stderr


def assert_nothing_damaged(runs: Path) -> None:
    """Assert that every file is complete, no temporary file remains and the run is not marked as finished."""
    files = [path for path in runs.rglob("*") if path.is_file()]
    assert not [path for path in files if path.name.startswith(".")]
    assert not (runs / "run/result.json").exists()
    for path in files:
        if path.suffix == ".safetensors":
            load_file(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".jsonl":
            assert all(json.loads(line) for line in path.read_text().splitlines())


@pytest.mark.parametrize("largest", [2_000, 100_000, 300_000])
def test_a_limit_on_file_size_stops_the_run_and_it_resumes(
    largest: int, uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    done = subprocess.run(
        command(*RUN),
        cwd=tmp_path,
        env=environment(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert_stopped(done, done.stderr)
    assert "File too large" in done.stderr
    assert "same command" in done.stderr
    assert_nothing_damaged(tmp_path / "runs")
    finish(tmp_path)
    assert reproducible_result(tmp_path / "runs/run") == uninterrupted


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a file system needs root")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_stops_the_run_and_it_resumes(uninterrupted: dict[str, Any], small_disk: Path) -> None:
    process = fork(*RUN, cwd=small_disk)
    _, stderr = process.communicate(timeout=120)
    assert_stopped(process, stderr)
    assert "No space left on device" in stderr
    assert_nothing_damaged(small_disk / "runs")
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    finish(small_disk)
    assert reproducible_result(small_disk / "runs/run") == uninterrupted


@pytest.mark.parametrize(("phase", "deleted"), [("dense", "runs"), ("finetune", "runs/run")])
def test_a_deleted_folder_stops_the_run_and_the_same_command_repeats_it(
    phase: str, deleted: str, uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    process = fork(*RUN, cwd=tmp_path)
    wait_for_event(tmp_path / "runs/run", process, event="batch", phase=phase)
    while (tmp_path / deleted / "run").exists() or (tmp_path / deleted / "events.jsonl").exists():
        shutil.rmtree(tmp_path / deleted, ignore_errors=True)
    _, stderr = process.communicate(timeout=60)
    assert_stopped(process, stderr)
    assert "could not be written" in stderr
    assert_nothing_damaged(tmp_path / "runs")
    shutil.rmtree(tmp_path / deleted, ignore_errors=True)  # a file may have been written during the removal
    finish(tmp_path)
    assert reproducible_result(tmp_path / "runs/run") == uninterrupted


def network_file(place: Path, forward: str) -> str:
    """Write a network whose `forward` begins with the given code, and return the value of --arch."""
    code = f"""
import time

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.inner, self.outer = nn.Linear(784, 20), nn.Linear(20, classes)

    def forward(self, images):
        {forward}
        return self.outer(self.inner(images.flatten(1)).relu())
"""
    (place / "net.py").write_text(code)
    return "net.py:Net"


def test_out_of_memory_stops_the_run_with_batch_size_as_advice(tmp_path: Path) -> None:
    # 128 elements for the two images of the shape check, 5e14 for a batch of 128.
    hungry = network_file(tmp_path, "torch.empty(len(images) ** 7)")
    process = fork(*RUN, "--arch", hungry, "--batch-size", "128", cwd=tmp_path)
    _, stderr = process.communicate(timeout=60)
    assert_stopped(process, stderr)
    assert "Out of memory" in stderr
    assert "--batch-size" in stderr
    assert_nothing_damaged(tmp_path / "runs")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_second_signal_stops_the_run_without_waiting_for_the_batch(
    number: signal.Signals, tmp_path: Path
) -> None:
    slow = network_file(tmp_path, "time.sleep(600 if self.training else 0)")
    process = fork(*RUN, "--arch", slow, cwd=tmp_path)
    wait_for_event(tmp_path / "runs/run", process, event="start")
    time.sleep(0.5)
    process.send_signal(number)
    time.sleep(0.5)
    assert process.poll() is None  # the first signal waits for the batch
    process.send_signal(number)
    assert process.wait(timeout=10) == 128 + number
    assert_nothing_damaged(tmp_path / "runs")
