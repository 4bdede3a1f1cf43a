"""Benchmark of start-up: whole processes, with `import torch` for scale."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from pruning.measure.bench.timing import Contender, Section, run_in_turns, summarize, timed

IMPORT_TORCH = Path(__file__).with_name("import_torch.py")


def time_startup(turns: int) -> Section:
    """Time `import torch`, two commands that work without it, and a run up to its first batch."""
    contenders = {
        "import torch": _process("-P", str(IMPORT_TORCH)),
        "--help": _process("-m", "pruning", "--help"),
        "list methods": _process("-m", "pruning", "list", "methods"),
        "a run's first batch": timed(_first_batch),
    }
    return summarize("start-up, whole processes", run_in_turns(contenders, turns, warm_up=False))


def _process(*arguments: str) -> Contender:
    return timed(lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True))


def _first_batch() -> None:
    with tempfile.TemporaryDirectory() as folder:
        options = ("--epochs", "1", "--log-interval", "1", "--runs-dir", folder)
        command = [sys.executable, "-m", "pruning", *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            if not any(line.startswith("dense") and "batch" in line for line in process.stdout):
                raise RuntimeError(
                    f"{' '.join(command)} ended with exit code {process.wait()} before its first batch"
                )
            process.kill()
