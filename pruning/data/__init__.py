"""Data sets, held where the training happens and cut into batches by indexing.

`load(name)` gives a `Dataset`: class names, image shape, normalisation, and three splits. A split is one
tensor of uint8 images on the device; a batch is a selection of its rows, converted and normalised at once.
Only images that do not fit in memory are read by worker processes, through the same `batches` (see
`pruning.data.streaming`).

The test images are the data set's own and serve no choice. The validation images are held out of the training
images by seed, except where a data set (a folder with `train`, `val` and `test`) brings its own.

A data set is one file of this package, with one function::

    @DATASETS.register("name", classes=10, input="1x28x28")
    def load(folder: Path | None, on_progress: Progress) -> RawDataset:
        \"\"\"One line for `list datasets`.\"\"\"

`folder` is where the user keeps the data (None: look where it usually is, else download). `on_progress(what,
done, total)` is called now and then while reading takes time. The `RawDataset` that comes back knows neither seed
nor device.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from pruning.data.images import Images, Progress, RawDataset, draw, no_progress
from pruning.data.splits import Split
from pruning.data.streaming import ImageFiles, StreamedSplit
from pruning.errors import PruningError
from pruning.registry import DATASETS

__all__ = ["Dataset", "ImageFiles", "Images", "RawDataset", "Split", "StreamedSplit", "load"]


@dataclass(frozen=True)
class Dataset:
    """A data set, ready to train on.

    `shape` is (channels, height, width) of every image; `mean` and `std` are per channel, of images scaled to
    0..1; `augmentation` names what `batches(..., augment=seed)` does to training images (None: nothing).
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
        """A digest of all images, as `Split.fingerprint` or `StreamedSplit.fingerprint` see them, and of what is done
        to them on their way into a batch."""
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
    """The data set called `name`, its images on `device`.

    `round(validation * n)` of the n training images, drawn by `seed`, are held out for validation, unless the
    data set has validation images of its own. Raises PruningError for an unknown name, a fraction outside 0
    <= f < 1, and files that are missing or damaged.
    """
    if not 0 <= validation < 1:
        raise PruningError(
            f"The validation fraction is {validation}, but must be at least 0 and less than 1, such as 0.1."
        )
    if folder is not None and not folder.is_dir():
        raise PruningError(f"The data folder {folder} does not exist or is not a folder.")
    folder = folder and folder.absolute()
    source: RawDataset = DATASETS.get(name)(folder, on_progress or no_progress)
    train, held_out = source.train, source.validation
    if held_out is None:
        train, held_out = _hold_out(train, validation, seed)

    def split(images: Images | ImageFiles) -> Split | StreamedSplit:
        return images.split(torch.device(device), source.mean, source.std, source.augmentation)

    return Dataset(
        name=name,
        classes=source.classes,
        shape=source.train.shape,
        train=split(train),
        validation=split(held_out),
        test=split(source.test),
        mean=source.mean,
        std=source.std,
        augmentation=source.augmentation,
    )


def _hold_out(
    images: Images | ImageFiles, fraction: float, seed: int
) -> tuple[Images | ImageFiles, Images | ImageFiles]:
    """The images without a part drawn by `seed`, and that part."""
    count = round(fraction * len(images))
    if count == len(images):
        raise PruningError(
            f"Holding out {fraction} of {len(images)} training images leaves none to train on."
        )
    if fraction and not count:
        raise PruningError(
            f"Holding out {fraction} of {len(images)} training images leaves none to validate on."
        )
    kept, held_out = draw(len(images), count, seed)
    return images.select(kept), images.select(held_out)
