"""The recipe of a training: everything that determines it besides the network and the data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

MOMENTUM = 0.9
WARM_UP = (
    0.3  # fraction of the steps in which the learning rate rises (Smith and Topin 2018, arXiv 1708.07120)
)
START_DIVISOR = 25.0  # the first learning rate is the peak / 25 unless a base below the peak is given
END_DIVISOR = 1e4  # the last learning rate is the first / 10,000

TrainingLoss = Callable[[Tensor, Tensor, Tensor], Tensor]  # (inputs, outputs, targets) -> mean over the batch


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a training besides the network and the data.

    Attributes:
        epochs: Epochs of the whole training; the learning-rate schedule spans all of them.
        peak_lr: Highest learning rate of the one-cycle schedule.
        base_lr: First learning rate; None for the peak / 25.
        precision: "fp32" or "bf16" (autocast; weights and optimizer stay in float32).
        seed: Determines the order, augmentation and dropout of every batch.
        batch_limit: Batches in every epoch, None for all of them (a dry run sets it).
        first_epoch: Epoch at which the training begins, as if the earlier ones were done.
    """

    epochs: int
    batch_size: int
    peak_lr: float
    base_lr: float | None
    weight_decay: float
    precision: str
    seed: int
    batch_limit: int | None = None
    first_epoch: int = 0

    def batches_per_epoch(self, images: int) -> int:
        """Return the number of batches in an epoch over `images` images, a smaller last batch included."""
        return batches_per_epoch(images, self.batch_size, self.batch_limit)

    def learning_rate(self, step: int, steps: int) -> float:
        """Return the learning rate of step 0 <= `step` < `steps`."""
        return one_cycle(step, steps, self.peak_lr, self.base_lr)


def batches_per_epoch(images: int, batch_size: int, batch_limit: int | None = None) -> int:
    """Return the number of batches in one pass over `images` images, a smaller last batch included."""
    batches = math.ceil(images / batch_size)
    return batches if batch_limit is None else min(batches, batch_limit)


def cross_entropy(inputs: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy of a batch."""
    return functional.cross_entropy(outputs, targets)


def one_cycle(step: int, steps: int, peak: float, base: float | None = None) -> float:
    """Learning rate of a one-cycle schedule at step 0 <= `step` < `steps`.

    Cosine from `base` up to `peak`, then down to almost zero: the curve of torch.optim.lr_scheduler.OneCycleLR as a
    function of the step alone, so that a checkpoint needs no scheduler state.
    """
    first = peak / START_DIVISOR if base is None else base
    top = WARM_UP * steps - 1
    last = steps - 1
    if step <= top:
        return _cosine(first, peak, step / top if top > 0 else 1.0)
    return _cosine(peak, first / END_DIVISOR, (step - top) / (last - top) if last > top else 1.0)


def _cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * fraction)) / 2
