"""Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747): 60,000 + 10,000 grey images of clothes."""

from __future__ import annotations

from pathlib import Path

from pruning.data import idx
from pruning.data.images import Progress, Source
from pruning.registry import DATASETS

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
MEAN, STD = (0.2860,), (0.3530,)

# Where Debian's package dataset-fashion-mnist puts the files.
SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")


@DATASETS.register("fashion_mnist", classes=10, input="1x28x28")
def load(folder: Path | None, on_progress: Progress) -> Source:
    """Fashion-MNIST: 60,000 training and 10,000 test images of clothes, grey, 10 classes."""
    train, test = idx.mnist_like("FashionMNIST", folder, on_progress, classes=10, system_folder=SYSTEM_FOLDER)
    return Source(CLASSES, train, test, MEAN, STD)
