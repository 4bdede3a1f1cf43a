"""The plan of a run: one pruning step per round, or several during one fine-tuning, checked before any training."""

from __future__ import annotations

from typing import Any

import pytest

from pruning.config.resolution import resolve
from pruning.core.layers import prunable_layers
from pruning.errors import PruningError
from pruning.experiment.round_plan import plan_pruning_steps, plan_rounds
from pruning.models import build

SHAPE = (1, 28, 28)


def planned(**options: Any) -> list[float]:
    config = resolve(options)
    return [step.target for step in plan_rounds(config, build(config.arch, classes=10, shape=SHAPE), SHAPE)]


def test_every_round_has_one_pruning_step() -> None:
    assert planned(sparsity=0.875, rounds=3, schedule="geometric") == [0.5, 0.75, 0.875]


def test_a_gradual_schedule_has_all_its_steps_in_one_round_with_their_batches() -> None:
    config = resolve({"sparsity": 0.8, "schedule": "gradual", "finetune_epochs": 3, "prune_every": 4})
    model = build("my", classes=10, shape=SHAPE)
    (steps,) = plan_pruning_steps(config, model, prunable_layers(model), 9)
    assert [step.batch for step in steps] == [4, 8, 12, 16]
    assert steps[-1].target == 0.8


def test_a_search_is_planned_as_if_every_round_were_accepted() -> None:
    assert planned(max_drop=1, rounds=3) == [0.5, 0.75, 0.875]


def test_a_floor_that_leaves_too_few_weights_is_refused_with_its_value() -> None:
    assert planned(sparsity=0.5, floor=0.5, rounds=1) == [0.5]
    with pytest.raises(PruningError, match=r"0\.5 .* 29,499 "):
        planned(sparsity=0.51, floor=0.5, rounds=1)
