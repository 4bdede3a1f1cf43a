"""Train and evaluate a network on images that lie in memory on its device.

Nothing in here draws from a generator whose state would have to be saved: order, augmentation and dropout of every
batch follow from the recipe's seed and the position, so a training continued from its state is the same training.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from pruning.data import Dataset, Split, StreamedSplit
from pruning.training.machine import autocast, derive_seed, seed_everything
from pruning.training.optimizer import SGD
from pruning.utils.modules import is_channels_last

MOMENTUM = 0.9
WARM_UP = (
    0.3  # fraction of the steps in which the learning rate rises (Smith and Topin 2018, arXiv 1708.07120)
)
START_DIVISOR = 25.0  # the first learning rate is the peak / 25 unless a base below the peak is given
END_DIVISOR = 1e4  # the last learning rate is the first / 10,000
COUNTED_AT_ONCE = 16  # batches, whose outputs are kept until then


class NotFiniteError(Exception):
    """The training loss became NaN or infinite; the message says where."""


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a training, given the network and the data."""

    epochs: int
    batch_size: int
    peak_lr: float
    base_lr: float | None
    weight_decay: float
    precision: str
    seed: int
    limit: int | None = None  # batches in an epoch, where not all of them are done (dry run)
    first_epoch: int = 0  # where the training begins; the learning rate is that of all `epochs`


TrainingLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


def cross_entropy(inputs: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
    """The usual loss: of a batch's inputs, the network's outputs and the targets, the mean over the batch."""
    return functional.cross_entropy(outputs, targets)


class TrainingState:
    """Where a training stands: optimizer, the next batch to do, and what the log of the current epoch tells.

    With the network's own state this is all that continuing needs; `pack` and `unpack` carry it through a checkpoint.
    """

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self.optimizer = SGD(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=recipe.peak_lr,
            momentum=MOMENTUM,
            weight_decay=recipe.weight_decay,
        )
        self._batch_size = recipe.batch_size
        self._device = next(model.parameters()).device
        self.begin_epoch(recipe.first_epoch)

    def begin_epoch(self, epoch: int) -> None:
        self.epoch, self.batch, self.seen = epoch, 0, 0
        self._losses = torch.empty(0, device=self._device)  # of all batches that are counted
        self._correct = torch.zeros((), dtype=torch.int64, device=self._device)
        self._uncounted: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, loss: Tensor, outputs: Tensor, targets: Tensor) -> None:
        """Take in one batch, without waiting for the device; they are counted several at once, which is sooner."""
        self.batch += 1
        self.seen += len(targets)
        self._uncounted.append((loss, outputs, targets))
        if len(self._uncounted) == COUNTED_AT_ONCE:
            self._count()

    def mean_loss(self) -> float:
        """Of the images of this epoch so far, in which every batch but the last has the same size."""
        self._count()
        sizes = torch.full_like(self._losses, self._batch_size)
        sizes[-1] -= self.batch * self._batch_size - self.seen
        return (self._losses * sizes).sum().item() / self.seen

    def accuracy(self) -> float:
        """Percent of the images of this epoch so far, each as it was when it was trained on."""
        self._count()
        return 100 * self._correct.item() / self.seen

    def loss_is_finite(self) -> bool:
        """Whether that of every batch since the beginning of the epoch was."""
        self._count()
        return bool(self._losses.isfinite().all())

    def _count(self) -> None:
        if self._uncounted:
            losses, outputs, targets = zip(*self._uncounted, strict=True)
            self._losses = torch.cat([self._losses, torch.stack(losses)])
            self._correct += (torch.cat(outputs).argmax(1) == torch.cat(targets)).sum()
            self._uncounted.clear()

    def pack(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Tensors and numbers for a checkpoint."""
        self._count()
        momenta = {f"momentum.{index}": momentum for index, momentum in enumerate(self.optimizer.momenta())}
        tensors = {"losses": self._losses, "correct": self._correct, **momenta}
        return tensors, {"epoch": self.epoch, "batch": self.batch, "seen": self.seen}

    def unpack(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, int]) -> None:
        """Continue from what `pack` gave."""
        self.epoch, self.batch, self.seen = numbers["epoch"], numbers["batch"], numbers["seen"]
        self._losses = tensors["losses"].to(self._device)
        self._correct.copy_(tensors["correct"])
        for index, momentum in enumerate(self.optimizer.momenta()):
            momentum.copy_(tensors[f"momentum.{index}"])


@dataclass(frozen=True)
class Evaluation:
    """top1 and top5 in percent of the images seen; loss is their mean cross entropy."""

    top1: float
    top5: float
    loss: float


def one_cycle(step: int, steps: int, peak: float, base: float | None = None) -> float:
    """Learning rate of step 0 <= `step` < `steps`: cosine from `base` up to `peak`, then down to almost zero.

    The same curve as torch.optim.lr_scheduler.OneCycleLR, as a function of the step alone.
    """
    first = peak / START_DIVISOR if base is None else base
    top = WARM_UP * steps - 1
    last = steps - 1
    if step <= top:
        return _cosine(first, peak, step / top if top > 0 else 1.0)
    return _cosine(peak, first / END_DIVISOR, (step - top) / (last - top) if last > top else 1.0)


def _cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * fraction)) / 2


def batches_an_epoch(split: Sized, batch_size: int, limit: int | None = None) -> int:
    """Batches in an epoch, the last partial one included, at most `limit`."""
    every = math.ceil(len(split) / batch_size)
    return every if limit is None else min(every, limit)


def train(
    model: nn.Module,
    data: Dataset,
    recipe: Recipe,
    state: TrainingState,
    *,
    loss: TrainingLoss = cross_entropy,
    epochs: int | None = None,
    log_interval: int,
    on_log: Callable[[dict[str, Any]], None],
    on_epoch: Callable[[int], None],
    after_batch: Callable[[], None],
) -> None:
    """Train `model` in place from `state`, which moves along, to the end of the recipe (or of `epochs` of its epochs).

    `on_log` gets mean loss and accuracy (percent) of the epoch so far, every `log_interval` batches and at an epoch's
    end; `on_epoch` the number of epochs done, while the state still stands at the end of the last one: taken up from
    there, training begins with that call. `after_batch` is called after every step, when network and state agree:
    the moment to save, or to stop by raising. NotFiniteError when the loss became NaN or infinite.
    """
    device = next(model.parameters()).device
    in_epoch = batches_an_epoch(data.train, recipe.batch_size, recipe.limit)
    steps = recipe.epochs * in_epoch
    to_blocks = blocks_for(model, recipe.precision, device)
    while state.epoch < (recipe.epochs if epochs is None else epochs):
        model.train()
        shuffle = torch.Generator().manual_seed(derive_seed(recipe.seed, "shuffle", state.epoch))
        batches = data.train.batches(
            recipe.batch_size,
            order=torch.randperm(len(data.train), generator=shuffle),
            start=state.batch,
            augment=derive_seed(recipe.seed, "augment", state.epoch),
            channels_last=is_channels_last(model),
        )
        for inputs, targets in itertools.islice(batches, in_epoch - state.batch):
            step = state.epoch * in_epoch + state.batch
            learning_rate = one_cycle(step, steps, recipe.peak_lr, recipe.base_lr)
            for group in state.optimizer.param_groups:
                group["lr"] = learning_rate
            seed_everything(derive_seed(recipe.seed, "step", step), device)
            inputs = to_blocks(inputs)
            with autocast(recipe.precision, device):
                outputs = model(inputs)
                value = loss(inputs, outputs, targets)
            state.optimizer.zero_grad()
            value.backward()
            state.optimizer.step()
            state.add(value.detach(), outputs.detach(), targets)
            if state.batch % log_interval == 0 or state.batch == in_epoch:
                on_log(_log_entry(state, in_epoch, learning_rate))
            if state.batch < in_epoch:
                after_batch()
        on_epoch(state.epoch + 1)
        state.begin_epoch(state.epoch + 1)
        after_batch()


def blocks_for(model: nn.Module, precision: str, device: torch.device) -> Callable[[Tensor], Tensor]:
    """What makes of a batch of images the tensor that this network trains with: in general nothing else than they are.

    A network that is faster in oneDNN's blocked layout (torch's `mkldnn`: channels padded to whole vectors) has a
    method `to_blocks` for it, and goes back to ordinary tensors itself before the first operation that has no blocked
    form. It is asked where vectors have 16 numbers; with 8 the layout was slower. Outside of training every network
    gets images as they are.
    """
    has_blocks = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
    if has_blocks and device.type == "cpu" and precision == "fp32" and hasattr(model, "to_blocks"):
        return cast("Callable[[Tensor], Tensor]", model.to_blocks)
    return lambda images: images


def _log_entry(state: TrainingState, in_epoch: int, learning_rate: float) -> dict[str, Any]:
    check_finite(state)
    return {
        "epoch": state.epoch + 1,
        "batch": state.batch,
        "batches": in_epoch,
        "lr": learning_rate,
        "loss": state.mean_loss(),
        "accuracy": state.accuracy(),
    }


def check_finite(state: TrainingState) -> None:
    """NotFiniteError if any loss since the beginning of the epoch was NaN or infinite."""
    if not state.loss_is_finite():
        raise NotFiniteError(f"the training loss is {state.mean_loss()} in epoch {state.epoch + 1}")


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    split: Split | StreamedSplit,
    batch_size: int,
    precision: str,
    *,
    limit: int | None = None,
    between_batches: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Top-1, top-5 and loss of `model` on all images of `split` (or its first `limit` batches); the mode is left as is.

    With fewer than five classes top-5 counts all of them.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    sums = []
    seen = 0
    for inputs, targets in itertools.islice(
        split.batches(batch_size, channels_last=is_channels_last(model)), limit
    ):
        with autocast(precision, device):
            outputs = model(inputs).float()
        hits = outputs.topk(min(5, outputs.shape[1])).indices == targets[:, None]
        loss = functional.cross_entropy(outputs, targets, reduction="sum")
        sums.append(torch.stack([hits[:, 0].sum(), hits.sum(), loss]))
        seen += len(targets)
        between_batches()
    model.train(training)
    top1, top5, loss_sum = (math.fsum(column) for column in zip(*torch.stack(sums).tolist(), strict=True))
    return Evaluation(100 * top1 / seen, 100 * top5 / seen, loss_sum / seen)
