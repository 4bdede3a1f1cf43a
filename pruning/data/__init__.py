"""Data sets: uint8 images on the training device, cut into batches by indexing.

`load(name)` returns a `Dataset` with class names, image shape, normalisation, and three splits. A split is one
tensor of images on the device; a batch is a selection of its rows, converted to float and normalised. Images
that do not fit in memory are read by worker processes, through the same `batches` (see `streaming`).

The test images only report; they never select. The validation images are drawn from the training images by
seed, unless the data set has its own.

To add a data set, add a file with one decorated function::

    @DATASETS.register("name", classes=10, input="1x28x28")
    def load(folder: Path | None, on_progress: Progress) -> RawDataset:
        \"\"\"Summary for `list datasets`.\"\"\"

`folder` is the user's --data; None: the usual place, or download. Call `on_progress(what, done, total)` while
reading takes time.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from pruning.data.images import Images, Progress, RawDataset, ignore_progress, split_indices
from pruning.data.splits import Split
from pruning.data.streaming import ImageFiles, StreamedSplit
from pruning.errors import PruningError
from pruning.registry import DATASETS

__all__ = ["Dataset", "ImageFiles", "Images", "RawDataset", "Split", "StreamedSplit", "load"]


@dataclass(frozen=True)
class Dataset:
    """A data set, ready to train on.

    shape: (channels, height, width) of every image.
    mean, std: normalisation per channel, of images scaled to 0..1.
    augmentation: augmentation of training images by `batches(..., augmentation_seed=seed)`; None: no augmentation.
    """

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    train: Split | StreamedSplit
    validation: Split | StreamedSplit
    test: Split | StreamedSplit
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: str | None

    def fingerprint(self) -> str:
        """Return a SHA-256 of the fingerprints of all splits, the normalisation and the augmentation."""
        prints = [split.fingerprint() for split in (self.train, self.validation, self.test)]
        return hashlib.sha256(repr((prints, self.mean, self.std, self.augmentation)).encode()).hexdigest()


def load(
    name: str,
    *,
    folder: Path | None = None,
    device: torch.device | str = "cpu",
    validation: float = 0.1,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> Dataset:
    """Load the data set `name`.

    Args:
        folder: the user's files; None: the usual place, or download.
        device: device of the images.
        validation: fraction of the training images, at least 0 and less than 1, that is held out for
            validation; not used if the data set has its own validation images.
        seed: draws the validation images.

    Raises:
        PruningError: for an unknown name, a fraction out of range, and missing or damaged files.
    """
    if not 0 <= validation < 1:
        raise PruningError(
            f"--validation {validation} must be at least 0 and less than 1, such as 0.1.",
            options=("validation",),
        )
    if folder is not None and not folder.is_dir():
        raise PruningError(f"--data {folder} does not exist or is not a folder.", options=("data",))
    folder = folder and folder.absolute()
    raw: RawDataset = DATASETS.get(name)(folder, on_progress or ignore_progress)
    train, held_out = raw.train, raw.validation
    if held_out is None:
        train, held_out = _hold_out(train, validation, seed)

    def split(images: Images | ImageFiles) -> Split | StreamedSplit:
        return images.split(torch.device(device), raw.mean, raw.std, raw.augmentation)

    return Dataset(
        name=name,
        classes=raw.classes,
        shape=raw.train.shape,
        train=split(train),
        validation=split(held_out),
        test=split(raw.test),
        mean=raw.mean,
        std=raw.std,
        augmentation=raw.augmentation,
    )


def _hold_out(
    images: Images | ImageFiles, fraction: float, seed: int
) -> tuple[Images | ImageFiles, Images | ImageFiles]:
    """Return training and validation images; the latter are `round(fraction * n)` drawn by `seed`."""
    count = round(fraction * len(images))
    if count == len(images):
        raise PruningError(
            f"--validation {fraction} of {len(images)} training images leaves none to train on. "
            "Choose a smaller fraction.",
            options=("validation",),
        )
    if fraction and not count:
        raise PruningError(
            f"--validation {fraction} of {len(images)} training images rounds to 0 images. "
            "Choose a larger fraction, or 0.",
            options=("validation",),
        )
    kept, held_out = split_indices(len(images), count, seed)
    return images.select(kept), images.select(held_out)
