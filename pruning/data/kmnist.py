"""Kuzushiji-MNIST (Clanuwat et al. 2018, arXiv 1812.01718): 60,000 + 10,000 cursive Japanese letters."""

from __future__ import annotations

from pathlib import Path

from pruning.data.idx import read_mnist_like
from pruning.data.images import Progress, RawDataset
from pruning.registry import DATASETS

CLASSES = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")


@DATASETS.register("kmnist", classes=10, input="1x28x28")
def load(folder: Path | None, on_progress: Progress) -> RawDataset:
    """Kuzushiji-MNIST: 60,000 training and 10,000 test images of cursive hiragana, grey, 10 classes."""
    train, test = read_mnist_like("KMNIST", _download, folder, on_progress, classes=len(CLASSES))
    return RawDataset(CLASSES, train, test, mean=(0.1918,), std=(0.3483,))


def _download(folder: Path) -> None:
    from torchvision.datasets import KMNIST

    KMNIST(folder, download=True)
