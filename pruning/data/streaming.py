"""Images that do not fit in memory: worker processes read and decode them, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from pruning.data.decoding import Fit, Shape, decode
from pruning.data.listing import fingerprint
from pruning.data.splits import AUGMENTATIONS, generator_for, normaliser
from pruning.data.workers import in_workers


@dataclass(frozen=True)
class ImageFiles:
    """Labelled images on disk: `paths` and `targets` (int64 [n]), and how each comes to `shape` (c, h, w)."""

    paths: tuple[str, ...]
    targets: Tensor
    shape: Shape
    fit: Fit

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, rows: Tensor) -> ImageFiles:
        """The images at `rows` (int64)."""
        paths = tuple(self.paths[row] for row in rows.tolist())
        return replace(self, paths=paths, targets=self.targets[rows])

    def decode(self, rows: Tensor) -> Tensor:
        """The images at `rows` (int64), decoded here and now: uint8 [b, c, h, w]."""
        return torch.stack([decode(self.paths[row], self.shape, self.fit) for row in rows.tolist()])

    def split(
        self, device: torch.device, mean: tuple[float, ...], std: tuple[float, ...], augmentation: str | None
    ) -> StreamedSplit:
        """These images, ready to be read in batches that end up on `device`."""
        return StreamedSplit(self, device, mean, std, augmentation)


@dataclass(frozen=True)
class StreamedSplit:
    """What `Split` is, for images on disk: they arrive on `device` batch by batch."""

    files: ImageFiles
    device: torch.device
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: str | None = None

    def __len__(self) -> int:
        return len(self.files)

    @property
    def targets(self) -> Tensor:
        """int64 [n] on the device"""
        return self.files.targets.to(self.device)

    def fingerprint(self) -> str:
        """A digest of the files' names, sizes and times of change: they are too many to be read for it."""
        return fingerprint(self.files.paths)

    def batches(
        self,
        batch_size: int,
        *,
        order: Tensor | None = None,
        start: int = 0,
        augment: int | None = None,
        channels_last: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """As `Split.batches`, to the letter; a file that cannot be read raises PruningError in its turn."""
        rows = torch.arange(len(self)) if order is None else order.cpu()
        batches = list(enumerate(rows.split(batch_size)))[start:]
        random = augment is not None and self.augmentation == "random_crop_and_flip"
        read = partial(
            _read, replace(self.files, fit="random_crop_and_flip") if random else self.files, augment
        )
        normalise = normaliser(self.mean, self.std, self.device, channels_last)
        images = in_workers(read, batches, pin_memory=self.device.type == "cuda")
        for (index, chosen), inputs in zip(batches, images, strict=True):
            inputs = inputs.to(self.device, non_blocking=True)
            if augment is not None and self.augmentation in AUGMENTATIONS:
                inputs = AUGMENTATIONS[self.augmentation](inputs, generator_for(augment, index))
            yield normalise(inputs), self.files.targets[chosen].to(self.device)


def _read(files: ImageFiles, augment: int | None, batch: tuple[int, Tensor]) -> Tensor:
    """The images of a batch, which is its index and its rows: uint8 [b, c, h, w], augmented by its own
    seed."""
    index, rows = batch
    with torch.random.fork_rng(devices=[]):
        if augment is not None:
            torch.manual_seed(generator_for(augment, index).initial_seed())
        return files.decode(rows)
