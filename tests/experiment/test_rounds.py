"""Rounds: exactly the requested weights are pruned, pruned weights stay pruned, and a rejected round is rolled back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SilentObserver, small_mnist
from safetensors.torch import load_file

import pruning
from pruning.config.resolution import resolve
from pruning.core.masks import Masks
from pruning.experiment.rounds import accept, roll_back, run_round
from pruning.experiment.runner import run, start_or_resume
from pruning.experiment.setup import prepare

METHODS = ["global_mag", "layer_mag", "global_grad", "layer_grad", "random"]
PRUNABLE = {"conv1.weight": 54, "conv2.weight": 864, "fc1.weight": 48_000, "fc2.weight": 10_080}
TOTAL = sum(PRUNABLE.values())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    small_mnist(folder / ".images")
    return folder


def small_options(runs: Path, **options: Any) -> dict[str, Any]:
    """Options of a run on small data; all of them share one dense training of two epochs."""
    training = {"epochs": 2, "finetune_epochs": 1, "rounds": 1, "batch_size": 50, "measure_seconds": 0}
    return {**training, "dataset": "mnist", "data": runs / ".images", "runs_dir": runs, **options}


def run_small(runs: Path, **options: Any) -> dict[str, Any]:
    return run(resolve(small_options(runs, **options)), SilentObserver())


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.98])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_prunes_exactly_the_requested_fraction(method: str, sparsity: float, runs: Path) -> None:
    result = run_small(runs, method=method, sparsity=sparsity)
    masks = pruning.Masks.load(runs / result["name"] / "masks.safetensors")
    if method.startswith("layer"):
        removed = {layer.name: layer.weights - layer.nonzero for layer in masks.layers()}
        assert removed == {name: round(sparsity * weights) for name, weights in PRUNABLE.items()}
    else:
        assert masks.removed == round(sparsity * TOTAL)
    network = load_file(runs / result["name"] / "model.safetensors")
    assert all(network[name][~mask].count_nonzero() == 0 for name, mask in masks.items())


def test_random_pruning_is_the_least_accurate_at_98_percent(tmp_path: Path) -> None:
    options = {"epochs": 2, "finetune_epochs": 1, "rounds": 2, "sparsity": 0.98, "measure_seconds": 0}
    top1 = {
        method: run(resolve({**options, "runs_dir": tmp_path, "method": method}), SilentObserver())["final"][
            "top1"
        ]
        for method in METHODS
    }
    assert top1["random"] < min(top1[method] for method in METHODS if method != "random")


def test_weights_pruned_in_one_round_stay_pruned_in_the_next(runs: Path) -> None:
    """With random scores, which differ in every round."""
    options = small_options(runs, method="random", sparsity=0.9, schedule="linear", rounds=2, name="stay")
    session = prepare(resolve(options), SilentObserver())
    dense = start_or_resume(session, fresh=False)
    run_round(session, 1, dense)
    assert session.masks is not None
    first = {name: mask.clone() for name, mask in session.masks.items()}
    run_round(session, 2, dense)
    second = dict(session.masks.items())
    assert sum(int((~mask).sum()) for mask in first.values()) == round(0.45 * TOTAL)
    assert sum(int((~mask).sum()) for mask in second.values()) == round(0.9 * TOTAL)
    assert not any((second[name] & ~first[name]).any() for name in PRUNABLE)


def test_a_compression_ratio_is_reached(runs: Path) -> None:
    assert run_small(runs, compression=8.0)["final"]["compression_ratio"] == pytest.approx(8, rel=1e-3)


def test_a_count_larger_than_a_layer_prunes_all_of_it_and_warns(runs: Path) -> None:
    result = run_small(runs, method="layer_mag", count=1000)
    nonzero = {layer["name"]: layer["nonzero"] for layer in result["layers"]}
    assert (nonzero["conv1.weight"], nonzero["conv2.weight"]) == (0, 0)
    assert nonzero["fc1.weight"] == 47_000
    assert [warning.split(" ")[0] for warning in result["warnings"]] == ["conv1.weight", "conv2.weight"]


def test_without_finetuning_the_accuracy_is_that_after_pruning(runs: Path) -> None:
    (entry,) = run_small(runs, finetune="none")["rounds"]
    assert entry["top1"] == entry["top1_before_finetune"]


def test_excluded_layers_are_not_pruned(runs: Path) -> None:
    result = run_small(runs, exclude=("conv*",))
    layers = {layer["name"]: layer for layer in result["layers"]}
    assert layers["conv1.weight"]["nonzero"] == 54
    assert not layers["conv1.weight"]["pruned"]
    assert result["final"]["sparsity"] == round(0.9 * 58_080) / 58_080


def test_a_rollback_restores_network_masks_and_warnings(runs: Path) -> None:
    session = prepare(resolve(small_options(runs, max_drop=5, name="roll-back")), SilentObserver())
    session.log.open()
    session.warn("about the dense network")
    before = {name: tensor.clone() for name, tensor in session.model.state_dict().items()}
    accept(session)
    nothing_kept = {
        layer.name: torch.zeros_like(layer.parameter, dtype=torch.bool) for layer in session.layers
    }
    session.masks = Masks(nothing_kept).apply(session.model)
    session.warn("every weight is pruned")
    roll_back(session)
    assert session.masks is None
    assert session.progress.warnings == ["about the dense network"]
    assert all(torch.equal(before[name], tensor) for name, tensor in session.model.state_dict().items())
