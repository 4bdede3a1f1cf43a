"""The commands that the README shows for a run do what they say as they stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from conftest import SilentObserver

from pruning.config.resolution import resolve
from pruning.experiment.setup import prepare

ROOT = Path(__file__).parents[2]
NEEDS_MORE = ("DIR", "NAME", "FILE", "path/to", "my_scores.py", "--help")
RUNS = [
    line.partition("#")[0].strip()
    for line in (ROOT / "README.md").read_text().splitlines()
    if line.startswith("python main.py --") and not any(word in line for word in NEEDS_MORE)
]


@pytest.mark.parametrize("command", RUNS)
def test_a_run_of_the_readme_makes_an_experiment(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    words = shlex.split(command)[2:]
    options = {
        name.removeprefix("--").replace("-", "_"): value
        for name, value in zip(words[::2], words[1::2], strict=True)
    }
    file = options.pop("config", None)
    session = prepare(resolve({**options, "runs_dir": tmp_path}, file and Path(file)), SilentObserver())
    assert session.prunings


def test_there_are_such_commands() -> None:
    said = "\n".join(RUNS)
    assert len(RUNS) > 5
    for option in ("--sparsity", "--structure", "--max-drop", "--schedule gradual", "--layer-sparsity"):
        assert re.search(option, said)
