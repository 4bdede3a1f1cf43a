"""Shared rounds: a run that reads rounds of another run is bit-identical to one without sharing."""

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


def halving(ratio: int, runs: Path, **options: Any) -> RunConfig:
    """A run to a compression ratio, in rounds that each double it."""
    rounds = ratio.bit_length() - 1
    place = {"runs_dir": runs, "data": runs / ".images"}
    return resolve({**SMALL, "compression": ratio, "rounds": rounds, **place, **options})


def run_folder(config: RunConfig, *, fresh: bool = False) -> Path:
    """Do the run and return its folder."""
    run(config, SilentObserver(), fresh=fresh)
    return config.runs_dir / config.run_name()


def shared_rounds(folder: Path) -> int:
    """Number of rounds that the run read instead of computing, according to both log and record."""
    logged = [event["rounds"] for event in events(folder) if event["event"] == "shared"]
    pruned = {event["round"] for event in events(folder) if event["event"] == "pruning"}
    rounds = read_result(folder)["shared_rounds"]
    assert logged == [rounds] * (rounds > 0)
    assert pruned == {entry["round"] for entry in read_result(folder)["rounds"][rounds:]}
    return int(rounds)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    small_mnist(runs / ".images")
    return runs


@pytest.fixture(scope="module")
def alone(runs: Path) -> dict[int, dict[str, Any]]:
    """The results of runs without --share-rounds, by compression ratio."""
    return {
        ratio: reproducible_result(run_folder(halving(ratio, runs, name=f"alone{ratio}")))
        for ratio in (4, 16)
    }


@pytest.fixture(scope="module")
def shared(runs: Path) -> Path:
    """A folder with runs that share rounds: to ratio 8 first, then to 4 and to 16."""
    folders = [run_folder(halving(ratio, runs, share_rounds=True)) for ratio in (8, 4, 16)]
    assert [shared_rounds(folder) for folder in folders] == [0, 2, 3]
    return runs


@pytest.mark.parametrize("ratio", [4, 16])
def test_a_run_with_shared_rounds_has_the_result_of_the_run_without(
    ratio: int, shared: Path, alone: dict[int, dict[str, Any]]
) -> None:
    assert reproducible_result(shared / halving(ratio, shared).run_name()) == alone[ratio]


@pytest.mark.parametrize("policy", ["rewind", "rewind_lr", "distill", "reinit", "none"])
def test_shared_rounds_give_the_same_bits_with_every_policy_and_after_interruptions(
    policy: str, runs: Path
) -> None:
    options = {"finetune": policy, "epochs": 2, "seed": 5}
    expected = reproducible_result(run_folder(halving(8, runs, name=f"alone-{policy}", **options)))
    run_folder(halving(4, runs, share_rounds=True, **options))
    config = halving(8, runs, share_rounds=True, **options)
    assert run_with_interruptions(7, lambda observer: run(config, observer))
    folder = runs / config.run_name()
    assert shared_rounds(folder) == 2
    assert reproducible_result(folder) == expected


def test_timing_includes_the_seconds_of_shared_rounds(shared: Path) -> None:
    first, second = (read_result(shared / halving(ratio, shared).run_name())["timing"] for ratio in (8, 4))
    assert 0 < second["finetuning"] < first["finetuning"]
    assert sum(second.values()) - second["total"] <= second["total"]


def test_damaged_and_exchanged_files_of_rounds_are_skipped(
    shared: Path, alone: dict[int, dict[str, Any]]
) -> None:
    config = halving(4, shared, share_rounds=True)
    kept = sorted((shared / ".rounds").iterdir())
    for folder in kept:
        (facts,) = folder.glob("*.json")
        facts.write_text(facts.read_text().replace('"loss": ', '"loss": 1'))
    folder = shared / config.run_name()
    (folder / "result.json").unlink()
    assert reproducible_result(run_folder(config)) == alone[4]
    assert shared_rounds(folder) == 0
    moved = [place.rename(place.with_suffix(".moved")) for place in kept]
    for place, other in zip(kept, moved[1:] + moved[:1], strict=True):
        other.rename(place)
    (folder / "result.json").unlink()
    assert reproducible_result(run_folder(config)) == alone[4]
    assert shared_rounds(folder) == 0


def test_a_fresh_run_computes_every_round(shared: Path, alone: dict[int, dict[str, Any]]) -> None:
    config = halving(4, shared, share_rounds=True)
    folder = run_folder(config, fresh=True)
    assert shared_rounds(folder) == 0
    assert reproducible_result(folder) == alone[4]


def test_without_share_rounds_no_round_is_written_or_recorded(
    alone: dict[int, dict[str, Any]], runs: Path
) -> None:
    kept = len(list((runs / ".rounds").iterdir()))
    folder = run_folder(halving(2, runs, seed=1))
    assert len(list((runs / ".rounds").iterdir())) == kept
    assert "shared_rounds" not in read_result(folder)


def test_runs_that_differ_only_in_their_target_have_one_key(runs: Path) -> None:
    key = chain_key(halving(8, runs))
    assert chain_key(halving(64, runs)) == key
    assert chain_key(halving(2, runs, share_rounds=True, name="other")) == key
    assert chain_key(resolve({**SMALL, "sparsity": 0.5, "rounds": 1})) == chain_key(
        resolve({**SMALL, "sparsity": 0.75, "rounds": 2})
    )


@pytest.mark.parametrize(
    "other",
    [
        {"compression": 64, "rounds": 3},  # its first round ends at 4, not at 2
        {"compression": 16, "rounds": 4, "schedule": "linear"},
        {"compression": 8, "rounds": 1, "schedule": "one_shot"},
        {"seed": 1},
        {"finetune_lr": 0.1},
        {"method": "layer_mag"},
    ],
)
def test_runs_that_share_no_round_have_different_keys(other: dict[str, Any], runs: Path) -> None:
    assert chain_key(halving(8, runs)) != chain_key(halving(8, runs, **other))


def test_fractions_by_layer_in_another_order_share_no_round(runs: Path) -> None:
    """The last pattern that fits a layer counts: both runs have the same sparsity in different layers."""
    net = runs / "net.py"
    net.write_text(
        "from torch import nn\n\n\ndef make(classes):\n    return nn.Sequential(\n        nn.Flatten(), "
        "nn.Linear(784, 9), nn.Linear(9, 9), nn.Linear(9, 9), nn.Linear(9, classes)\n    )\n"
    )
    sparsities = []
    for layers in ("1=0.5 2=0.2 [23]=0.5 3=0.2", "1=0.5 3=0.2 [23]=0.5 2=0.2"):
        options = {"layer_sparsity": layers, "rounds": 1, "arch": f"{net}:make", "share_rounds": True}
        folder = run_folder(resolve({**SMALL, "data": runs / ".images", "runs_dir": runs, **options}))
        assert shared_rounds(folder) == 0
        sparsities.append([round(layer["sparsity"], 1) for layer in read_result(folder)["layers"]])
    assert sparsities == [[0.5, 0.5, 0.2, 0], [0.5, 0.2, 0.5, 0]]
