"""Helpers of the tests: main.py as a process, observers of a run, small data, and the files of a run.

A process is started from scratch (`command`, `start`), or forked from one that has already imported torch (`fork`, and
`cli`, which waits until it ends), which saves four seconds.

Every process computes in one thread: pytest spreads the tests over the cores (-n auto), and the threads of several
processes that spin on the same cores slow one another down tenfold.
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
from fast_selection import is_fast
from forked import MAIN, ForkedProcess

from pruning.errors import InterruptedRunError
from pruning.experiment.events import Event
from pruning.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pruning import Masks

# nohup ignores this signal, and every process that the tests start would inherit that.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

SHORT_RUN = (
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

Register = Callable[..., Callable[[Any], Any]]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that `pytest -m fast` selects."""
    for item in items:
        if isinstance(item, pytest.Function) and is_fast(item):
            item.add_marker(pytest.mark.fast)


Cli = Callable[..., subprocess.CompletedProcess[str]]


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, str(MAIN), *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    """Return the environment of the tests without variables that change colours or width, plus `more`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("COLUMNS", "FORCE_COLOR", "NO_COLOR")
    }
    return {**kept, **more}


@pytest.fixture(autouse=True)
def _keep_denormal_numbers() -> Iterator[None]:
    """Turn flushing of denormal numbers off after every test: a run turns it on for the whole process."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Return a function that runs main.py in an empty folder until it ends. Its output is no terminal."""

    def run(*arguments: str | Path, timeout: float = 180, **env: str) -> subprocess.CompletedProcess[str]:
        process = fork(*arguments, cwd=tmp_path, **env)
        stdout, stderr = process.communicate(timeout)
        return subprocess.CompletedProcess(arguments, process.wait(), stdout, stderr)

    return run


def fork(*arguments: str | Path, cwd: Path, **env: str) -> ForkedProcess:
    """Start main.py in a process that has already imported torch, and return at once."""
    return ForkedProcess(tuple(map(str, arguments)), cwd, environment(**env))


def start(*arguments: str | Path, cwd: Path) -> subprocess.Popen[str]:
    """Start main.py from scratch, and return at once."""
    return subprocess.Popen(
        command(*arguments),
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class SilentObserver:
    """Observer of a run in the tests' own process that ignores every event and never stops the run."""

    def event(self, event: Event) -> None: ...

    def progress(self, done: int, total: int) -> None: ...

    def check_stop(self) -> None: ...


class StoppingObserver(SilentObserver):
    """Interrupts the run at its n-th check, n = `checks`."""

    def __init__(self, checks: int) -> None:
        self.left = checks

    def check_stop(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise InterruptedRunError(signal.SIGINT)


def run_with_interruptions(checks: int, run: Callable[[SilentObserver], Any]) -> int:
    """Interrupt `run` at every n-th check, n = `checks`, and resume it until it ends. Return how often it stopped."""
    for interruptions in range(1000):
        try:
            run(StoppingObserver(checks))
        except InterruptedRunError:
            continue
        return interruptions
    raise AssertionError("the run does not end after 1000 interruptions")


@pytest.fixture
def register() -> Iterator[Register]:
    """`register(REGISTRY, name, **attributes)` is REGISTRY.register(...), undone after the test."""
    registered: list[tuple[Registry[Any], str]] = []

    def decorator(registry: Registry[Any], name: str, **attributes: Any) -> Callable[[Any], Any]:
        registered.append((registry, name))
        return registry.register(name, **attributes)

    yield decorator
    for registry, name in registered:
        registry.unregister(name)


def masks_of(
    model: nn.Module,
    method: str = "global_mag",
    sparsity: Any = None,
    *,
    batches: Any = None,
    masks: Any = None,
    accumulated: Any = None,
    loss: Any = None,
    **options: Any,
) -> Masks:
    """`compute_masks` with the options as keywords."""
    from torch.nn import functional

    from pruning.core.prune import PruneOptions, compute_masks

    chosen = PruneOptions(method=method, sparsity=sparsity, **options)
    loss = loss or functional.cross_entropy
    return compute_masks(model, chosen, batches, masks=masks, accumulated=accumulated, loss=loss)


def scoring_arguments(method: str, model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """Return the arguments of `prune` that any method may need: batches, and statistics accumulated in training."""
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
    """Write files of `--dataset mnist` with images that a network learns in seconds (bars in noise)."""
    import torch

    draw = torch.Generator().manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", train), ("t10k", test)):
        images = torch.randint(0, 100, (count, 28, 28), generator=draw, dtype=torch.uint8)
        labels = torch.randint(0, 10, (count,), generator=draw, dtype=torch.uint8)
        for image, label in zip(images, labels.tolist(), strict=True):
            image[:, 2 * label + 4 : 2 * label + 6] += 70
        for kind, content in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">I{content.dim()}I", 0x0800 + content.dim(), *content.shape)
            (folder / f"{name}-{kind}-ubyte").write_bytes(header + bytes(content.flatten().tolist()))
    return folder


def only_run(runs: Path) -> Path:
    """Return the folder of the only run in `runs`."""
    (folder,) = (path for path in runs.iterdir() if not path.name.startswith("."))
    return folder


def read_result(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def reproducible_result(folder: Path) -> dict[str, Any]:
    """Return everything that is bit-identical when a run is repeated: metrics, layers, warnings, masks and weights."""
    result = read_result(folder)
    kept = {key: result[key] for key in ("dense", "rounds", "final", "layers", "warnings")}
    files = {file: (folder / file).read_bytes() for file in ("masks.safetensors", "model.safetensors")}
    return {**kept, **files}


def events(folder: Path) -> list[dict[str, Any]]:
    """Return the events in a run's log, without a last line that is not complete."""
    file = folder / "events.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [json.loads(line) for line in lines]


def wait_for_event(folder: Path, process: subprocess.Popen[str] | ForkedProcess, **wanted: Any) -> None:
    """Wait until the log has an event with these fields. Fail if the process ends before that."""
    deadline = time.monotonic() + 120
    while not any(wanted.items() <= event.items() for event in events(folder)):
        assert process.poll() is None, f"the process ended before {wanted}: {process.communicate()}"
        assert time.monotonic() < deadline, f"no event {wanted} within 120 s"
        time.sleep(0.005)
