"""Kuzushiji-MNIST (Clanuwat et al. 2018, arXiv 1812.01718): 60,000 + 10,000 cursive Japanese letters."""

from __future__ import annotations

from pathlib import Path

from pruning.data import idx
from pruning.data.images import Progress, Source
from pruning.registry import DATASETS

CLASSES = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")


@DATASETS.register("kmnist", classes=10, input="1x28x28")
def load(folder: Path | None, on_progress: Progress) -> Source:
    """Kuzushiji-MNIST: 60,000 training and 10,000 test images of cursive hiragana, grey, 10 classes."""
    train, test = idx.mnist_like("KMNIST", folder, on_progress, classes=10)
    return Source(CLASSES, train, test, mean=(0.1918,), std=(0.3483,))
