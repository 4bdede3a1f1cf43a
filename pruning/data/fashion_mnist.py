"""Fashion-MNIST (Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747): 60,000 + 10,000 grey images of clothes."""

from __future__ import annotations

from pathlib import Path

from pruning.data.idx import read_mnist_like
from pruning.data.images import Progress, RawDataset
from pruning.registry import DATASETS

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
MEAN, STD = (0.2860,), (0.3530,)

# Debian's package dataset-fashion-mnist installs the files here.
SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")


@DATASETS.register("fashion_mnist", classes=10, input="1x28x28")
def load(folder: Path | None, on_progress: Progress) -> RawDataset:
    """Fashion-MNIST: 60,000 training and 10,000 test images of clothes, grey, 10 classes."""
    train, test = read_mnist_like(
        "FashionMNIST", _download, folder, on_progress, classes=len(CLASSES), system_folder=SYSTEM_FOLDER
    )
    return RawDataset(CLASSES, train, test, MEAN, STD)


def _download(folder: Path) -> None:
    from torchvision.datasets import FashionMNIST

    FashionMNIST(folder, download=True)
