"""Sweeps: the language of grids, what is refused, what runs share, and processes that fail, are stopped, or meet."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Silent, events, outcome
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.cli.app import execute
from pruning.config.resolution import resolve
from pruning.errors import PruningError
from pruning.experiment.run_files import EventLog
from pruning.experiment.runner import run as experiment
from pruning.sweep import grid, plan, progress, slots, summary
from pruning.sweep.plan import Plan, Run
from pruning.sweep.slots import Slots
from pruning.sweep.work import SweepState, work
from pruning.utils.file_locks import claim

RUNS = Path("runs")
CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
GRIDS = [file for file in CONFIGS if "grid" in yaml.safe_load(file.read_text())]


def write(place: Path, values: Mapping[str, Any] | str) -> Path:
    file = place / "grid.yaml"
    file.write_text(values if isinstance(values, str) else yaml.safe_dump(values, sort_keys=False))
    return file


def chosen(place: Path, values: Mapping[str, Any] | str, *more: str) -> list[grid.Chosen]:
    return grid.runs(grid.read(write(place, values), more), RUNS)


def planned(place: Path, values: Mapping[str, Any] | str) -> Plan:
    return plan.make(chosen(place, values))


# --- the language -------------------------------------------------------------------------------------------------

AXES = {
    "method": ["global_mag", "layer_mag", "random", "global_grad"],
    "sparsity": [0.5, 0.75, 0.9],
    "seed": [0, 1, 2, 3],
    "finetune_epochs": [0, 1],
}


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_the_runs_are_the_product_less_the_exclusions(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(AXES)), min_size=1, unique=True))
    axes = {name: data.draw(st.lists(st.sampled_from(AXES[name]), min_size=1, unique=True)) for name in names}
    every = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    patterns = [
        {name: one[name] for name in data.draw(st.sets(st.sampled_from(names), min_size=1))}
        for one in data.draw(st.lists(st.sampled_from(every), max_size=2))
    ]
    left = [one for one in every if not any(pattern.items() <= one.items() for pattern in patterns)]
    values = {"options": {"epochs": 0}, "grid": axes, "exclude": patterns}
    place = tmp_path_factory.getbasetemp()
    if not left:
        with pytest.raises(PruningError, match="leaves 0 of"):
            chosen(place, values)
        return
    found = [{name: getattr(one.config, name) for name in axes} for one in chosen(place, values)]
    assert found == left


def test_a_value_can_bring_other_options_with_it(tmp_path: Path) -> None:
    values = {"grid": {"compression": [{"rounds": 1, "compression": 2}, {"rounds": 2, "compression": 4}]}}
    found = chosen(tmp_path, values)
    assert [(one.config.compression, one.config.rounds) for one in found] == [(2, 1), (4, 2)]
    assert [grid.words(one.choices) for one in found] == ["compression 2", "compression 4"]


def test_an_override_changes_some_of_the_runs(tmp_path: Path) -> None:
    values = {
        "options": {"finetune_epochs": 1},
        "grid": {"sparsity": [0.5, 0.9, 0.95], "seed": [0, 1]},
        "override": [{"when": {"sparsity": [0.9, 0.95], "seed": 1}, "set": {"finetune_epochs": 5}}],
    }
    epochs = [one.config.finetune_epochs for one in chosen(tmp_path, values)]
    assert epochs == [1, 1, 1, 5, 1, 5]


def test_the_command_line_goes_before_the_files_options(tmp_path: Path) -> None:
    values = {"options": {"epochs": 3}, "grid": {"seed": [0]}}
    (one,) = chosen(tmp_path, values, "epochs=7", "test-batch-size=50")
    assert (one.config.epochs, one.config.test_batch_size) == (7, 50)


SEEDS = {"seed": [0, 1]}
REFUSED: dict[str, tuple[Mapping[str, Any] | str, str]] = {
    "no grid": ({"options": {"arch": "my"}}, "there is no grid, so 0 runs"),
    "an empty grid": ({"grid": {}}, "so 0 runs"),
    "a single run's file": ({"arch": "my", "epochs": 1}, "'arch' is no part of a grid.*for --config"),
    "a misspelt part": ({"grid": SEEDS, "exlude": []}, "'exlude' is no part of a grid"),
    "no list": ({"grid": {"seed": 3}}, r"grid: seed is 3, not a list; write `seed: \[...\]`"),
    "an empty list": ({"grid": {"seed": []}}, "grid: seed has no values, so 0 runs"),
    "a misspelt option": (
        {"options": {"epcohs": 1}, "grid": SEEDS},
        "options: Unknown option 'epcohs'.*epochs",
    ),
    "a misspelt axis": ({"grid": {"sead": [0]}}, "grid: Unknown option 'sead'. Did you mean seed"),
    "a misspelt value": (
        {"grid": {"method": ["globl_mag"]}},
        "with method globl_mag: Unknown method.*global_mag",
    ),
    "a value that cannot be": ({"grid": {"sparsity": [0.5, 1.5]}}, "with sparsity 1.5: --sparsity 1.5"),
    "two amounts": (
        {"options": {"sparsity": 0.5}, "grid": {"compression": [2]}},
        "with compression 2: --sparsity and --compression both",
    ),
    "an option given twice": ({"options": {"seed": 1}, "grid": SEEDS}, "seed is in both options and grid"),
    "an option varied twice": (
        {"grid": {"rounds": [1, 2], "sparsity": [{"sparsity": 0.5, "rounds": 1}]}},
        "rounds and sparsity both set rounds",
    ),
    "a mapping beside the point": (
        {"grid": {"sparsity": [{"rounds": 1, "compression": 2}]}},
        "does not say which sparsity it is for",
    ),
    "whether to share": (
        {"options": {"share_rounds": False}, "grid": SEEDS},
        "share_rounds has no place in a grid: a sweep shares whatever",
    ),
    "a name for all": ({"options": {"name": "x"}, "grid": SEEDS}, "name has no place in a grid"),
    "the same run twice": ({"grid": {"seed": [1, 1]}}, "seed 1 twice are the same run"),
    "the same run in two spellings": (
        {"grid": {"method": ["random", "global_mag"], "seed": [0, 0.0]}},
        "seed 0 and .*seed 0.0 are the same run",
    ),
    "an exclusion of everything": ({"grid": SEEDS, "exclude": [{"seed": [0, 1]}]}, "leaves 0 of 2 runs"),
    "an exclusion of nothing": ({"grid": SEEDS, "exclude": [{"seed": 7}]}, "exclude 1: no run has seed 7"),
    "an exclusion by what is not there": ({"grid": SEEDS, "exclude": [{"lr": 1}]}, "lr is in neither"),
    "an exclusion that names nothing": ({"grid": SEEDS, "exclude": [{}]}, "names no option"),
    "an override without when": ({"grid": SEEDS, "override": [{"set": {"lr": 1}}]}, "write `when"),
    "an override of nothing": (
        {"grid": SEEDS, "override": [{"when": {"seed": 9}, "set": {"lr": 1}}]},
        "override 1: no run has seed 9",
    ),
    "too many runs": ({"grid": {"seed": list(range(300)), "epochs": list(range(1, 301))}}, "90,000 runs"),
    "text": ("only words", "holds no options"),
    "an unreachable compression": (
        {"options": {"epochs": 0}, "grid": {"compression": [4, 64]}},
        "the run with compression 64: --compression 64 cannot be reached",
    ),
    "weights that nobody published": (
        {"options": {"pretrained": True}, "grid": SEEDS},
        "no published weights of my",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_sweep_is_refused_before_anything_starts(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    values, says = REFUSED[case]
    write(tmp_path, values)
    assert execute(["sweep", "grid.yaml"]) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(f"error: grid.yaml: .*{says}.*\n", said), said
    assert [path.name for path in tmp_path.iterdir()] == ["grid.yaml"]


CALLS = {
    "a shard of none": (["--shard", "0/2"], "--shard 0/2"),
    "a shard beyond the last": (["--shard", "3/2"], "--shard 3/2"),
    "no jobs": (["--jobs", "0"], "--jobs 0 lets nothing run"),
    "a setting without a value": (["--set", "epochs"], "--set epochs: write an option and its value"),
    "a misspelt setting": (["--set", "epcohs=1"], "--set epcohs=1: Unknown option"),
    "a setting of what varies": (["--set", "seed=1"], "seed is varied by the grid"),
    "GPUs for a run on the processor": (
        ["--gpus", "0", "--set", "device=cpu"],
        "--gpus 0: there is no GPU for these runs",
    ),
    "jobs on no GPU": (["--jobs-per-gpu", "2", "--set", "device=cpu"], "there is no GPU for these runs"),
}


@pytest.mark.parametrize("case", CALLS)
def test_a_call_that_cannot_be_is_refused(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {"grid": SEEDS})
    arguments, says = CALLS[case]
    assert execute(["sweep", "grid.yaml", "--plan", *arguments]) == 2
    assert says in capsys.readouterr().err


# --- the plan -----------------------------------------------------------------------------------------------------

TRAJECTORIES = {
    "options": {"epochs": 2, "finetune_epochs": 3, "prune_classifier": True},
    "grid": {
        "method": ["global_mag", "random"],
        "compression": [{"compression": 2**rounds, "rounds": rounds} for rounds in (3, 2, 1)],
        "seed": [0, 1],
    },
}


def test_what_runs_share_is_counted_once(tmp_path: Path) -> None:
    runs = planned(tmp_path, TRAJECTORIES).runs
    # 2 methods x 2 seeds are 4 trajectories of 3 rounds; alone each has 3 + 2 + 1 rounds.
    assert plan.trajectories(runs) == 4
    assert plan.costs_alone(runs) == plan.Costs(
        runs=12, dense_trainings=12, rounds=24, epochs=12 * 2 + 24 * 3
    )
    assert plan.costs_shared(runs) == plan.Costs(runs=12, dense_trainings=2, rounds=12, epochs=2 * 2 + 12 * 3)
    assert all(run.config.share_rounds for run in runs)


def test_a_run_comes_after_those_whose_rounds_it_takes_over(tmp_path: Path) -> None:
    runs = planned(tmp_path, TRAJECTORIES).runs
    by_name = {run.name: run for run in runs}
    assert [run.config.rounds for run in runs] == [1] * 4 + [2] * 4 + [3] * 4
    for run in runs:
        before = [by_name[name] for name in run.after]
        assert sorted(other.config.rounds for other in before) == list(range(1, run.config.rounds))
        assert all((o.config.method, o.config.seed) == (run.config.method, run.config.seed) for o in before)


def test_runs_that_only_look_alike_share_no_rounds(tmp_path: Path) -> None:
    values = {"options": {"epochs": 0}, "grid": {"sparsity": [0.5, 0.9], "rounds": [1, 2]}}
    runs = planned(tmp_path, values).runs
    assert plan.trajectories(runs) == 4
    assert plan.costs_shared(runs) == plan.Costs(runs=4, dense_trainings=0, rounds=6, epochs=6 * 3)
    assert not any(run.after or run.config.share_rounds for run in runs)


def test_searches_and_gradual_prunings_share_only_the_dense_training(tmp_path: Path) -> None:
    values = {
        "options": {"epochs": 1},
        "grid": {"sparsity": [{"sparsity": 0.5, "schedule": "gradual"}, {"sparsity": None, "max_drop": 1}]},
    }
    runs = planned(tmp_path, values).runs
    assert plan.costs_shared(runs).dense_trainings == 1
    assert not any(run.after or run.config.share_rounds for run in runs)


@pytest.mark.parametrize("of", [1, 2, 3, 5])
def test_shards_are_a_partition_into_whole_trajectories(of: int, tmp_path: Path) -> None:
    whole = planned(tmp_path, TRAJECTORIES)
    parts = [{run.name for run in whole.shard(number, of).runs} for number in range(1, of + 1)]
    assert sorted(name for part in parts for name in part) == sorted(run.name for run in whole.runs)
    for part in parts:
        for run in whole.runs:
            assert not run.after or (run.name in part) == (run.after <= part)
    assert max(map(len, parts)) - min(map(len, parts)) <= 3  # a trajectory


@pytest.mark.parametrize("file", GRIDS, ids=lambda file: file.stem)
def test_every_ready_grid_is_of_the_same_runs_whatever_the_machine(file: Path) -> None:
    assert all(chosen.config.threads for chosen in grid.runs(grid.read(file), RUNS))


@pytest.mark.parametrize("file", GRIDS, ids=lambda file: file.stem)
def test_every_ready_grid_has_a_plan(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert execute(["sweep", str(file), "--plan"]) == 0
    said = capsys.readouterr().out
    assert f"{len(grid.runs(grid.read(file), RUNS))} runs; 0 finished" in said
    assert "how long it takes is not known" in said
    assert not list(tmp_path.iterdir())


# --- slots, progress, summary -------------------------------------------------------------------------------------


def test_the_cores_are_divided_among_the_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "cores", lambda: 8)

    def choose(visible: tuple[str, ...] = (), **more: Any) -> tuple[tuple[str | None, ...], int]:
        calls = {name: more.pop(name, None) for name in ("jobs", "gpus", "jobs_per_gpu")}
        found = slots.choose([resolve(more)], visible=visible, **calls)
        return found.gpus, found.threads

    assert choose() == ((None,) * 8, 1)
    assert choose(jobs=3) == ((None,) * 3, 2)
    assert choose(threads=4) == ((None,) * 2, 4)
    four = ("0", "1", "2", "3")
    assert choose(four) == (four, 1)
    assert choose(four, gpus="0,3", jobs_per_gpu=2) == (("0", "3", "0", "3"), 1)
    assert choose(four, device="cpu", jobs=1) == ((None,), 8)
    refused: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [
        ("--jobs 2 is for the processor", four, {"jobs": 2}),
        ("--gpus 0,0: name GPUs once each", four, {"gpus": "0,0"}),
        ("--gpus 4: .* here are 0,1,2,3", four, {"gpus": "4"}),
        ("--gpus 0: there is no GPU", (), {"gpus": "0"}),
        ("device cuda:1: a sweep hands out the GPUs", four, {"device": "cuda:1"}),
        ("device cuda: PyTorch sees no GPU", (), {"device": "cuda"}),
    ]
    for says, visible, given_ in refused:
        with pytest.raises(PruningError, match=says):
            choose(visible, **given_)


def test_how_far_a_run_is_is_read_from_the_end_of_its_log() -> None:
    config = resolve({"epochs": 4, "rounds": 2, "finetune_epochs": 3})  # 10 epochs in all

    def fraction(*events: Mapping[str, Any]) -> float:
        return progress.position(config, events).fraction

    batch = {"event": "batch", "epoch": 3, "batch": 5, "batches": 10}
    assert fraction() == 0
    assert fraction({"event": "start"}, {**batch, "phase": "dense"}, {"event": "warning"}) == pytest.approx(
        0.25
    )
    assert fraction({"event": "dense", "cached": True}) == pytest.approx(0.4)
    assert fraction({**batch, "phase": "finetune", "round": 2}) == pytest.approx(0.95)
    assert fraction({"event": "round", "round": 1}) == pytest.approx(0.7)
    assert fraction({"event": "shared", "rounds": 1}) == pytest.approx(0.7)
    assert fraction({"event": "result"}) == 1
    # rewind_lr counts epochs 2 to 4 of the dense training in each round; with none there is nothing but rounds
    config = resolve({"epochs": 4, "rounds": 2, "finetune": "rewind_lr"})
    assert fraction({**batch, "phase": "finetune", "round": 1}) == pytest.approx((4 + 1.5) / 10)
    assert fraction({"event": "scoring", "round": 2}) == pytest.approx((4 + 3) / 10)
    config = resolve({"epochs": 4, "rounds": 2, "finetune": "none"})
    assert fraction({"event": "round", "round": 1}) == pytest.approx((4 + 1) / 6)


def test_the_time_left_follows_the_runs_that_are_done() -> None:
    assert progress.seconds_left([], [(1, 1.0)], 2) is None
    line = [(0, 5.0), (10, 25.0)]  # 5 s, and 2 s an epoch
    assert progress.seconds_left(line, [(4, 1.0), (4, 0.5)], 1) == pytest.approx(13 + 6.5)
    assert progress.seconds_left(line, [(4, 1.0), (4, 1.0)], 4) == pytest.approx(13)
    assert progress.seconds_left([(3, 7.0), (3, 9.0)], [(3, 1.0)], 1) == pytest.approx(8)


def test_the_summary_has_mean_and_deviation_over_seeds(tmp_path: Path) -> None:
    runs = planned(tmp_path, TRAJECTORIES).runs
    done = {
        run.name: {"final": {"top1": 80.0 + run.config.seed}, "dense": {"top1": 90.0}}
        for run in runs
        if run.config.rounds < 3 and run.config.method == "random"
    }
    table = summary.table(runs, done)
    assert table.title.startswith("top-1 (percent) by compression")
    assert table.columns == ["method", "dense", "2", "4"]
    assert table.rows == [["random", "90.00 ± 0.00", "80.50 ± 0.71", "80.50 ± 0.71"]]


def test_a_run_that_leaves_the_amount_to_the_default_is_summarised_there(tmp_path: Path) -> None:
    policies = [
        {"finetune": "continue", "sparsity": 0.5},
        {"finetune": "continue", "sparsity": 0.9},
        {"finetune": "none"},
    ]
    runs = planned(tmp_path, {"grid": {"finetune": policies}}).runs
    done = {run.name: {"final": {"top1": 80.0}, "dense": {"top1": 90.0}} for run in runs}
    assert sorted(summary.table(runs, done).rows) == [
        ["continue", "90.00", "80.00", "80.00"],
        ["none", "90.00", "", "80.00"],
    ]


# --- processes ----------------------------------------------------------------------------------------------------

NET = """
import time
from pathlib import Path

from torch import nn


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.inner, self.outer = nn.Linear(784, 20), nn.Linear(20, classes)

    def forward(self, images):
        zeros = (self.inner.weight == 0).float().mean()
        if zeros > 0.7 and Path("broken").exists():
            raise RuntimeError("it broke in round 2")
        if Path("slow").exists():
            time.sleep(0.2)
        return self.outer(self.inner(images.flatten(1)).relu())
"""
SWEEP = {
    "options": {
        "arch": "net.py:Net",
        "epochs": 1,
        "finetune_epochs": 1,
        "batch_size": 1000,
        "measure_seconds": 0,
        "threads": 1,
        "checkpoint_interval": 0.05,
        "log_interval": 1,
    },
    "grid": {
        "sparsity": [{"sparsity": 0.5, "rounds": 1}, {"sparsity": 0.75, "rounds": 2}],
        "seed": [0, 1],
    },
    "exclude": [{"sparsity": 0.75, "seed": 1}],
}


class Unseen:
    """Watches a sweep and does nothing about it."""

    def show(self, board: SweepState) -> None: ...
    def ended(self, board: SweepState, run: Run) -> None: ...
    def stopping(self, running: int) -> None: ...
    def check_stop(self) -> None: ...
    def when_forced(self, action: Callable[[], None]) -> None: ...


def test_a_run_that_was_left_in_its_dense_training_is_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    both = planned(tmp_path, {"options": {"epochs": 1}, "grid": {"sparsity": [0.5, 0.9]}})
    left = both.runs[0].files
    log = EventLog(left.run.events, 0)
    log.write({"event": "batch", "phase": "dense", "epoch": 1, "batch": 1, "batches": 9})
    for run in both.runs:
        run.files.write_ending(1, 0.0)  # so that no process has to be started to be done with them
    other = claim(left.lock)
    assert other is not None
    pictures = 0

    class Leaving(Unseen):
        def show(self, board: SweepState) -> None:
            nonlocal pictures
            pictures += 1
            assert pictures < 100, "it waits for a process that is gone"
            if board.elsewhere:
                other.close()

    board = work(both, Slots((None,), 1), Leaving())
    assert board.failed.keys() == {run.name for run in both.runs}


def stop_at_resumption(run: Run, number: signal.Signals) -> None:
    """Send this process a signal once the run's log says that it goes on, from now on."""
    begin = time.time()
    while not any(
        event["event"] == "resumed" and event["time"] > begin for event in events(run.files.run.path)
    ):
        time.sleep(0.005)
    os.kill(os.getpid(), number)


def test_two_at_once_then_failed_retried_and_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "broken").touch()
    shared = planned(tmp_path, SWEEP)
    *whole, failing = shared.runs
    sweep = ["sweep", "grid.yaml", "--jobs", "2"]

    # Two sweeps at once do every run once. What raises in round 2 fails; the rest is whole.
    with ThreadPoolExecutor() as threads:
        sweeps = [threads.submit(work, shared, Slots((None,), 1), Unseen()) for _ in range(2)]
    for done in sweeps:
        assert done.result().done.keys() == {run.name for run in whole}
        assert "RuntimeError: it broke in round 2" in done.result().failed[failing.name].said[-1]
    for run in shared.runs:
        assert [event["event"] for event in events(run.files.run.path)].count("start") == 1

    # Started again a sweep leaves alone what failed, and says so.
    (tmp_path / "broken").unlink()
    assert execute(sweep) == 1
    said = capsys.readouterr().out
    assert "3 runs; 2 finished, 1 failed before" in said
    assert "it broke in round 2" in said
    assert "2 of 3 runs done\n" in said

    # Retried and stopped on the way, the run saves; then it goes on. (Slow, or it might be done before it is stopped.)
    (tmp_path / "slow").touch()
    for number in (signal.SIGTERM, signal.SIGHUP):
        with ThreadPoolExecutor() as threads:
            threads.submit(stop_at_resumption, failing, number)
            assert execute([*sweep, "--retry"]) == 128 + number
    (tmp_path / "slow").unlink()
    assert not failing.files.run.result.exists()
    assert execute(sweep) == 0
    assert "3 of 3 runs done, 1 of them now" in capsys.readouterr().out

    # And every record is that of the same run alone.
    for run in shared.runs:
        alone = run.config.model_copy(update={"runs_dir": tmp_path / "alone", "share_rounds": False})
        experiment(alone, Silent())
        assert outcome(tmp_path / "alone" / run.name) == outcome(run.files.run.path)
