"""MNIST (LeCun, Bottou, Bengio and Haffner 1998): 60,000 + 10,000 grey handwritten digits."""

from __future__ import annotations

from pathlib import Path

from pruning.data.idx import read_mnist_like
from pruning.data.images import Progress, RawDataset
from pruning.registry import DATASETS


@DATASETS.register("mnist", classes=10, input="1x28x28")
def load(folder: Path | None, on_progress: Progress) -> RawDataset:
    """MNIST: 60,000 training and 10,000 test images of handwritten digits, grey, 10 classes."""
    train, test = read_mnist_like("MNIST", _download, folder, on_progress, classes=10)
    return RawDataset(tuple("0123456789"), train, test, mean=(0.1307,), std=(0.3081,))


def _download(folder: Path) -> None:
    from torchvision.datasets import MNIST

    MNIST(folder, download=True)
