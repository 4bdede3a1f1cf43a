"""The state of a training between two steps: optimizer, position, and the running metrics of the epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from pruning.training.fused_sgd import FusedSGD
from pruning.training.recipe import MOMENTUM, Recipe

COUNTED_TOGETHER = (
    16  # batches; their outputs are kept until then, because one count of 16 is faster than 16 counts
)


class NotFiniteError(Exception):
    """The training loss became NaN or infinite; the message has the epoch."""


class TrainingState:
    """Optimizer, position and running metrics of a training. With the weights, all that a checkpoint needs of it.

    Attributes:
        optimizer: The optimizer of the trainable parameters.
        epoch: Complete epochs.
        batch: Complete batches of the current epoch.
        batches_per_epoch: Batches in every epoch.
        learning_rate: Learning rate of the last step.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, images: int) -> None:
        self.optimizer: torch.optim.Optimizer = FusedSGD(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=recipe.peak_lr,
            momentum=MOMENTUM,
            weight_decay=recipe.weight_decay,
        )
        self.recipe = recipe
        self.batches_per_epoch = recipe.batches_per_epoch(images)
        self.learning_rate = recipe.peak_lr
        self._device = next(model.parameters()).device
        self.begin_epoch(recipe.first_epoch)

    def begin_epoch(self, epoch: int) -> None:
        """Move to the start of `epoch`."""
        self.epoch, self.batch, self._seen = epoch, 0, 0
        self._losses = torch.empty(0, device=self._device)  # of all counted batches of the epoch
        self._correct = torch.zeros((), dtype=torch.int64, device=self._device)
        self._uncounted: list[tuple[Tensor, Tensor, Tensor]] = []

    @property
    def step(self) -> int:
        """Number of the next step, counted from epoch 0 of the recipe."""
        return self.epoch * self.batches_per_epoch + self.batch

    @property
    def steps(self) -> int:
        """Steps of the whole recipe, counted from epoch 0."""
        return self.recipe.epochs * self.batches_per_epoch

    @property
    def steps_done(self) -> int:
        """Steps done since the recipe's first epoch."""
        return self.step - self.recipe.first_epoch * self.batches_per_epoch

    def set_learning_rate(self) -> None:
        """Set the learning rate of the next step in every parameter group."""
        self.learning_rate = self.recipe.learning_rate(self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate

    def add_batch(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> None:
        """Count one batch without synchronising with the device."""
        self.batch += 1
        self._seen += len(targets)
        self._uncounted.append((loss, outputs, targets))
        if len(self._uncounted) == COUNTED_TOGETHER:
            self._count()

    def mean_loss(self) -> float:
        """Return the mean loss over the images of the epoch so far. All batches but the last have the same size."""
        self._count()
        sizes = torch.full_like(self._losses, self.recipe.batch_size)
        sizes[-1] -= self.batch * self.recipe.batch_size - self._seen
        return (self._losses * sizes).sum().item() / self._seen

    def accuracy(self) -> float:
        """Return the training accuracy (percent) over the images of the epoch so far."""
        self._count()
        return 100 * self._correct.item() / self._seen

    def check_finite(self) -> None:
        """Raise NotFiniteError if the loss of any batch of the epoch was NaN or infinite."""
        self._count()
        if not bool(self._losses.isfinite().all()):
            raise NotFiniteError(f"the training loss is {self.mean_loss()} in epoch {self.epoch + 1}")

    def _count(self) -> None:
        if self._uncounted:
            losses, outputs, targets = zip(*self._uncounted, strict=True)
            self._losses = torch.cat([self._losses, torch.stack(losses)])
            self._correct += (torch.cat(outputs).argmax(1) == torch.cat(targets)).sum()
            self._uncounted.clear()

    def pack(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Return the tensors and the position for a checkpoint."""
        self._count()
        tensors = {"losses": self._losses, "correct": self._correct}
        for index, state in enumerate(self._optimizer_states()):
            tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
        return tensors, {"epoch": self.epoch, "batch": self.batch, "seen": self._seen}

    def unpack(self, tensors: Mapping[str, Tensor], position: Mapping[str, int]) -> None:
        """Continue from what `pack` returned."""
        self.epoch, self.batch, self._seen = position["epoch"], position["batch"], position["seen"]
        self._losses = tensors["losses"].to(self._device)
        self._correct.copy_(tensors["correct"])
        for index, state in enumerate(self._optimizer_states()):
            for name, buffer in state.items():
                buffer.copy_(tensors[f"optimizer.{index}.{name}"])

    def _optimizer_states(self) -> Iterator[dict[str, Tensor]]:
        """The optimizer's tensors of each parameter, in the order of its parameter groups."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                yield self.optimizer.state[parameter]
