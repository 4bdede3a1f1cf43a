"""An error about options that were not given on the command line names their file and their values."""

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
    """The config.yaml of a run, which holds every option."""
    file = tmp_path / "config.yaml"
    values = resolve({"weight_decay": 0.1, "runs_dir": tmp_path / "runs"}).to_dict()
    file.write_text(yaml.safe_dump(values))
    return file


@pytest.mark.parametrize(
    ("arguments", "from_file"),
    [
        (("--max-drop", "1.0"), "--schedule geometric"),
        (("--max-lr", "0.01"), "--lr 0.1"),
        (("--structure", "2:4", "--method", "layer_mag"), "--sparsity 0.9"),
        (("--finetune", "rewind", "--rewind-epoch", "11"), "--epochs 10"),
    ],
)
def test_of_two_conflicting_options_the_one_from_the_file_is_named_with_the_file(
    arguments: tuple[str, ...], from_file: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refusal(capsys, "--config", file, *arguments)
    assert f"(From {file}: {from_file}. " in message


@pytest.mark.parametrize(
    "arguments",
    [("--sparsity", "0.5", "--schedule", "until"), ("--schedule", "one_shot", "--rounds", "2")],
)
def test_the_file_is_not_named_when_the_command_line_gave_all_options_concerned(
    arguments: tuple[str, ...], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert str(file) not in refusal(capsys, "--config", file, *arguments)


def test_a_conflict_is_solved_by_the_command_line(file: Path) -> None:
    config = resolve({"max_drop": 1.0, "schedule": "until"}, file)
    assert (config.max_drop, config.sparsity, config.weight_decay) == (1.0, None, 0.1)


def test_an_error_that_needs_the_network_names_the_file_too(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {**yaml.safe_load(file.read_text()), "sparsity": None, "compression": 1e6}
    file.write_text(yaml.safe_dump(values))
    assert f"(From {file}: --compression 1000000.0. " in refusal(capsys, "--config", file)


def test_an_error_in_a_value_names_the_file_once(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("epochs: -1")
    message = refusal(capsys, "--config", file)
    assert message.startswith(f"error: {file}: --epochs -1:")
    assert message.count(str(file)) == 1
