"""CIFAR-10 (Krizhevsky 2009, "Learning multiple layers of features from tiny images")."""

from __future__ import annotations

from pathlib import Path

from pruning.data.cifar import find_cifar, read_cifar
from pruning.data.images import Progress, Source
from pruning.registry import DATASETS

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


@DATASETS.register("cifar10", classes=10, input="3x32x32")
def load(folder: Path | None, on_progress: Progress) -> Source:
    """CIFAR-10: 50,000 training and 10,000 test photographs of 10 kinds of animals and vehicles."""
    files = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    paths = find_cifar("CIFAR10", "cifar-10-batches-py", files, folder, on_progress)
    train, test = (read_cifar(part, "labels", len(CLASSES)) for part in (paths[:5], paths[5:]))
    return Source(CLASSES, train, test, MEAN, STD, augmentation="crop_and_flip")
