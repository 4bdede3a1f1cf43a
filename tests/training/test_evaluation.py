"""Evaluation: exact accuracies, and an unchanged network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pruning.data import Split
from pruning.training.evaluation import evaluate


def images(count: int) -> Split:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return Split(inputs, torch.randint(0, 3, (count,), generator=generator), (0.5,), (0.25,))


class Constant(nn.Module):
    """Outputs the logits 3, 2, 1 for every image."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[3.0, 2.0, 1.0]]).expand(len(inputs), 3)


@pytest.mark.parametrize("batch_size", [16, 50, 7])
def test_accuracy_is_correct_over_seen_for_every_size_of_the_last_batch(batch_size: int) -> None:
    split = images(50)
    found = evaluate(Constant(), split, batch_size=batch_size, precision="fp32")
    assert found.top1 == 100 * int((split.targets == 0).sum()) / 50
    assert found.top5 == 100
    log_softmax = torch.tensor([3.0, 2.0, 1.0]).log_softmax(0)
    assert found.loss == pytest.approx(-float(log_softmax[split.targets].mean()), rel=1e-5)


def test_a_batch_limit_evaluates_only_the_first_batches() -> None:
    split = images(50)
    found = evaluate(Constant(), split, batch_size=16, precision="fp32", batch_limit=2)
    assert found.top1 == 100 * int((split.targets[:32] == 0).sum()) / 32


def test_evaluation_leaves_weights_buffers_and_mode_unchanged() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 3)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, images(50), 8, "fp32")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
