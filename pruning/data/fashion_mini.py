"""The bundled default: the first images of Fashion-MNIST, so that a run needs only this package."""

from __future__ import annotations

from pathlib import Path

from pruning.data.fashion_mnist import CLASSES, MEAN, STD
from pruning.data.idx import MNIST_FILES, read_images
from pruning.data.images import Progress, RawDataset
from pruning.errors import PruningError
from pruning.registry import DATASETS

BUNDLE = Path(__file__).parent / "fashion_mini"


@DATASETS.register("fashion_mini", classes=10, input="1x28x28")
def load(folder: Path | None, on_progress: Progress) -> RawDataset:
    """The first 12,000 training and 5,000 test images of Fashion-MNIST, bundled; grey clothes, 10 classes."""
    if folder is not None:
        raise PruningError(
            f"--data {folder} conflicts with --dataset fashion_mini, which is bundled. "
            "Choose --dataset fashion_mnist for the full set, or --dataset folder for any images.",
            options=("data", "dataset"),
        )
    paths = [BUNDLE / f"{file}.gz" for file in MNIST_FILES]
    train, test = (read_images(*pair, classes=len(CLASSES)) for pair in (paths[:2], paths[2:]))
    return RawDataset(CLASSES, train, test, MEAN, STD)
