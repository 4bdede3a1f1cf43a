"""Axis 4, fine-tuning: how training continues after a pruning.

A policy is a function ``(context) -> FinetunePlan``. The plan names the weights to start from, the training recipe and
the loss of one round. The masks are applied again after the policy has replaced weights, and held throughout. A policy
is called again when a run resumes in the middle of a round, so it must depend on nothing but its context.

The attributes of its registration are those of `registry.FinetuneSpec`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from pruning.registry import FINETUNINGS
from pruning.training.loop import Recipe, TrainingLoss, cross_entropy

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class FinetuneContext:
    """What a policy can make use of in one round.

    recipe: as --finetune-epochs and --finetune-lr say; `replay` for policies registered with
        replays_dense_training=True.
    replay: the dense training's, from --rewind-epoch to its end, with another order of the images.
    network: makes a network of the same architecture, on the device, with weights drawn anew (for this round, by seed).
    rewound: the dense network's state after --rewind-epoch; None unless registered with
        needs_rewind_state=True.
    dense: the dense network's state at the end of its training; None unless registered with needs_teacher=True.
    distill_weight, distill_temperature: the options of these names.
    """

    recipe: Recipe
    replay: Recipe
    network: Callable[[], nn.Module]
    rewound: State | None
    dense: State | None
    distill_weight: float
    distill_temperature: float


@dataclass(frozen=True)
class FinetunePlan:
    """How a round trains: `start` puts other weights in place, in a network just pruned; None if it keeps its own."""

    recipe: Recipe
    start: Callable[[nn.Module], object] | None = None
    loss: TrainingLoss = cross_entropy


@FINETUNINGS.register("continue", aliases=("go_on",), source="Han et al. 2015, arXiv 1506.02626")
def continue_training(situation: FinetuneContext) -> FinetunePlan:
    """Train on from the weights as they are"""
    return FinetunePlan(situation.recipe)


@FINETUNINGS.register("none", trains=False, source="LeCun et al. 1990")
def none(situation: FinetuneContext) -> FinetunePlan:
    """No training after pruning"""
    return FinetunePlan(replace(situation.recipe, epochs=0))


@FINETUNINGS.register(
    "rewind",
    replays_dense_training=True,
    needs_rewind_state=True,
    source="Frankle et al. 2020, arXiv 1912.05671; Renda et al. 2020, arXiv 2003.02389",
)
def rewind_weights(situation: FinetuneContext) -> FinetunePlan:
    """Kept weights and learning rate go back to --rewind-epoch, and the dense training is done again from there

    Of the optimizer nothing goes back: momentum begins at zero, as in every round.
    """
    rewound = situation.rewound
    assert rewound is not None, "registered with needs_rewind_state=True"
    return FinetunePlan(situation.replay, start=lambda model: model.load_state_dict(rewound))


@FINETUNINGS.register("rewind_lr", replays_dense_training=True, source="Renda et al. 2020, arXiv 2003.02389")
def rewind_learning_rate(situation: FinetuneContext) -> FinetunePlan:
    """Weights stay; the learning rate goes back to --rewind-epoch and takes the dense training's course again"""
    return FinetunePlan(situation.replay)


@FINETUNINGS.register(
    "reinit", source="Frankle and Carbin 2019, arXiv 1803.03635; Liu et al. 2019, arXiv 1810.05270"
)
def reinitialise(situation: FinetuneContext) -> FinetunePlan:
    """A control: everything that is left is drawn anew, as if the pruned network had never been trained

    By the architecture's own initialisation, batch-norm statistics included; each round draws others.
    """
    return FinetunePlan(
        situation.recipe, start=lambda model: model.load_state_dict(situation.network().state_dict())
    )


@FINETUNINGS.register("distill", needs_teacher=True, source="Hinton et al. 2015, arXiv 1503.02531")
def distill(situation: FinetuneContext) -> FinetunePlan:
    """Train on with the dense network as teacher, by --distill-weight and --distill-temperature"""
    assert situation.dense is not None, "registered with needs_teacher=True"
    teacher = situation.network().eval().requires_grad_(False)
    teacher.load_state_dict(situation.dense)
    loss = distillation(teacher, situation.distill_weight, situation.distill_temperature)
    return FinetunePlan(situation.recipe, loss=loss)


def distillation(teacher: nn.Module, weight: float, temperature: float) -> TrainingLoss:
    """(1 - a) x cross entropy + a T^2 x KL(teacher || student), a being the weight (Hinton et al. 2015, section 2).

    For the divergence both are softened by the temperature T. The teacher sees the very images, augmented, that the
    student sees; the means are over a batch.
    """

    def loss(inputs: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            taught = teacher(inputs)
        divergence = functional.kl_div(
            (outputs.float() / temperature).log_softmax(1),
            (taught.float() / temperature).log_softmax(1),
            reduction="batchmean",
            log_target=True,
        )
        plain = functional.cross_entropy(outputs, targets)
        return (1 - weight) * plain + weight * temperature**2 * divergence

    return loss
