"""Images that do not fit in memory: worker processes read and decode each batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from pruning.data.decoding import Fit, Shape, decode
from pruning.data.listing import fingerprint
from pruning.data.splits import AUGMENTATIONS, batch_generator, make_normalize
from pruning.data.workers import map_in_workers


@dataclass(frozen=True)
class ImageFiles:
    """Labelled images on disk.

    targets: int64 [n].
    shape: (channels, height, width) of the decoded images.
    fit: how images are fitted to `shape`.
    """

    paths: tuple[str, ...]
    targets: Tensor
    shape: Shape
    fit: Fit

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, indices: Tensor) -> ImageFiles:
        """Return the images at `indices` (int64)."""
        paths = tuple(self.paths[index] for index in indices.tolist())
        return replace(self, paths=paths, targets=self.targets[indices])

    def decode(self, indices: Tensor) -> Tensor:
        """Decode the images at `indices` (int64) into uint8 [b, c, h, w], in this process."""
        return torch.stack([decode(self.paths[index], self.shape, self.fit) for index in indices.tolist()])

    def split(
        self, device: torch.device, mean: tuple[float, ...], std: tuple[float, ...], augmentation: str | None
    ) -> StreamedSplit:
        """Return the images as a split with batches on `device`."""
        return StreamedSplit(self, device, mean, std, augmentation)


@dataclass(frozen=True)
class StreamedSplit:
    """A `Split` of images on disk; each batch is read when it is needed and moved to `device`."""

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
        """Return a SHA-256 of the files' names, sizes and modification times; reading them would take too long."""
        return fingerprint(self.files.paths)

    def batches(
        self,
        batch_size: int,
        *,
        order: Tensor | None = None,
        start: int = 0,
        augmentation_seed: int | None = None,
        channels_last: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Like `Split.batches`; an unreadable file raises PruningError at its batch."""
        indices = torch.arange(len(self)) if order is None else order.cpu()
        batches = list(enumerate(indices.split(batch_size)))[start:]
        random = augmentation_seed is not None and self.augmentation == "random_crop_and_flip"
        files = replace(self.files, fit="random_crop_and_flip") if random else self.files
        read = partial(_read_batch, files, augmentation_seed)
        normalize = make_normalize(self.mean, self.std, self.device, channels_last)
        images = map_in_workers(read, batches, pin_memory=self.device.type == "cuda")
        for (index, chosen), inputs in zip(batches, images, strict=True):
            inputs = inputs.to(self.device, non_blocking=True)
            if augmentation_seed is not None and self.augmentation in AUGMENTATIONS:
                inputs = AUGMENTATIONS[self.augmentation](inputs, batch_generator(augmentation_seed, index))
            yield normalize(inputs), self.files.targets[chosen].to(self.device)


def _read_batch(files: ImageFiles, augmentation_seed: int | None, batch: tuple[int, Tensor]) -> Tensor:
    """Read a batch, given its index and the indices of its images, into uint8 [b, c, h, w]."""
    index, indices = batch
    with torch.random.fork_rng(devices=[]):
        if augmentation_seed is not None:
            torch.manual_seed(batch_generator(augmentation_seed, index).initial_seed())
        return files.decode(indices)
