"""An error about options that nobody typed says which file they are from."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pruning.cli.app import execute
from pruning.config.resolution import resolve


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert execute([str(argument) for argument in arguments]) == 2
    return capsys.readouterr().err


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The resolved configuration of a run, as its folder has it, in place of the options that made it."""
    file = tmp_path / "config.yaml"
    values = resolve({"weight_decay": 0.1, "runs_dir": tmp_path / "runs"}).to_dict()
    file.write_text(yaml.safe_dump(values))
    return file


def test_a_schedule_that_nobody_typed(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, "--config", file, "--max-drop", "1.0")
    assert f"leave --schedule out. (--schedule geometric: from {file}; change that there or on the" in said
    assert f"--max-drop 1.0: from {file}" not in said
    resolve({"max_drop": 1.0, "schedule": "until"}, file)  # what it says helps


@pytest.mark.parametrize(
    ("arguments", "ends"),
    [
        (("--sparsity", "0.5", "--schedule", "until"), "may be lost."),  # typed
        (("--max-lr", "0.01"), "the base. (--lr 0.1: from {file}; change that there or on the command line, which"),
        (("--schedule", "one_shot", "--rounds", "2"), "or choose geometric or linear."),
        (("--structure", "2:4", "--method", "layer_mag"), "leave --sparsity out. (--sparsity 0.9: from {file};"),
        (("--finetune", "rewind", "--rewind-epoch", "11"), "10 (--epochs). (--epochs 10: from {file};"),
    ],
)  # fmt: skip
def test_of_the_options_in_a_sentence_those_from_the_file_are_named(
    arguments: tuple[str, ...], ends: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, "--config", file, *arguments)
    assert ends.format(file=file) in said


def test_what_shows_only_with_the_network_is_told_as_well(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {**yaml.safe_load(file.read_text()), "sparsity": None, "compression": 1e6}
    file.write_text(yaml.safe_dump(values))
    said = refusal(capsys, "--config", file)
    assert "--compression 1e+06 cannot be reached" in said
    assert f"(--compression 1000000.0: from {file}" in said


def test_an_error_that_names_the_file_already_stays_as_it_is(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("epochs: -1")
    said = refusal(capsys, "--config", file)
    assert said.startswith(f"error: {file}: --epochs -1: should be")
    assert said.count(str(file)) == 1
