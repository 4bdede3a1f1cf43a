"""RawDataset, which a data set's file returns, and labelled images in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pruning.data.splits import Split

if TYPE_CHECKING:
    from pruning.data.streaming import ImageFiles

# Called with a description, the number of finished items and their total.
Progress = Callable[[str, int, int], None]


def ignore_progress(what: str, done: int, total: int) -> None:
    """Report nothing."""


def split_indices(total: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw `count` of `total` indices by `seed`; return the others and those drawn (int64, ascending)."""
    drawn = torch.zeros(total, dtype=torch.bool)
    drawn[torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count]] = True
    return (~drawn).nonzero().flatten(), drawn.nonzero().flatten()


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

    def select(self, indices: Tensor) -> Images:
        """Return a copy of the images at `indices` (int64)."""
        return Images(self.inputs.index_select(0, indices), self.targets[indices])

    def split(
        self, device: torch.device, mean: tuple[float, ...], std: tuple[float, ...], augmentation: str | None
    ) -> Split:
        """Move the images to `device`."""
        return Split(self.inputs.to(device), self.targets.to(device), mean, std, augmentation)


@dataclass(frozen=True)
class RawDataset:
    """A data set as its file reads it, independent of seed and device.

    classes: class names; target i is `classes[i]`.
    mean, std: the usual normalisation, per channel, of images scaled to 0..1.
    augmentation: name in `splits.AUGMENTATIONS`, or "random_crop_and_flip" for images on disk.
    validation: only if the data set has its own validation images.
    """

    classes: tuple[str, ...]
    train: Images | ImageFiles
    test: Images | ImageFiles
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: str | None = None
    validation: Images | ImageFiles | None = None
