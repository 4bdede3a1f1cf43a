"""The bundled default: the first images of Fashion-MNIST, so that a run needs nothing but this package."""

from __future__ import annotations

from pathlib import Path

from pruning.data.fashion_mnist import CLASSES, MEAN, STD
from pruning.data.idx import read_images
from pruning.data.images import Progress, RawDataset
from pruning.errors import PruningError
from pruning.registry import DATASETS

BUNDLE = Path(__file__).parent / "fashion_mini"


@DATASETS.register("fashion_mini", classes=10, input="1x28x28")
def load(folder: Path | None, on_progress: Progress) -> RawDataset:
    """The first 12,000 training and 5,000 test images of Fashion-MNIST, bundled; grey clothes, 10 classes."""
    if folder is not None:
        raise PruningError(
            f"fashion_mini comes with the package and reads no data folder, but {folder} was given: "
            "data set fashion_mnist reads the full set there, data set folder any images."
        )
    parts = {
        part: read_images(
            BUNDLE / f"{part}-images-idx3-ubyte.gz",
            BUNDLE / f"{part}-labels-idx1-ubyte.gz",
            classes=len(CLASSES),
        )
        for part in ("train", "t10k")
    }
    return RawDataset(CLASSES, parts["train"], parts["t10k"], MEAN, STD)
