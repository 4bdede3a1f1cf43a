"""Statistics, accumulators and corrections that users register, in a plugin or in their own program."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Cli, Register, masks_of, only_run, read_result
from torch import Tensor, nn

import pruning
from pruning import PruningError
from pruning.axes.scoring import Weights
from pruning.core.layers import Layer
from pruning.core.weight_groups import WeightGroups
from pruning.registry import ACCUMULATORS, CORRECTIONS, SCORES, STATISTICS

PLUGIN = '''
import torch
from pruning.registry import SCORES, STATISTICS


@STATISTICS.register("batch count")
def batch_count(model, layers, batches, loss):
    """Number of batches, at the even positions of every layer."""
    count = len(list(batches))
    found = {}
    for layer in layers:
        values = torch.zeros(layer.size)
        values[::2] = count
        found[layer.name] = values.view(layer.shape)
    return found


@SCORES.register("even", statistics=("batch count",), elementwise=True, source="mine")
def even(weights):
    """Even positions"""
    return weights["batch count"]
'''


def test_a_plugin_with_a_score_and_its_statistic_prunes_and_is_listed(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "even.py").write_text(PLUGIN)
    options = ("--epochs", "0", "--finetune", "none", "--rounds", "1", "--measure-seconds", "0")
    done = cli(*options, "--plugin", "even.py", "--method", "layer_even", "--sparsity", "0.5")
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path / "runs")
    assert read_result(run)["final"]["sparsity"] == 0.5
    for mask in pruning.Masks.load(run / "masks.safetensors").values():
        assert mask.flatten()[::2].all()
        assert not mask.flatten()[1::2].any()
    listed = cli("list", "scores", "--plugin", "even.py").stdout
    assert "batch count" in next(line for line in listed.splitlines() if line.startswith("even"))


@pytest.mark.parametrize(
    "attributes", [{"statistics": ("gradeint",)}, {"correction": "optimal brain surgery"}]
)
def test_an_unknown_statistic_or_correction_of_a_score_is_refused_with_the_nearest_name(
    attributes: dict[str, Any], register: Register
) -> None:
    @register(SCORES, "wrong", **attributes)
    def wrong(weights: Weights) -> Tensor:
        return weights.value

    with pytest.raises(
        PruningError, match=r"gradeint.*gradient|optimal brain surgery.*optimal brain surgeon"
    ):
        masks_of(nn.Linear(2, 2), "layer_wrong")


def test_a_user_statistic_over_channels_receives_the_groups(register: Register) -> None:
    @register(STATISTICS, "group count", over_channels=True)
    def group_count(
        model: nn.Module, layers: Sequence[Layer], groups: Sequence[WeightGroups]
    ) -> dict[str, Tensor]:
        return {layer.name: torch.full(layer.shape, float(len(groups))) for layer in layers}

    @register(SCORES, "counted", statistics=("group count",))
    def counted(weights: Weights) -> Tensor:
        assert bool((weights["group count"] == 2).all())
        return weights.value

    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    assert masks_of(model, "global_counted", 0.5).removed == 4  # without batches


def test_a_user_accumulator_is_summed_over_the_steps(register: Register) -> None:
    @register(ACCUMULATORS, "steps")
    def add_step(sums: list[Tensor], weights: list[Tensor], gradients: list[Tensor]) -> None:
        for sum_ in sums:
            sum_ += 1

    @register(SCORES, "by_steps", accumulates=("steps",), elementwise=True)
    def by_steps(weights: Weights) -> Tensor:
        return weights["steps"]

    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    accumulated = pruning.accumulate(model, optimizer, "global_by_steps")
    for _ in range(3):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    assert accumulated["steps"]["weight"].tolist() == [[3.0, 3.0]]
    assert pruning.prune(model, "global_by_steps", 0.5, accumulated=accumulated).removed == 1


def test_a_user_correction_replaces_the_kept_weights(register: Register) -> None:
    @register(CORRECTIONS, "keep the sum")
    def keep_the_sum(weights: Weights, kept: Tensor) -> Tensor:
        return weights.value * kept * weights.value.sum() / (weights.value * kept).sum()

    @register(SCORES, "corrected", correction="keep the sum", elementwise=True)
    def corrected(weights: Weights) -> Tensor:
        return weights.value.abs()

    model = nn.Linear(4, 1, bias=False)
    model.weight.data = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    pruning.prune(model, "global_corrected", count=1)
    torch.testing.assert_close(model.weight.detach(), torch.tensor([[0.0, 2.0, 3.0, 4.0]]) * 10 / 9)


def test_a_score_may_read_two_statistics_of_batches_given_as_an_iterator(register: Register) -> None:
    @register(SCORES, "both", statistics=("gradient", "input norm"), elementwise=True)
    def both(weights: Weights) -> Tensor:
        return weights["gradient"].abs() * weights["input norm"]

    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    batches = [(torch.randn(5, 4), torch.randint(0, 3, (5,))) for _ in range(3)]
    masks = masks_of(model, "global_both", 0.5, batches=iter(batches))
    assert masks == masks_of(model, "global_both", 0.5, batches=batches)


@pytest.mark.parametrize(
    ("returned", "found"),
    [
        (lambda layer: torch.zeros(layer.shape).T, r"\(4, 6\)"),
        (lambda layer: torch.zeros(1), r"\(1,\)"),
        (lambda layer: torch.zeros(layer.shape, dtype=torch.float64), r"float64"),
        (lambda layer: None, "nothing"),
    ],
)
def test_a_statistic_of_wrong_shape_or_type_is_refused_with_its_name_and_the_layer(
    returned: Any, found: str, register: Register
) -> None:
    @register(STATISTICS, "odd")
    def odd(model: nn.Module, layers: Sequence[Layer], batches: Any, loss: Any) -> dict[str, Any]:
        tensors = {layer.name: returned(layer) for layer in layers}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    @register(SCORES, "odd_score", statistics=("odd",), elementwise=True)
    def odd_score(weights: Weights) -> Tensor:
        return weights["odd"]

    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    batches = [(torch.randn(5, 4), torch.randint(0, 3, (5,)))]
    with pytest.raises(PruningError, match=rf"'odd' returned .*{found}.* for 0\.weight.*\(6, 4\)"):
        masks_of(model, "global_odd_score", 0.5, batches=batches)
