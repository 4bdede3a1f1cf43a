"""Evaluation: top-1, top-5 and loss over a split."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from pruning.data import Split, StreamedSplit
from pruning.training.device import autocast
from pruning.utils.modules import is_channels_last


@dataclass(frozen=True)
class Evaluation:
    """Metrics over the images seen: `top1` and `top5` in percent, `loss` their mean cross entropy."""

    top1: float
    top5: float
    loss: float


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    split: Split | StreamedSplit,
    batch_size: int,
    precision: str,
    *,
    batch_limit: int | None = None,
    between_batches: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Return the metrics of `model` on `split`, or on its first `batch_limit` batches. The mode is restored.

    With fewer than five classes, top-5 counts all of them. Accuracy is correct / seen.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    sums = []
    seen = 0
    batches = split.batches(batch_size, channels_last=is_channels_last(model))
    for inputs, targets in itertools.islice(batches, batch_limit):
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
