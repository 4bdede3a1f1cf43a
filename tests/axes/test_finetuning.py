"""Fine-tuning policies: start weights, recipe and loss of each, and runs that are interrupted in a fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SilentObserver, events, reproducible_result, small_mnist
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from pruning.axes.finetuning import FinetuneContext, distillation
from pruning.config.resolution import resolve
from pruning.config.run_config import RunConfig
from pruning.errors import InterruptedRunError
from pruning.experiment.events import BatchLogged, Event
from pruning.experiment.runner import run
from pruning.registry import FINETUNINGS
from pruning.training.recipe import Recipe, cross_entropy

DENSE = Recipe(10, 8, peak_lr=0.1, base_lr=0.02, weight_decay=5e-4, precision="fp32", seed=1)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


def state(seed: int) -> Mapping[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network(seed).state_dict().items()}


CONTEXT = FinetuneContext(
    recipe=replace(DENSE, epochs=3, peak_lr=0.05, base_lr=None),
    replay=replace(DENSE, first_epoch=2),
    fresh_weights=lambda: state(5),
    rewind_state=state(6),
    teacher=network(7).eval(),
    distill_weight=0.25,
    distill_temperature=3.0,
)


def weights_after(policy: str) -> Mapping[str, Tensor]:
    start_weights = FINETUNINGS.get(policy)(CONTEXT).start_weights
    return state(0) if start_weights is None else start_weights()


@pytest.mark.parametrize(
    ("policy", "seed"),
    [("continue", 0), ("none", 0), ("rewind_lr", 0), ("distill", 0), ("rewind", 6), ("reinit", 5)],
)
def test_each_policy_starts_from_its_weights(policy: str, seed: int) -> None:
    assert all(torch.equal(value, state(seed)[name]) for name, value in weights_after(policy).items())


@pytest.mark.parametrize("policy", FINETUNINGS.names())
def test_each_policy_trains_by_its_recipe_and_loss(policy: str) -> None:
    spec = FINETUNINGS.entry(policy).spec
    plan = FINETUNINGS.get(policy)(CONTEXT)
    expected = CONTEXT.replay if spec.replays_dense_training else CONTEXT.recipe
    assert plan.recipe == (expected if spec.trains else replace(expected, epochs=0))
    assert (plan.loss is cross_entropy) == (policy != "distill")
    assert spec.source


def test_distillation_equals_a_hand_computed_case() -> None:
    """Student logits 0 and log 3 are probabilities 1/4 and 3/4; the teacher's are 1/2 and 1/2."""
    teacher = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(teacher.weight)
    inputs, outputs = torch.ones(2, 2), torch.tensor([[0.0, 3.0], [0.0, 3.0]]).log().clamp(min=0)
    targets = torch.tensor([1, 1])
    divergence = 0.5 * torch.tensor([0.5 / 0.25, 0.5 / 0.75]).log().sum()
    plain = -torch.tensor(0.75).log()
    for weight in (0.0, 0.25, 1.0):
        found = distillation(teacher, weight, 1.0)(inputs, outputs, targets)
        torch.testing.assert_close(found, (1 - weight) * plain + weight * divergence)


def test_temperature_softens_both_outputs_and_keeps_the_scale_of_the_gradients() -> None:
    torch.manual_seed(0)
    teacher, inputs, targets = nn.Linear(4, 3), torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    outputs = torch.randn(5, 3, requires_grad=True)
    target = (teacher(inputs) / 2).softmax(1)
    student = (outputs / 2).softmax(1)
    expected = 4 * (target * (target / student).log()).sum(1).mean()
    found = distillation(teacher, 1.0, 2.0)(inputs, outputs, targets)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert outputs.grad is not None
    assert teacher.weight.grad is None
    torch.testing.assert_close(outputs.grad, 2 * (student - target).detach() / 5)


def test_the_teachers_batch_norm_statistics_do_not_change() -> None:
    inputs, targets = torch.randn(6, 4), torch.arange(6) % 3
    outputs = torch.randn(6, 3)
    teacher = network(7).eval()
    soft = (teacher(inputs).detach() / 3).softmax(1)
    divergence = functional.kl_div((outputs / 3).log_softmax(1), soft, reduction="batchmean")
    expected = 0.75 * functional.cross_entropy(outputs, targets) + 0.25 * 9 * divergence
    loss = FINETUNINGS.get("distill")(CONTEXT).loss
    for _ in range(2):
        torch.testing.assert_close(loss(inputs, outputs, targets), expected)


# Whole runs


class StopInSecondRound(SilentObserver):
    """Interrupts a run after a number of batches of the fine-tuning in its second round."""

    def __init__(self, after: int | None = None) -> None:
        self.left = after
        self.finetuning = False

    def event(self, event: Event) -> None:
        self.finetuning = isinstance(event, BatchLogged) and event.round == 2

    def progress(self, done: int, total: int) -> None:
        assert 0 <= done <= total

    def check_stop(self) -> None:
        if self.left is not None and self.finetuning:
            self.left -= 1
            if self.left == 0:
                raise InterruptedRunError(15)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    small_mnist(runs / ".images")
    return runs


def config(policy: str, runs: Path, **options: Any) -> RunConfig:
    training = {"epochs": 3, "batch_size": 50, "rounds": 2, "rewind_epoch": 2, "log_interval": 1}
    place = {"dataset": "mnist", "data": runs / ".images", "runs_dir": runs, "measure_seconds": 0}
    epochs = {} if FINETUNINGS.entry(policy).spec.replays_dense_training else {"finetune_epochs": 1}
    return resolve({**training, **place, **epochs, "finetune": policy, **options})


@pytest.mark.parametrize(
    "policy", [name for name in FINETUNINGS.names() if FINETUNINGS.entry(name).spec.trains]
)
def test_a_run_interrupted_in_a_finetuning_ends_with_the_same_bits(policy: str, runs: Path) -> None:
    whole, stopped = (
        config(policy, runs, name=f"{policy}-whole"),
        config(policy, runs, name=f"{policy}-stopped"),
    )
    run(whole, StopInSecondRound())
    with pytest.raises(InterruptedRunError):
        run(stopped, StopInSecondRound(after=3))
    result = run(stopped, StopInSecondRound())
    found, expected = (reproducible_result(runs / str(one.name)) for one in (stopped, whole))
    assert found == expected
    assert result["config"]["finetune_epochs"] == 1


def test_rewind_lr_repeats_the_learning_rates_of_the_dense_training(runs: Path) -> None:
    one = config("rewind_lr", runs, name="learning-rates", rewind_epoch=1, rounds=1, max_lr=0.2, seed=3)
    run(one, SilentObserver())
    logged = [event for event in events(runs / "learning-rates") if event["event"] == "batch"]
    dense = [(event["epoch"], event["lr"]) for event in logged if event["phase"] == "dense"]
    again = [(event["epoch"], event["lr"]) for event in logged if event["phase"] == "finetune"]
    assert again == [(epoch, lr) for epoch, lr in dense if epoch > 1]
    assert len(again) == 2 * 9  # 450 of 500 images are trained on


def test_rewind_restores_the_weights_of_the_dense_training(runs: Path) -> None:
    """Rewound to the last epoch, nothing is trained: the dense weights, except for the pruned ones."""
    run(config("rewind", runs, name="rewound", rewind_epoch=3, rounds=1), SilentObserver())
    network = load_file(runs / "rewound/model.safetensors")
    masks = load_file(runs / "rewound/masks.safetensors")
    (dense,) = (load_file(file) for file in (runs / ".dense").glob("*/epoch-3.safetensors"))
    assert all(torch.equal(value, dense[name] * masks.get(name, 1)) for name, value in network.items())
