"""The machine a run uses: device, arithmetic, threads, seeds, and what to record of it."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import random
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from pruning.errors import PruningError, RunStoppedError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # in glibc's malloc.h
LARGEST_KEPT = 32 << 20  # bytes; more is refused by glibc before 2.35, and fits badly into what was freed


def choose_device(name: str) -> torch.device:
    """The device called `name`; `auto` takes CUDA, else MPS, else the CPU. PruningError if it is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise PruningError(
            f"--device {name}: PyTorch sees {torch.cuda.device_count()} CUDA devices here; try --device auto.",
            options=("device",),
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise PruningError(
            "--device mps: PyTorch sees no Metal device here; try --device auto.", options=("device",)
        )
    return device


def check_precision(precision: str, device: torch.device) -> None:
    """PruningError where bf16 is asked for and the device has no arithmetic for it."""
    if precision == "bf16" and not _has_bf16(device):
        raise PruningError(
            f"--precision bf16: {device.type} has no bfloat16 arithmetic here; use --precision fp32.",
            options=("precision",),
        )


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return True


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The context in which a network computes at this precision; weights and optimizer stay in float32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def prepare(device: torch.device, threads: int | None, deterministic: bool) -> None:
    """Set this process up for a run; before any tensor work, because worker threads inherit the settings.

    Denormal numbers are flushed to zero: pruned networks on CPUs train up to ten times slower with them
    (pytorch issue 46180).
    """
    torch.set_flush_denormal(True)
    _keep_freed_memory()
    if threads is not None:
        torch.set_num_threads(threads)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def _keep_freed_memory() -> None:
    """Have glibc keep what is freed, since every step asks for the same megabytes again.

    Left alone it gives them back to the system, which hands them out again page by page at the first write: hundreds
    of page faults in a step of a small network, where a sixth of the time went with them.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None and mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT):
        mallopt(M_TRIM_THRESHOLD, -1)  # never


def derive_seed(*parts: int | str) -> int:
    """A seed of 63 bits for one purpose, `derive_seed(seed, "shuffle", epoch)` say.

    Everything random in a run is drawn from a generator seeded like this from the run's seed and the position in the
    run. No generator's state therefore outlives a batch, and resuming needs none.
    """
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


def seed_everything(seed: int, device: torch.device) -> None:
    """Seed what a network may draw from while it runs (dropout, stochastic depth): torch, Python and NumPy.

    torch.manual_seed does the same for every device it knows and takes 0.1 ms, too long for every batch.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)


@contextlib.contextmanager
def trouble_explained() -> Iterator[None]:
    """Turn errors of memory and files within into a RunStoppedError that says what helps."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise RunStoppedError(
            "Out of memory: a smaller --batch-size (or --test-batch-size, where it was eval_mode) helps."
        ) from error
    except BrokenPipeError:
        raise  # of the terminal: nobody is there to be told anything
    except OSError as error:
        raise RunStoppedError(
            f"{error.filename or 'The output'}: {error.strerror or error}. What was saved before is whole: "
            "put that right, and give the same command to go on."
        ) from error


def _is_out_of_memory(error: Exception) -> bool:
    """torch says it in an error of its own on CUDA, in words elsewhere."""
    words = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc")
    told = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(word in told for word in words)


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, hardware and commit: what a reader needs to judge whether two records may be compared."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in ("pruning", "torch", "torchvision", "safetensors")},
        "platform": platform.platform(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "commit": _commit(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _commit() -> str | None:
    """The commit of the code that runs, with `+` when files differ from it; None outside a git checkout."""
    here = Path(__file__).resolve().parents[1]
    if not (here.parent / ".git").exists():
        return None
    try:
        describe = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
        return subprocess.run(describe, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
