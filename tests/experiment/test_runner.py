"""Running the same command again: shown, repeated bit-identically, or refused if it is another run."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import SHORT_RUN, Cli, fork, only_run, read_result, reproducible_result

SMALL_RUN = (*SHORT_RUN, "--epochs", "1", "--rounds", "1", "--batch-size", "512", "--quiet")
UNTRAINED = ("--epochs", "0", "--finetune", "none", "--measure-seconds", "0", "--name", "mine")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small run; the tests only read it."""
    folder = tmp_path_factory.mktemp("run")
    process = fork(*SMALL_RUN, cwd=folder)
    outputs = process.communicate(timeout=120)
    assert process.returncode == 0, outputs
    return only_run(folder / "runs")


def test_the_same_command_shows_the_finished_run_and_writes_nothing(run: Path, cli: Cli) -> None:
    before = {file: file.stat().st_mtime_ns for file in run.iterdir()}
    done = cli(*SMALL_RUN, "--no-quiet", "--runs-dir", run.parent)
    assert done.returncode == 0
    assert "--fresh" in done.stdout + done.stderr
    assert {file: file.stat().st_mtime_ns for file in run.iterdir()} == before


def test_the_saved_configuration_names_the_same_finished_run(run: Path, cli: Cli) -> None:
    before = (run / "result.json").stat().st_mtime_ns
    done = cli("--config", run / "config.yaml", "--no-quiet", "--runs-dir", run.parent)
    assert done.returncode == 0, done.stderr
    assert "--fresh" in done.stdout + done.stderr
    assert (run / "result.json").stat().st_mtime_ns == before


def test_a_fresh_run_gives_the_same_bits_with_and_without_a_cache(
    run: Path, cli: Cli, tmp_path: Path
) -> None:
    for _ in range(2):
        done = cli(*SMALL_RUN, "--fresh")
        assert done.returncode == 0, done.stderr
        assert reproducible_result(only_run(tmp_path / "runs")) == reproducible_result(run)


def test_another_seed_gives_other_weights(run: Path, cli: Cli, tmp_path: Path) -> None:
    assert cli(*SMALL_RUN, "--seed", "1").returncode == 0
    weights = [(folder / "model.safetensors").read_bytes() for folder in (only_run(tmp_path / "runs"), run)]
    assert weights[0] != weights[1]


def test_a_name_of_another_run_is_refused_with_the_option_that_differs(cli: Cli, tmp_path: Path) -> None:
    assert cli(*UNTRAINED, "--quiet").returncode == 0
    before = (tmp_path / "runs/mine/result.json").read_bytes()
    done = cli(*UNTRAINED, "--lr", "0.05")
    assert done.returncode == 2
    assert "--lr was 0.1, now 0.05" in done.stderr
    assert (tmp_path / "runs/mine/result.json").read_bytes() == before


def test_methods_with_one_seed_share_the_dense_training(cli: Cli, tmp_path: Path) -> None:
    for method in ("global_mag", "random"):
        assert cli(*SMALL_RUN, "--method", method).returncode == 0
    assert len(list((tmp_path / "runs/.dense").iterdir())) == 1
    folders = [path for path in (tmp_path / "runs").iterdir() if not path.name.startswith(".")]
    first, second = (read_result(folder) for folder in folders)
    assert first["dense"] == second["dense"]
