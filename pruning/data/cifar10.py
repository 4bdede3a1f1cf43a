"""CIFAR-10 (Krizhevsky 2009, "Learning multiple layers of features from tiny images")."""

from __future__ import annotations

from pathlib import Path

from torchvision.datasets import CIFAR10

from pruning.data.cifar import read_cifar
from pruning.data.images import Progress, RawDataset
from pruning.registry import DATASETS

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


@DATASETS.register("cifar10", classes=10, input="3x32x32")
def load(folder: Path | None, on_progress: Progress) -> RawDataset:
    """CIFAR-10: 50,000 training and 10,000 test photographs of 10 kinds of animals and vehicles."""
    classes, train, test = read_cifar(CIFAR10, folder, on_progress)
    return RawDataset(classes, train, test, MEAN, STD, augmentation="crop_and_flip")
