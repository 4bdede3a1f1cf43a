"""Plans: shared work, dependencies, cost and shards."""

from __future__ import annotations

from pathlib import Path

import pytest
from sweep_files import GRIDS, RUNS_DIR, TRAJECTORIES, planned

from pruning.cli.app import execute
from pruning.sweep.grid import expand_grid, read_grid
from pruning.sweep.plan import Cost, cost_with_sharing, cost_without_sharing, count_trajectories


def test_shared_rounds_and_dense_trainings_cost_once(tmp_path: Path) -> None:
    runs = planned(tmp_path, TRAJECTORIES).runs
    assert count_trajectories(runs) == 4
    # Without sharing, each trajectory computes 3 + 2 + 1 rounds; with sharing 3.
    assert cost_without_sharing(runs) == Cost(runs=12, dense_trainings=12, rounds=24, epochs=12 * 2 + 24 * 3)
    assert cost_with_sharing(runs) == Cost(runs=12, dense_trainings=2, rounds=12, epochs=2 * 2 + 12 * 3)
    assert all(run.config.share_rounds for run in runs)


def test_a_run_depends_on_the_runs_whose_rounds_it_reuses(tmp_path: Path) -> None:
    runs = planned(tmp_path, TRAJECTORIES).runs
    by_name = {run.name: run for run in runs}
    assert [run.config.rounds for run in runs] == [1] * 4 + [2] * 4 + [3] * 4
    for run in runs:
        earlier = [by_name[name].config for name in run.depends_on]
        assert sorted(config.rounds for config in earlier) == list(range(1, run.config.rounds))
        assert {(config.method, config.seed) for config in earlier} <= {(run.config.method, run.config.seed)}


def test_runs_with_different_targets_in_the_first_round_share_no_rounds(tmp_path: Path) -> None:
    values = {"options": {"epochs": 0}, "grid": {"sparsity": [0.5, 0.9], "rounds": [1, 2]}}
    runs = planned(tmp_path, values).runs
    assert count_trajectories(runs) == 4
    assert cost_with_sharing(runs) == Cost(runs=4, dense_trainings=0, rounds=6, epochs=6 * 3)
    assert not any(run.depends_on or run.config.share_rounds for run in runs)


def test_max_drop_and_gradual_runs_share_only_the_dense_training(tmp_path: Path) -> None:
    values = {
        "options": {"epochs": 1},
        "grid": {"sparsity": [{"sparsity": 0.5, "schedule": "gradual"}, {"sparsity": None, "max_drop": 1}]},
    }
    runs = planned(tmp_path, values).runs
    assert cost_with_sharing(runs).dense_trainings == 1
    assert not any(run.depends_on or run.config.share_rounds for run in runs)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shards_are_a_partition_that_splits_no_trajectory(count: int, tmp_path: Path) -> None:
    whole = planned(tmp_path, TRAJECTORIES)
    shards = [{run.name for run in whole.shard(number, count).runs} for number in range(1, count + 1)]
    assert sorted(name for shard in shards for name in shard) == sorted(run.name for run in whole.runs)
    for shard in shards:
        for run in whole.runs:
            assert not run.depends_on or (run.name in shard) == (run.depends_on <= shard)
    runs_of_a_trajectory = 3
    assert max(map(len, shards)) - min(map(len, shards)) <= runs_of_a_trajectory


@pytest.mark.parametrize("file", GRIDS, ids=lambda file: file.stem)
def test_every_shipped_grid_can_be_planned_and_planning_writes_nothing(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert execute(["sweep", str(file), "--plan"]) == 0
    output = capsys.readouterr().out
    assert f"{len(expand_grid(read_grid(file), RUNS_DIR))} runs; 0 finished" in output
    assert not list(tmp_path.iterdir())
