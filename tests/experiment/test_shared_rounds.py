"""Shared rounds: a run that takes up what another computed ends as it would have alone, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import (
    SilentObserver,
    events,
    read_result,
    reproducible_result,
    run_with_interruptions,
    small_mnist,
)

from pruning.config.resolution import resolve
from pruning.config.run_config import RunConfig
from pruning.experiment.runner import run
from pruning.experiment.shared_rounds import chain_key

SMALL = {"dataset": "mnist", "epochs": 1, "finetune_epochs": 1, "batch_size": 50, "measure_seconds": 0}


def to(ratio: int, runs: Path, **options: Any) -> RunConfig:
    """A run to this compression in rounds that halve what is left."""
    rounds = ratio.bit_length() - 1
    place = {"runs_dir": runs, "data": runs / ".images"}
    return resolve({**SMALL, "compression": ratio, "rounds": rounds, **place, **options})


def done(config: RunConfig, *, fresh: bool = False) -> Path:
    """The folder of the run, done."""
    run(config, SilentObserver(), fresh=fresh)
    return config.runs_dir / config.run_name()


def taken_over(folder: Path) -> int:
    """How many rounds the run did not compute itself, as log and record both say."""
    told = [event["rounds"] for event in events(folder) if event["event"] == "shared"]
    pruned = {event["round"] for event in events(folder) if event["event"] == "pruning"}
    rounds = read_result(folder)["shared_rounds"]
    assert told == [rounds] * (rounds > 0)
    assert pruned == {entry["round"] for entry in read_result(folder)["rounds"][rounds:]}
    return int(rounds)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    small_mnist(runs / ".images")
    return runs


@pytest.fixture(scope="module")
def alone(runs: Path) -> dict[int, dict[str, Any]]:
    """What runs that share nothing but the dense network come to, by compression."""
    return {ratio: reproducible_result(done(to(ratio, runs, name=f"alone{ratio}"))) for ratio in (4, 16)}


@pytest.fixture(scope="module")
def shared(runs: Path) -> Path:
    """Runs that share: first to 8, then less far, then farther."""
    folders = [done(to(ratio, runs, share_rounds=True)) for ratio in (8, 4, 16)]
    assert [taken_over(folder) for folder in folders] == [0, 2, 3]
    return runs


@pytest.mark.parametrize("ratio", [4, 16])
def test_the_outcome_is_that_of_the_run_alone(
    ratio: int, shared: Path, alone: dict[int, dict[str, Any]]
) -> None:
    assert reproducible_result(shared / to(ratio, shared).run_name()) == alone[ratio]


@pytest.mark.parametrize("policy", ["rewind", "rewind_lr", "distill", "reinit", "none"])
def test_so_it_is_with_every_policy_stopped_again_and_again(policy: str, runs: Path) -> None:
    options = {"finetune": policy, "epochs": 2, "seed": 5}
    expected = reproducible_result(done(to(8, runs, name=f"alone-{policy}", **options)))
    done(to(4, runs, share_rounds=True, **options))
    config = to(8, runs, share_rounds=True, **options)
    assert run_with_interruptions(7, lambda observer: run(config, observer))
    folder = runs / config.run_name()
    assert taken_over(folder) == 2
    assert reproducible_result(folder) == expected


def test_timing_is_what_computing_took(shared: Path) -> None:
    first, second = (read_result(shared / to(ratio, shared).run_name())["timing"] for ratio in (8, 4))
    assert 0 < second["finetuning"] < first["finetuning"]
    assert sum(second.values()) - second["total"] <= second["total"]


def test_damaged_and_foreign_files_are_passed_over(shared: Path, alone: dict[int, dict[str, Any]]) -> None:
    config = to(4, shared, share_rounds=True)
    kept = sorted((shared / ".rounds").iterdir())
    for folder in kept:
        (facts,) = folder.glob("*.json")
        facts.write_text(facts.read_text().replace('"loss": ', '"loss": 1'))
    folder = shared / config.run_name()
    (folder / "result.json").unlink()
    assert reproducible_result(done(config)) == alone[4]
    assert taken_over(folder) == 0
    in_turn = [place.rename(place.with_suffix(".moved")) for place in kept]
    for place, other in zip(kept, in_turn[1:] + in_turn[:1], strict=True):
        other.rename(place)
    (folder / "result.json").unlink()
    assert reproducible_result(done(config)) == alone[4]
    assert taken_over(folder) == 0


def test_fresh_computes_anew(shared: Path, alone: dict[int, dict[str, Any]]) -> None:
    config = to(4, shared, share_rounds=True)
    folder = done(config, fresh=True)
    assert taken_over(folder) == 0
    assert reproducible_result(folder) == alone[4]


def test_nothing_is_kept_or_told_unless_asked(alone: dict[int, dict[str, Any]], runs: Path) -> None:
    kept = len(list((runs / ".rounds").iterdir()))
    folder = done(to(2, runs, seed=1))
    assert len(list((runs / ".rounds").iterdir())) == kept
    assert "shared_rounds" not in read_result(folder)


def test_runs_on_one_chain_have_one_key(runs: Path) -> None:
    key = chain_key(to(8, runs))
    assert chain_key(to(64, runs)) == key
    assert chain_key(to(2, runs, share_rounds=True, name="other")) == key
    assert chain_key(resolve({**SMALL, "sparsity": 0.5, "rounds": 1})) == chain_key(
        resolve({**SMALL, "sparsity": 0.75, "rounds": 2})
    )


@pytest.mark.parametrize(
    "other",
    [
        {"compression": 64, "rounds": 3},  # passes 4 first
        {"compression": 16, "rounds": 4, "schedule": "linear"},
        {"compression": 8, "rounds": 1, "schedule": "one_shot"},
        {"seed": 1},
        {"finetune_lr": 0.1},
        {"method": "layer_mag"},
    ],
)
def test_runs_that_share_no_round_have_different_keys(other: dict[str, Any], runs: Path) -> None:
    assert chain_key(to(8, runs)) != chain_key(to(8, runs, **other))


def test_the_order_of_fractions_by_layer_matters(runs: Path) -> None:
    """Of two that fit a layer the last holds, so that these come to the same sparsity with different layers."""
    net = runs / "net.py"
    net.write_text(
        "from torch import nn\n\n\ndef make(classes):\n    return nn.Sequential(\n        nn.Flatten(), "
        "nn.Linear(784, 9), nn.Linear(9, 9), nn.Linear(9, 9), nn.Linear(9, classes)\n    )\n"
    )
    sparsities = []
    for layers in ("1=0.5 2=0.2 [23]=0.5 3=0.2", "1=0.5 3=0.2 [23]=0.5 2=0.2"):
        options = {"layer_sparsity": layers, "rounds": 1, "arch": f"{net}:make", "share_rounds": True}
        folder = done(resolve({**SMALL, "data": runs / ".images", "runs_dir": runs, **options}))
        assert taken_over(folder) == 0
        sparsities.append([round(layer["sparsity"], 1) for layer in read_result(folder)["layers"]])
    assert sparsities == [[0.5, 0.5, 0.2, 0], [0.5, 0.2, 0.5, 0]]
