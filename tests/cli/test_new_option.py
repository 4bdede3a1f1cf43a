"""A field added to config/options.py is an option of the command line, of YAML and of the record by itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import MAIN, environment, only_run, read_result

FIELD = '    smoothing: float = Field(0.25, ge=0, le=1, description="Label smoothing of nothing.")\n'
SHORT = ["--epochs", "0", "--finetune", "none", "--rounds", "1", "--measure-seconds", "0", "--quiet"]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the program with one more field in `DenseTrainingOptions`, and nothing else changed."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copy(MAIN, folder)
    shutil.copytree(MAIN.parent / "pruning", folder / "pruning", ignore=shutil.ignore_patterns("__pycache__"))
    options = folder / "pruning" / "config" / "options.py"
    marker = "    epochs: int = Field("
    text = options.read_text()
    assert text.count(marker) == 1
    options.write_text(text.replace(marker, FIELD + marker))
    return folder


def run(copy: Path, cwd: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(copy / "main.py"), *arguments],
        cwd=cwd,
        env=environment(COLUMNS="200", PYTHONPATH=str(copy)),
        capture_output=True,
        text=True,
        check=False,
    )
    return f"{done.returncode}\n{done.stdout}{done.stderr}"


def test_a_new_option_is_in_the_help_with_its_default(copy: Path, tmp_path: Path) -> None:
    assert "--smoothing" in (shown := run(copy, tmp_path, "--help"))
    assert "Label smoothing of nothing (default: 0.25)." in shown


def test_a_new_option_is_read_from_yaml_and_written_to_the_record(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"smoothing": 0.5}))
    assert run(copy, tmp_path, *SHORT, "--config", "run.yaml").startswith("0\n")
    folder = only_run(tmp_path / "runs")
    assert read_result(folder)["config"]["smoothing"] == 0.5
    assert yaml.safe_load((folder / "config.yaml").read_text())["smoothing"] == 0.5


def test_a_new_option_of_the_command_line_is_checked_and_overrides_yaml(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"smoothing": 0.5}))
    assert "--smoothing 2: must be at most 1" in run(copy, tmp_path, "--smoothing", "2")
    output = run(copy, tmp_path, *SHORT, "--config", "run.yaml", "--smoothing", "0.75", "--name", "typed")
    assert output.startswith("0\n")
    assert read_result(tmp_path / "runs" / "typed")["config"]["smoothing"] == 0.75
