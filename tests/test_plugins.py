"""Scores of one's own, from a file: named on the command line, listed, and refused in one sentence when they fail."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Cli, only_run, read_result

OWN = '''
from pruning.registry import SCORES


@SCORES.register("signed", source="mine")
def signed(weights):
    """w: negative weights go first"""
    return weights.value
'''


def test_a_score_of_ones_own_prunes_and_is_listed(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "my_scores.py").write_text(OWN)
    arguments = (
        "--epochs",
        "0",
        "--finetune",
        "none",
        "--rounds",
        "1",
        "--sparsity",
        "0.3",
        "--measure-seconds",
        "0",
    )
    done = cli(*arguments, "--plugin", "my_scores.py", "--method", "global_signed")
    assert done.returncode == 0, done.stderr
    result = read_result(only_run(tmp_path / "runs"))
    assert result["final"]["sparsity"] == pytest.approx(0.3, abs=1e-4)
    listed = cli("list", "--plugin", "my_scores.py").stdout
    for method in ("global_signed", "layer_signed", "erk_signed"):
        assert f"{method} " in listed
    assert "w: negative weights go first" in listed
    assert "mine" in listed


def test_another_content_is_another_run(cli: Cli, tmp_path: Path) -> None:
    arguments = (
        "--dry-run",
        "--rounds",
        "1",
        "--plugin",
        "my_scores.py",
        "--method",
        "global_signed",
        "--measure-seconds",
        "0",
    )
    for text in (OWN, OWN.replace("weights.value", "-weights.value")):
        (tmp_path / "my_scores.py").write_text(text)
        assert cli(*arguments).returncode == 0
    assert len([path for path in (tmp_path / "runs").iterdir() if not path.name.startswith(".")]) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "--plugin my_scores.py: cannot be read"),
        ("def (", "--plugin my_scores.py, line 1: SyntaxError"),
        ("\n1 / 0", "--plugin my_scores.py, line 2: ZeroDivisionError: division by zero"),
        ("x = 1", "registers nothing"),
        (OWN.replace('"signed"', '"mag"'), "there is a score 'mag' already"),
        (
            OWN.replace("weights.value", "weights.value.sum()"),
            "must give a float32 tensor of the weights' shape",
        ),
        (
            OWN.replace('source="mine"', 'needs=["gradients"]'),
            "need of a score 'gradients'. Did you mean gradient",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    text: str | None, message: str, cli: Cli, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "my_scores.py").write_text(text)
    done = cli("--dry-run", "--plugin", "my_scores.py", "--method", "global_signed")
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
