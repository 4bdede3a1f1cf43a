"""The device of a run: which one, its precision, and the settings of this process for it."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import torch

from pruning.errors import PruningError
from pruning.training.malloc import keep_freed_memory


def choose_device(name: str) -> torch.device:
    """Return the device `name`; `auto` chooses CUDA, else MPS, else the CPU.

    Raises:
        PruningError: PyTorch has no such device on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise PruningError(
            f"--device {name} does not exist: PyTorch found {torch.cuda.device_count()} CUDA devices. "
            "Choose another one, or --device auto.",
            options=("device",),
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise PruningError(
            "--device mps: PyTorch sees no Metal device here; try --device auto.", options=("device",)
        )
    return device


def check_precision(precision: str, device: torch.device) -> None:
    """Raise PruningError if the device has no arithmetic of this precision."""
    if precision == "bf16" and not _has_bf16(device):
        raise PruningError(
            f"--precision bf16 is not supported by this {device.type} device. Use --precision fp32.",
            options=("precision",),
        )


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return True


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the context for a forward pass at this precision; weights and optimizer stay in float32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def configure_process(device: torch.device, threads: int | None, deterministic: bool) -> None:
    """Set up this process for a run. Call it before any tensor work: worker threads inherit the settings.

    Denormal numbers are flushed to zero: pruned networks on CPUs train up to ten times slower with them
    (pytorch issue 46180).
    """
    torch.set_flush_denormal(True)
    keep_freed_memory()
    if threads is not None:
        torch.set_num_threads(threads)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
