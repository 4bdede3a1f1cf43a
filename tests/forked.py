"""main.py in a process that starts at once: forked from one that has imported torch, but no module of the project.

Importing torch takes most of the time of a short run. A forked process can be killed and receives signals, and has its
own working folder, environment, outputs and exit code. Tests that need a start from scratch use `conftest.command`.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

MAIN = Path(__file__).parent.parent / "main.py"
IMPORTED = [
    "torch",
    "torch._dynamo",
    "numpy",
    "pydantic",
    "rich.progress",
    "typer",
    "yaml",
    "safetensors.torch",
]

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(IMPORTED)


class ForkedProcess:
    """A started main.py, with the methods of Popen. Its outputs are files, so it has no terminal."""

    def __init__(self, arguments: tuple[str, ...], cwd: Path, env: Mapping[str, str]) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._outputs = [Path(self._folder.name) / name for name in ("stdout", "stderr")]
        self._process = _server.Process(target=_run, args=(arguments, cwd, dict(env), *self._outputs))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code. Raises TimeoutExpired if the process does not end within `timeout` seconds."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("main.py", timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait until the process ends, and return what it wrote to stdout and stderr."""
        self.wait(timeout)
        stdout, stderr = (file.read_text(errors="replace") if file.exists() else "" for file in self._outputs)
        return stdout, stderr


def _run(arguments: tuple[str, ...], cwd: Path, env: Mapping[str, str], stdout: Path, stderr: Path) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.stdout, sys.stderr = (
        stdout.open("w", encoding="utf-8"),
        stderr.open("w", encoding="utf-8", buffering=1),
    )
    os.dup2(sys.stdout.fileno(), 1)
    os.dup2(sys.stderr.fileno(), 2)
    sys.argv = [str(MAIN), *arguments]
    sys.path.insert(0, str(MAIN.parent))
    runpy.run_path(str(MAIN), run_name="__main__")
