"""The command line: options, output to files and terminals, exit codes."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from pathlib import Path

import pytest
from conftest import Cli, command, environment, only_run, read_result

QUICK = ("--dry-run", "--epochs", "1", "--finetune-epochs", "1", "--rounds", "1", "--measure-seconds", "0")


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (["--epocs", "3"], "--epochs"),
        (["--arch", "resnet2O"], "resnet20"),
        (["lst"], "list"),
        (["list", "method"], "methods"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(arguments: list[str], nearest: str, cli: Cli) -> None:
    done = cli(*arguments)
    assert done.returncode == 2
    assert re.search(rf"(Did you mean|Possible options:).*{re.escape(nearest)}", done.stderr)
    assert "Traceback" not in done.stderr


def test_the_options_of_the_teaching_program_are_accepted(cli: Cli, tmp_path: Path) -> None:
    arguments = (
        "--epochs 1 --lr 0.05 --max_lr 0.1 --log-interval 10 --arch my --weight-decay 0 --batch-size 64 "
        "--test-batch-size 500 --seed 3 --no-pretrained --dry-run --save-model --save_path kept.pt --measure-seconds 0"
    )
    done = cli(*arguments.split())
    assert done.returncode == 0, done.stderr
    config = read_result(only_run(tmp_path / "runs"))["config"]
    assert (config["max_lr"], config["weight_decay"], config["pretrained"]) == (0.1, 0, False)
    assert (tmp_path / "kept.pt").exists()


def test_a_dry_run_has_every_round_and_warns_that_its_metrics_are_meaningless(
    cli: Cli, tmp_path: Path
) -> None:
    done = cli("--dry-run", "--method", "global_grad")
    assert done.returncode == 0, done.stderr
    result = read_result(only_run(tmp_path / "runs"))
    assert len(result["rounds"]) == 3
    assert "Dry run" in done.stderr
    assert any("Dry run" in warning for warning in result["warnings"])


def test_output_to_a_file_has_no_control_characters(cli: Cli) -> None:
    done = cli(*QUICK)
    assert done.returncode == 0, done.stderr
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.stdout + done.stderr)
    for wanted in ("loss", "validation", "round 1", "dense against pruned", "fc1.weight", "result.json"):
        assert wanted in done.stdout


def _on_a_terminal(arguments: list[str], cwd: Path, **env: str) -> str:
    """Return the output of main.py on a new terminal."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        command(*arguments),
        cwd=cwd,
        env=environment(TERM="xterm-256color", **env),
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    written = b""
    while True:
        try:
            piece = os.read(controller, 65536)
        except OSError:  # the other end of the terminal is closed
            break
        if not piece:
            break
        written += piece
    os.close(controller)
    assert process.wait(timeout=60) == 0, written.decode()
    return written.decode()


def test_a_terminal_shows_colours_and_a_progress_bar(tmp_path: Path) -> None:
    written = _on_a_terminal([*QUICK], tmp_path)
    assert "\x1b[1m" in written
    assert "whole run" in written


def test_no_color_switches_colours_off_on_a_terminal(tmp_path: Path) -> None:
    written = _on_a_terminal([*QUICK], tmp_path, NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", written)


def test_a_quiet_run_prints_warnings_only(cli: Cli) -> None:
    done = cli(*QUICK, "--quiet", "--method", "layer_mag", "--count", "5000")
    assert done.returncode == 0
    assert done.stdout == ""
    assert "warning: conv1.weight " in done.stderr


def test_options_of_a_run_before_another_command_are_refused(cli: Cli) -> None:
    done = cli("--epochs", "1", "list")
    assert done.returncode == 2
    assert "list" in done.stderr


def test_a_closed_pipe_causes_no_traceback(tmp_path: Path) -> None:
    line = f"{' '.join(command('list'))} | head -n 1"
    done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
