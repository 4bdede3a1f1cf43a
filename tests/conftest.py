"""What the tests share: main.py as a process, and waiting for what a run's log says.

A process is started from nothing (`command`, `start`), or forked from one that has imported torch (`fork`, and `cli`,
which waits for its end): four seconds sooner.

Every process of the tests computes in one thread: the tests themselves are spread over the cores (pytest -n auto), and
threads of several processes that spin on the same cores slow one another down tenfold.
"""

from __future__ import annotations

import copy
import json
import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here and in the processes that tests start

import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from forked import MAIN, Forked

from pruning.errors import InterruptedRunError
from pruning.experiment.events import Event

if TYPE_CHECKING:
    from torch import Tensor, nn

# Under nohup it is ignored, and every process that the tests start would inherit that.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

SHORT = (
    "--epochs",
    "2",
    "--finetune-epochs",
    "1",
    "--rounds",
    "2",
    "--log-interval",
    "20",
    "--measure-seconds",
    "0",
)

Cli = Callable[..., subprocess.CompletedProcess[str]]


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, str(MAIN), *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    """The tests' own environment without what would change colours or width."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("COLUMNS", "FORCE_COLOR", "NO_COLOR")
    }
    return {**kept, **more}


@pytest.fixture(autouse=True)
def _ordinary_arithmetic() -> Iterator[None]:
    """A run done in the tests' own process leaves it flushing denormal numbers; the next test must not feel that."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Start main.py in an empty folder, wait for its end; output to pipes, so no terminal."""

    def run(*arguments: str | Path, timeout: float = 180, **env: str) -> subprocess.CompletedProcess[str]:
        process = fork(*arguments, cwd=tmp_path, **env)
        stdout, stderr = process.communicate(timeout)
        return subprocess.CompletedProcess(arguments, process.wait(), stdout, stderr)

    return run


def fork(*arguments: str | Path, cwd: Path, **env: str) -> Forked:
    """Start main.py with torch imported, and go on."""
    return Forked(tuple(map(str, arguments)), cwd, environment(**env))


def start(*arguments: str | Path, cwd: Path) -> subprocess.Popen[str]:
    """Start main.py from nothing, and go on."""
    return subprocess.Popen(
        command(*arguments),
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Silent:
    """What watches a run done in the tests' own process: it says nothing and lets it go on."""

    def event(self, event: Event) -> None: ...

    def progress(self, done: int, total: int) -> None: ...

    def check_stop(self) -> None: ...


class StopsAt(Silent):
    """Asks to stop at the n-th moment at which that is possible."""

    def __init__(self, moment: int) -> None:
        self.left = moment

    def check_stop(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise InterruptedRunError(signal.SIGINT)


def interrupted_every(moments: int, run: Callable[[Silent], Any]) -> int:
    """Do a run that is stopped after so many moments, over and over; how often it was stopped until it was done."""
    for stops in range(1000):
        try:
            run(StopsAt(moments))
        except InterruptedRunError:
            continue
        return stops
    raise AssertionError("it never ends")


def what_it_goes_by(method: str, model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """The arguments of `prune` that tell any method what it goes by: batches, and sums over a training on them."""
    from torch.nn import functional
    from torch.optim import SGD

    from pruning import accumulate
    from pruning.axes import methods

    if not methods.accumulates(method):
        return {"batches": batches}
    trained = copy.deepcopy(model)
    like = next(trained.parameters())
    optimizer = SGD(trained.parameters(), lr=0.1)
    accumulated = accumulate(trained, optimizer, method)
    for inputs, targets in batches:
        optimizer.zero_grad()
        functional.cross_entropy(trained(inputs.to(like)), targets).backward()
        optimizer.step()
    return {"batches": batches, "accumulated": accumulated}


def small_mnist(folder: Path, train: int = 500, test: int = 200) -> Path:
    """A folder with the files of `--dataset mnist`, of images that can be learnt in no time: bars in noise."""
    import torch

    draw = torch.Generator().manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", train), ("t10k", test)):
        images = torch.randint(0, 100, (count, 28, 28), generator=draw, dtype=torch.uint8)
        labels = torch.randint(0, 10, (count,), generator=draw, dtype=torch.uint8)
        for image, label in zip(images, labels.tolist(), strict=True):
            image[:, 2 * label + 4 : 2 * label + 6] += 70
        for what, content in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">I{content.dim()}I", 0x0800 + content.dim(), *content.shape)
            (folder / f"{name}-{what}-ubyte").write_bytes(header + bytes(content.flatten().tolist()))
    return folder


def only_run(runs: Path) -> Path:
    """The folder of the one run in `runs`."""
    (folder,) = (path for path in runs.iterdir() if not path.name.startswith("."))
    return folder


def read_result(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def outcome(folder: Path) -> dict[str, Any]:
    """What must be the same, to the bit, when a run is repeated: everything in the record but names and times."""
    result = read_result(folder)
    kept = {key: result[key] for key in ("dense", "rounds", "final", "layers", "warnings")}
    files = {file: (folder / file).read_bytes() for file in ("masks.safetensors", "model.safetensors")}
    return {**kept, **files}


def events(folder: Path) -> list[dict[str, Any]]:
    """The complete lines of a run's log."""
    file = folder / "events.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [json.loads(line) for line in lines]


def wait_for_event(folder: Path, process: subprocess.Popen[str] | Forked, **wanted: Any) -> None:
    """Return once the log has an event with these fields; fail when the process ends without."""
    deadline = time.monotonic() + 120
    while not any(wanted.items() <= event.items() for event in events(folder)):
        assert process.poll() is None, f"ended before {wanted}: {process.communicate()}"
        assert time.monotonic() < deadline, f"no {wanted}"
        time.sleep(0.005)
