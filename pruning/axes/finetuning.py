"""Axis 4, fine-tuning: how training continues after a pruning step.

A policy is a function ``(context) -> FinetunePlan``. The plan holds the weights to start from, the training recipe and
the loss of one round. The masks are applied again after the start weights are loaded, and held throughout. A policy
is called again when a run resumes in the middle of a round, so it must depend on nothing but its context.

The attributes of its registration are those of `registry.FinetuneSpec`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from pruning.registry import FINETUNINGS
from pruning.training.recipe import Recipe, TrainingLoss, cross_entropy

StateDict = Mapping[str, Tensor]


@dataclass(frozen=True)
class FinetuneContext:
    """Inputs of a fine-tuning policy for one round.

    Attributes:
        recipe: Training by --finetune-epochs and --finetune-lr; equal to `replay` for policies registered with
            replays_dense_training=True.
        replay: The dense training from --rewind-epoch to its end, with another order of the images.
        fresh_weights: Returns the state dict of a newly initialised network (other weights for every round and seed).
        rewind_state: State dict of the dense network after --rewind-epoch; None unless the policy is registered with
            needs_rewind_state=True.
        teacher: Computes the outputs of the trained dense network, without gradients; None unless the policy is
            registered with needs_teacher=True.
        distill_weight: Option --distill-weight, 0 to 1.
        distill_temperature: Option --distill-temperature.
    """

    recipe: Recipe
    replay: Recipe
    fresh_weights: Callable[[], StateDict]
    rewind_state: StateDict | None
    teacher: Callable[[Tensor], Tensor] | None
    distill_weight: float
    distill_temperature: float


@dataclass(frozen=True)
class FinetunePlan:
    """The training of one round. `start_weights` returns the state dict to start from; None keeps the weights."""

    recipe: Recipe
    start_weights: Callable[[], StateDict] | None = None
    loss: TrainingLoss = cross_entropy


@FINETUNINGS.register("continue", aliases=("go_on",), source="Han et al. 2015, arXiv 1506.02626")
def continue_training(context: FinetuneContext) -> FinetunePlan:
    """Continue training from the weights that pruning left"""
    return FinetunePlan(context.recipe)


@FINETUNINGS.register("none", trains=False, source="LeCun et al. 1990")
def none(context: FinetuneContext) -> FinetunePlan:
    """No training after pruning"""
    return FinetunePlan(replace(context.recipe, epochs=0))


@FINETUNINGS.register(
    "rewind",
    replays_dense_training=True,
    needs_rewind_state=True,
    source="Frankle et al. 2020, arXiv 1912.05671; Renda et al. 2020, arXiv 2003.02389",
)
def rewind_weights(context: FinetuneContext) -> FinetunePlan:
    """Rewind the kept weights and the learning rate to --rewind-epoch and repeat the dense training from there

    The optimizer is not rewound: momentum starts at zero, as in every round.
    """
    rewind_state = context.rewind_state
    assert rewind_state is not None, "registered with needs_rewind_state=True"
    return FinetunePlan(context.replay, start_weights=lambda: rewind_state)


@FINETUNINGS.register("rewind_lr", replays_dense_training=True, source="Renda et al. 2020, arXiv 2003.02389")
def rewind_learning_rate(context: FinetuneContext) -> FinetunePlan:
    """Keep the weights, rewind only the learning rate to --rewind-epoch and repeat the dense schedule from there"""
    return FinetunePlan(context.replay)


@FINETUNINGS.register(
    "reinit", source="Frankle and Carbin 2019, arXiv 1803.03635; Liu et al. 2019, arXiv 1810.05270"
)
def reinitialize(context: FinetuneContext) -> FinetunePlan:
    """Control: reinitialise all remaining weights, as if the pruned network had never been trained

    Batch-norm statistics are reset too. Every round has other weights.
    """
    return FinetunePlan(context.recipe, start_weights=context.fresh_weights)


@FINETUNINGS.register("distill", needs_teacher=True, source="Hinton et al. 2015, arXiv 1503.02531")
def distill(context: FinetuneContext) -> FinetunePlan:
    """Continue training with the dense network as teacher (--distill-weight, --distill-temperature)"""
    assert context.teacher is not None, "registered with needs_teacher=True"
    loss = distillation(context.teacher, context.distill_weight, context.distill_temperature)
    return FinetunePlan(context.recipe, loss=loss)


def distillation(teacher: Callable[[Tensor], Tensor], weight: float, temperature: float) -> TrainingLoss:
    """Return the loss (1 - a) x cross entropy + a T^2 x KL(teacher || student), a = `weight`, T = `temperature`.

    Both outputs are softened by T for the divergence (Hinton et al. 2015, section 2). The teacher sees the same
    augmented images as the student. Means are over the batch.
    """

    def loss(inputs: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            teacher_outputs = teacher(inputs)
        divergence = functional.kl_div(
            (outputs.float() / temperature).log_softmax(1),
            (teacher_outputs.float() / temperature).log_softmax(1),
            reduction="batchmean",
            log_target=True,
        )
        plain = functional.cross_entropy(outputs, targets)
        return (1 - weight) * plain + weight * temperature**2 * divergence

    return loss
