"""Settings of the process that make a run faster: the threads of OpenMP and Python's garbage collector."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator

# Turns that OpenMP's threads spin before they sleep. With the default, two runs that share cores stall each other for
# up to seconds at every parallel loop. On idle cores, no difference could be measured.
SPIN_COUNT = "20000"


def limit_spinning() -> None:
    """Set GOMP_SPINCOUNT unless the user has. OpenMP reads it once, so this must precede the import of torch."""
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Import torch inside: the collector is off meanwhile, and ignores what was imported afterwards.

    Nothing that an import creates is garbage, but the collector would search it several times during the import and
    once more when the process ends. This saves 0.5 s of every run, most of it after the last line of output.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
