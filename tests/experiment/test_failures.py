"""Trouble while running: it ends with a sentence that helps, nothing is damaged, and the same command goes on."""

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
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("undisturbed")
    finish(place)
    return reproducible_result(place / "runs/run")


def finish(place: Path) -> None:
    process = fork(*RUN, cwd=place)
    output = process.communicate(timeout=120)
    assert process.returncode == 0, output


def assert_stopped(process: subprocess.CompletedProcess[str] | ForkedProcess, output: str) -> None:
    """Exit code 1 and one sentence, no traceback."""
    assert process.returncode == 1, output
    assert output.startswith("error: ")
    assert "Traceback" not in output


def assert_nothing_damaged(runs: Path) -> None:
    """Every file is whole, no beginning of one is left, and the run does not pass for complete."""
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
def test_a_file_that_cannot_grow(largest: int, undisturbed: dict[str, Any], tmp_path: Path) -> None:
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
    assert "the same command" in done.stderr
    assert_nothing_damaged(tmp_path / "runs")
    finish(tmp_path)
    assert reproducible_result(tmp_path / "runs/run") == undisturbed


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with little room."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a file system needs the rights to")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk(undisturbed: dict[str, Any], small_disk: Path) -> None:
    process = fork(*RUN, cwd=small_disk)
    _, output = process.communicate(timeout=120)
    assert_stopped(process, output)
    assert "No space left on device" in output
    assert_nothing_damaged(small_disk / "runs")
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    finish(small_disk)
    assert reproducible_result(small_disk / "runs/run") == undisturbed


@pytest.mark.parametrize(("phase", "gone"), [("dense", "runs"), ("finetune", "runs/run")])
def test_a_folder_that_vanishes(phase: str, gone: str, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    process = fork(*RUN, cwd=tmp_path)
    wait_for_event(tmp_path / "runs/run", process, event="batch", phase=phase)
    while (tmp_path / gone / "run").exists() or (tmp_path / gone / "events.jsonl").exists():
        shutil.rmtree(tmp_path / gone, ignore_errors=True)
    _, output = process.communicate(timeout=60)
    assert_stopped(process, output)
    assert "could not be written" in output
    assert_nothing_damaged(tmp_path / "runs")
    shutil.rmtree(tmp_path / gone, ignore_errors=True)  # a file may have been written during the removal
    finish(tmp_path)
    assert reproducible_result(tmp_path / "runs/run") == undisturbed


def net(place: Path, forward: str) -> str:
    """A network of the user's own whose `forward` begins with some code; the option that names it."""
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


def test_out_of_memory_says_which_option_helps(tmp_path: Path) -> None:
    # Next to nothing for the two images of a trial, more than any machine has for a batch.
    hungry = net(tmp_path, "torch.empty(len(images) ** 7)")
    process = fork(*RUN, "--arch", hungry, "--batch-size", "128", cwd=tmp_path)
    _, output = process.communicate(timeout=60)
    assert_stopped(process, output)
    assert "Out of memory" in output
    assert "--batch-size" in output
    assert_nothing_damaged(tmp_path / "runs")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_second_signal_stops_at_once(number: signal.Signals, tmp_path: Path) -> None:
    slow = net(tmp_path, "time.sleep(600 if self.training else 0)")
    process = fork(*RUN, "--arch", slow, cwd=tmp_path)
    wait_for_event(tmp_path / "runs/run", process, event="start")
    time.sleep(0.5)
    process.send_signal(number)
    time.sleep(0.5)
    assert process.poll() is None  # the first waits for the batch
    process.send_signal(number)
    assert process.wait(timeout=10) == 128 + number
    assert_nothing_damaged(tmp_path / "runs")
