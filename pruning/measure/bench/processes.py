"""Contenders in worker processes, so that none inherits the memory pools and caches of another."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pruning.measure.bench.timing import Contender

PAUSE = 0.1  # seconds before each turn, in which the spinning threads of the previous worker fall asleep
UNKNOWN = "unknown"


@contextmanager
def worker(*arguments: str, settings_of_run: bool = False) -> Iterator[Contender]:
    """Start a worker and return it as a contender; it is killed on exit."""
    defaults = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    with subprocess.Popen(
        _command(*arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=None if settings_of_run else defaults,
        text=True,
    ) as process:
        requests, answers = process.stdin, process.stdout
        assert requests is not None and answers is not None

        def contender() -> float:
            time.sleep(PAUSE)
            requests.write("again\n")
            requests.flush()
            answer = answers.readline()
            if not answer:
                raise RuntimeError(f"{' '.join(arguments)} ended with exit code {process.wait()}")
            return float(answer)

        try:
            yield contender
        finally:
            process.kill()  # it has nothing to save, and a regular exit takes most of a second


def extra_memory(arch: str, method: str) -> int | None:
    """Return the extra bytes of making a mask in a fresh process; None if this system does not report them."""
    done = subprocess.run(_command("memory", arch, method), capture_output=True, text=True, check=True)
    answer = done.stdout.strip()
    return None if answer == UNKNOWN else int(answer)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pruning.measure.bench.worker", *arguments]
