"""Images that do not fit in memory: worker processes read and decode them, batch by batch."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from pruning.data.decoding import Fit, Shape, decode
from pruning.data.splits import AUGMENTATIONS, generator_for, normaliser
from pruning.errors import PruningError

_MOST_WORKERS = 8


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

    def split(
        self, device: torch.device, mean: tuple[float, ...], std: tuple[float, ...], augmentation: str | None
    ) -> StreamedSplit:
        """These images, ready to be read in batches that end up on `device`."""
        return StreamedSplit(self, device, mean, std, augmentation)


@dataclass(frozen=True)
class StreamedSplit:
    """What `Split` is, for images on disk. The targets are on `device`; the images arrive there batch by
    batch."""

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

    def batches(
        self,
        batch_size: int,
        *,
        order: Tensor | None = None,
        start: int = 0,
        augment: int | None = None,
        channels_last: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """As `Split.batches`, to the letter. A file that cannot be read raises PruningError when its turn
        comes."""
        rows = torch.arange(len(self)) if order is None else order.cpu()
        batches = list(enumerate(rows.split(batch_size)))[start:]
        in_workers = augment is not None and self.augmentation == "random_crop_and_flip"
        reader = _Reader(
            replace(self.files, fit="random_crop_and_flip") if in_workers else self.files, augment
        )
        normalise = normaliser(self.mean, self.std, self.device, channels_last)
        for (index, chosen), read in zip(batches, _in_workers(reader, batches, self.device), strict=True):
            if isinstance(read, PruningError):
                raise read
            inputs = read.to(self.device, non_blocking=True)
            if augment is not None and self.augmentation in AUGMENTATIONS:
                inputs = AUGMENTATIONS[self.augmentation](inputs, generator_for(augment, index))
            yield normalise(inputs), self.files.targets[chosen].to(self.device)


class _Reader(TorchDataset[Tensor | PruningError]):
    """(a batch's index, its rows) -> its images, uint8 [b, c, h, w]; runs in the worker processes.

    An error is handed back, not raised, since one that is raised in a worker arrives with a traceback as its
    message.
    """

    def __init__(self, files: ImageFiles, augment: int | None) -> None:
        self.files = files
        self.augment = augment

    def __getitem__(self, batch: tuple[int, Tensor]) -> Tensor | PruningError:
        index, rows = batch
        if self.augment is not None:
            torch.manual_seed(generator_for(self.augment, index).initial_seed())
        try:
            paths = (self.files.paths[row] for row in rows.tolist())
            return torch.stack([decode(path, self.files.shape, self.files.fit) for path in paths])
        except PruningError as error:
            return error


def _in_workers(
    reader: _Reader, batches: list[tuple[int, Tensor]], device: torch.device
) -> Iterator[Tensor | PruningError]:
    if not batches:
        return iter(())
    loader = DataLoader(
        reader,
        sampler=batches,
        batch_size=None,
        num_workers=min(_MOST_WORKERS, len(batches), os.cpu_count() or 1),
        pin_memory=device.type == "cuda",
        worker_init_fn=_leave_signals_to_parent,
    )
    return iter(loader)


def _leave_signals_to_parent(worker: int) -> None:
    # Ctrl-C and a batch system's SIGTERM reach the whole process group; the run finishes its batch and needs
    # us for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
