"""Peak memory of this process on Linux."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

from pruning.measure.bench.timing import Action


def release_free_memory() -> None:
    """Return free memory from the allocator to the system, as in a process that prunes once. glibc only."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def peak_extra_bytes(action: Action) -> int | None:
    """Return the peak memory of `action` in bytes, minus the memory before it; None if not on Linux."""
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    release_free_memory()
    reset.write_text("5")  # resets the peak
    before = _resident_bytes("VmRSS")
    action()
    return _resident_bytes("VmHWM") - before


def _resident_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    kibibytes = next(line.split()[1] for line in lines if line.startswith(field))
    return 1024 * int(kibibytes)
