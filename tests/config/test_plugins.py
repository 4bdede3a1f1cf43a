"""Plugins: a file with the user's own scores is loaded, listed and recorded by its contents; a wrong one is refused."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Cli, SilentObserver, StoppingObserver, events, only_run, read_result, small_mnist

from pruning.config.resolution import resolve
from pruning.errors import InterruptedRunError, PruningError
from pruning.experiment import records
from pruning.experiment.run_files import RunFolder
from pruning.experiment.runner import run
from pruning.experiment.verification import verify
from pruning.registry import SCORES

OWN = '''
from pruning.registry import SCORES


@SCORES.register("signed", source="mine")
def signed(weights):
    """w: negative weights are removed first"""
    return weights.value
'''


@pytest.fixture(autouse=True)
def unregister_plugin() -> Iterator[None]:
    """Remove the plugin's score from this process, so that other tests do not list it."""
    yield
    with contextlib.suppress(KeyError):
        SCORES.unregister("signed")


def test_a_score_from_a_plugin_prunes_and_is_listed(cli: Cli, tmp_path: Path) -> None:
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
    assert "w: negative weights are removed first" in listed
    assert "mine" in listed


OWN_STATISTIC = '''
import torch

from pruning.core.statistics.gradients import gradients
from pruning.registry import SCORES, STATISTICS


@STATISTICS.register("gradient noise")
def gradient_noise(model, layers, batches, loss):
    per_batch = [gradients(model, layers, [batch], loss) for batch in batches]
    return {layer.name: torch.stack([one[layer.name] for one in per_batch]).std(0) for layer in layers}


@SCORES.register("noise", statistics=("gradient noise",), elementwise=True, source="mine")
def noise(weights):
    """abs(w) x the standard deviation of dL/dw over the batches"""
    return weights.value.abs() * weights["gradient noise"]
'''


def test_a_plugin_registers_a_score_and_its_statistic_and_imports_one_of_the_program(
    cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "my_scores.py").write_text(OWN_STATISTIC)
    done = cli("--dry-run", "--plugin", "my_scores.py", "--method", "layer_noise", "--measure-seconds", "0")
    assert done.returncode == 0, done.stderr
    assert len(read_result(only_run(tmp_path / "runs"))["rounds"]) == 3
    listed = cli("list", "scores", "--plugin", "my_scores.py").stdout
    assert any(line.startswith("noise ") and "gradient noise" in line for line in listed.splitlines())


def test_plugins_with_different_contents_make_different_runs(cli: Cli, tmp_path: Path) -> None:
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
        (None, "--plugin 'my_scores.py'"),
        ("def (", "--plugin my_scores.py, line 1: SyntaxError"),
        ("\n1 / 0", "--plugin my_scores.py, line 2: ZeroDivisionError: division by zero"),
        ("x = 1", "--plugin my_scores.py"),
        (OWN.replace('"signed"', '"mag"'), "score 'mag'"),
        (
            OWN.replace("weights.value", "weights.value.sum()"),
            "float32",
        ),
        (
            OWN.replace('source="mine"', 'statistics=("gradients",)'),
            "'gradients'",
        ),
    ],
)
def test_a_wrong_plugin_is_refused_in_one_line(
    text: str | None, message: str, cli: Cli, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "my_scores.py").write_text(text)
    done = cli("--dry-run", "--plugin", "my_scores.py", "--method", "global_signed")
    assert done.returncode == 2
    (error,) = (line for line in done.stderr.splitlines() if not line.startswith("warning: "))
    assert error.startswith("error: ")
    assert message in error


def test_a_record_belongs_to_the_contents_of_its_plugin(tmp_path: Path) -> None:
    """With other contents it is neither shown as the result nor verified."""
    plugin = tmp_path / "my_scores.py"
    plugin.write_text(OWN)
    options = {"epochs": 0, "finetune": "none", "rounds": 1, "measure_seconds": 0, "name": "run"}
    own = {**options, "runs_dir": tmp_path, "plugin": plugin, "method": "global_signed"}
    run(resolve(own), SilentObserver())
    folder = RunFolder(tmp_path / "run")
    assert all(check.agrees for check in verify(folder, SilentObserver()))
    assert records.finished(resolve(own)) is not None
    plugin.write_text(OWN.replace("weights.value", "-weights.value"))
    with pytest.raises(PruningError, match=f"--plugin {plugin}"):
        records.finished(resolve(own))
    assert [check.what for check in verify(folder, SilentObserver()) if not check.agrees] == ["files given"]


def test_a_run_is_not_resumed_with_other_contents(tmp_path: Path) -> None:
    plugin = tmp_path / "my_scores.py"
    plugin.write_text(OWN)
    images = small_mnist(tmp_path / ".images", train=100, test=20)
    options = {"dataset": "mnist", "data": images, "epochs": 0, "finetune_epochs": 1, "name": "run"}
    own = {**options, "measure_seconds": 0, "runs_dir": tmp_path, "plugin": plugin, "method": "global_signed"}
    stopped = StoppingObserver(8)
    with pytest.raises(InterruptedRunError):
        run(resolve(own), stopped)
    assert any(event["event"] == "pruning" for event in events(tmp_path / "run"))
    plugin.write_text(OWN.replace("weights.value", "-weights.value"))
    with pytest.raises(PruningError, match="plugin"):
        run(resolve(own), SilentObserver())
    plugin.write_text(OWN)
    run(resolve(own), SilentObserver())
