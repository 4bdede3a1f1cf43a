"""What a data set's file hands over: labelled images in memory, and the facts that belong to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pruning.data.splits import Split

if TYPE_CHECKING:
    from pruning.data.streaming import ImageFiles

Progress = Callable[[str, int, int], None]


def draw(total: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of `total` (int64, ascending): those that are left when `count` are drawn by `seed`, and those
    drawn."""
    drawn = torch.zeros(total, dtype=torch.bool)
    drawn[torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count]] = True
    return (~drawn).nonzero().flatten(), drawn.nonzero().flatten()


def no_progress(what: str, done: int, total: int) -> None:
    """The listener of those who do not ask for progress."""


@dataclass(frozen=True)
class Images:
    """Labelled images in host memory: `inputs` uint8 [n, c, h, w], `targets` int64 [n]."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)"""
        _, channels, height, width = self.inputs.shape
        return channels, height, width

    def select(self, rows: Tensor) -> Images:
        """The images at `rows` (int64), copied."""
        return Images(self.inputs.index_select(0, rows), self.targets[rows])

    def split(
        self, device: torch.device, mean: tuple[float, ...], std: tuple[float, ...], augmentation: str | None
    ) -> Split:
        """These images on `device`, ready to be cut into batches."""
        return Split(self.inputs.to(device), self.targets.to(device), mean, std, augmentation)


@dataclass(frozen=True)
class RawDataset:
    """A data set as read.

    `classes` are names in the order of the targets; `mean` and `std` per channel, of images scaled to 0..1,
    and `augmentation` are the usual ones; `validation` is there only if the data set has validation images of
    its own.
    """

    classes: tuple[str, ...]
    train: Images | ImageFiles
    test: Images | ImageFiles
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: str | None = None
    validation: Images | ImageFiles | None = None
