"""CIFAR-100 (Krizhevsky 2009, "Learning multiple layers of features from tiny images"), fine labels."""

from __future__ import annotations

from pathlib import Path

from torchvision.datasets import CIFAR100

from pruning.data.cifar import read_cifar
from pruning.data.images import Progress, RawDataset
from pruning.registry import DATASETS

MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


@DATASETS.register("cifar100", classes=100, input="3x32x32")
def load(folder: Path | None, on_progress: Progress) -> RawDataset:
    """CIFAR-100: 50,000 training and 10,000 test photographs of 100 kinds of things."""
    classes, train, test = read_cifar(CIFAR100, folder, on_progress)
    return RawDataset(classes, train, test, MEAN, STD, augmentation="crop_and_flip")
