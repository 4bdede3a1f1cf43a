"""Shared code of the tests of refused input: a case, and the check that it is refused and changes nothing."""

from __future__ import annotations

import functools
import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning.cli.app import execute

SHORT = ("--epochs", "0", "--finetune", "none", "--rounds", "1", "--quiet", "--measure-seconds", "0")

NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.inner = nn.Linear(784, 20)
        self.outer = nn.Linear(20, classes)

    def forward(self, images):
        return self.outer(self.inner(images.flatten(1)).relu())


"""


def net(code: str) -> dict[str, str]:
    return {"net.py": NET + code}


@dataclass(frozen=True)
class Case:
    """A command line, what its error must mention, and files to create first.

    A file whose content is None is a folder to create, or a file of the finished run `runs/done` to delete.
    """

    arguments: tuple[str, ...]
    mentions: tuple[str, ...]
    files: Mapping[str, bytes | str | None] = field(default_factory=dict)


def case(*arguments: str, mentions: str | tuple[str, ...], files: Mapping[str, Any] | None = None) -> Case:
    return Case(arguments, (mentions,) if isinstance(mentions, str) else mentions, files or {})


def assert_refused(
    bad: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run the command next to a finished run: one line on stderr, exit code 2, no file created or changed."""
    place = tmp_path / "place"
    shutil.copytree(finished_runs(), place / "runs")
    create(bad.files, place)
    before = listing(place)
    monkeypatch.chdir(place)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    capsys.readouterr()
    code = execute(list(bad.arguments))
    message = capsys.readouterr().err
    assert code == 2, message
    assert listing(place) == before
    assert message.startswith("error: ")
    assert message.count("\n") == 1, message
    for words in bad.mentions:
        assert words in message


@functools.cache
def finished_runs() -> Path:
    """A folder of runs with one finished run, `done`; made once per process."""
    folder = tempfile.TemporaryDirectory()
    _folders.append(folder)
    runs = Path(folder.name) / "runs"
    assert execute([*SHORT, "--runs-dir", str(runs), "--name", "done"]) == 0
    torch.set_flush_denormal(False)
    return runs


_folders: list[tempfile.TemporaryDirectory[str]] = []  # deleted when the process ends


def create(files: Mapping[str, bytes | str | None], folder: Path) -> None:
    for name, content in files.items():
        path = folder / name
        if content is None and path.exists():
            path.unlink()
        elif content is None:
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)


def listing(folder: Path) -> dict[str, str]:
    """Everything in a folder, with the digests of files."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
        if "__pycache__" not in path.parts
    }
