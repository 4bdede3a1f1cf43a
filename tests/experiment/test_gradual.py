"""--schedule gradual: several pruning steps during one fine-tuning, by the formula of Zhu and Gupta."""

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
from safetensors.torch import load_file

from pruning.config.resolution import resolve
from pruning.config.run_config import RunConfig
from pruning.experiment.checkpoint import unpack_group
from pruning.experiment.checkpoint_files import CheckpointFiles
from pruning.experiment.run_files import RunFolder
from pruning.experiment.runner import run
from pruning.experiment.setup import prepare
from pruning.experiment.verification import verify

WEIGHTS = 58_998
EPOCH = 9  # batches of 50 in 450 training images


def gradual(folder: Path, **options: Any) -> RunConfig:
    images = folder / ".images" if (folder / ".images").is_dir() else small_mnist(folder / ".images")
    values = {
        "schedule": "gradual",
        "dataset": "mnist",
        "data": images,
        "epochs": 1,
        "finetune_epochs": 3,
        "batch_size": 50,
        "prune_every": 4,
        "prune_until": 2,
        "sparsity": 0.8,
        "measure_seconds": 0,
        "runs_dir": folder,
        "name": "run",
    }
    return resolve({**values, **options})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    run(gradual(runs, method="global_grad", score_batches=2), SilentObserver())
    return runs / "run"


def test_the_sparsity_after_every_pruning_step_is_that_of_the_formula(folder: Path) -> None:
    # s_t = s_f (1 - (1 - t / (n dt))^3) with s_f = 0.8, dt = 4 and n = 4: 2 epochs have 18 batches.
    pruned = [event for event in events(folder) if event["event"] == "pruning"]
    assert [event["batch"] for event in pruned] == [4, 8, 12, 16]
    sparsities = [0.8 * (1 - left**3) for left in (3 / 4, 2 / 4, 1 / 4, 0)]
    assert [event["target_sparsity"] for event in pruned] == pytest.approx(sparsities)
    assert [event["removed"] for event in pruned] == [round(s * WEIGHTS) for s in sparsities]


def test_the_final_sparsity_is_exactly_the_requested_one_and_the_record_verifies(folder: Path) -> None:
    masks, network = load_file(folder / "masks.safetensors"), load_file(folder / "model.safetensors")
    assert sum(int((~mask).sum()) for mask in masks.values()) == round(0.8 * WEIGHTS)
    assert all(network[name][~mask].count_nonzero() == 0 for name, mask in masks.items())
    result = read_result(folder)
    (entry,) = result["rounds"]
    assert entry["top1_before_finetune"] == result["dense"]["top1"]
    assert (entry["target_sparsity"], result["final"]["sparsity"]) == (0.8, round(0.8 * WEIGHTS) / WEIGHTS)
    assert all(check.agrees for check in verify(RunFolder(folder), SilentObserver()))


def test_pruned_weights_are_zero_in_every_checkpoint_and_their_number_never_falls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed = [0]
    save = CheckpointFiles.save

    def check_and_save(self: CheckpointFiles, tensors: Any, values: Any) -> None:
        network = unpack_group(tensors, "network") or tensors
        masks, weights = unpack_group(network, "mask"), unpack_group(network, "model")
        assert all(weights[name][~mask].count_nonzero() == 0 for name, mask in masks.items())
        removed.append(sum(int((~mask).sum()) for mask in masks.values()))
        assert removed[-1] >= removed[-2]
        save(self, tensors, values)

    monkeypatch.setattr(CheckpointFiles, "save", check_and_save)
    run(gradual(tmp_path, checkpoint_interval=1e-9), SilentObserver())
    assert removed[-1] == round(0.8 * WEIGHTS)


def test_a_gradual_run_interrupted_every_12_checks_ends_with_the_same_bits(
    folder: Path, tmp_path: Path
) -> None:
    config = gradual(tmp_path, method="global_grad", score_batches=2)
    assert run_with_interruptions(12, lambda observer: run(config, observer)) > 4
    assert reproducible_result(tmp_path / "run") == reproducible_result(folder)
    batches = [event["batch"] for event in events(tmp_path / "run") if event["event"] == "pruning"]
    assert batches == [4, 8, 12, 16]


def test_compression_counts_and_allocations_follow_the_same_formula(tmp_path: Path) -> None:
    for options in (
        {"sparsity": None, "compression": 4},
        {"sparsity": None, "count": 30_000},
        {"method": "erk_mag"},
    ):
        session = prepare(gradual(tmp_path, **options), SilentObserver())
        (steps,) = session.pruning_steps_by_round
        final = steps[-1].target
        assert [step.target for step in steps] == pytest.approx(
            [final * (1 - (1 - i / 4) ** 3) for i in range(1, 5)]
        )


def test_a_dry_run_prunes_during_its_two_batches(tmp_path: Path) -> None:
    run(gradual(tmp_path, dry_run=True), SilentObserver())
    assert read_result(tmp_path / "run")["final"]["sparsity"] == round(0.8 * WEIGHTS) / WEIGHTS
