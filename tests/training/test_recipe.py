"""The recipe of a training: its learning-rate schedule and its number of batches."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pruning.training.recipe import batches_per_epoch, one_cycle


@pytest.mark.parametrize(("steps", "base"), [(10, None), (100, None), (37, 0.02)])
def test_one_cycle_equals_torchs_one_cycle_schedule(steps: int, base: float | None) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1)
    factor = 25 if base is None else 0.1 / base
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.1, total_steps=steps, div_factor=factor, cycle_momentum=False
    )
    for step in range(steps):
        assert one_cycle(step, steps, 0.1, base) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        if step + 1 < steps:
            scheduler.step()


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_one_cycle_is_positive_and_at_most_the_peak_in_the_shortest_trainings(steps: int) -> None:
    assert all(0 < one_cycle(step, steps, 0.1) <= 0.1 for step in range(steps))


def test_an_epoch_includes_the_smaller_last_batch() -> None:
    assert batches_per_epoch(50, 8) == 7
    assert batches_per_epoch(48, 8) == 6


def test_a_batch_limit_shortens_an_epoch_but_never_lengthens_it() -> None:
    assert batches_per_epoch(50, 8, batch_limit=2) == 2
    assert batches_per_epoch(50, 8, batch_limit=9) == 7
