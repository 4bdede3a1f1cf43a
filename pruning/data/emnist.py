"""EMNIST (Cohen et al. 2017, arXiv 1702.05373), balanced: digits and letters, look-alikes merged."""

from __future__ import annotations

from pathlib import Path

from pruning.data.idx import read_mnist_like
from pruning.data.images import Images, Progress, RawDataset
from pruning.registry import DATASETS

CLASSES = tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt")
FILES = [
    f"emnist-balanced-{split}-{kind}-ubyte"
    for split in ("train", "test")
    for kind in ("images-idx3", "labels-idx1")
]


@DATASETS.register("emnist", classes=47, input="1x28x28")
def load(folder: Path | None, on_progress: Progress) -> RawDataset:
    """EMNIST, balanced: 112,800 training and 18,800 test images of digits and letters, grey, 47 classes."""
    train, test = read_mnist_like("EMNIST", _download, folder, on_progress, classes=len(CLASSES), files=FILES)
    return RawDataset(CLASSES, _transpose(train), _transpose(test), mean=(0.1751,), std=(0.3332,))


def _transpose(images: Images) -> Images:
    """Turn the images upright: the files have rows and columns exchanged."""
    return Images(images.inputs.transpose(2, 3).contiguous(), images.targets)


def _download(folder: Path) -> None:
    from torchvision.datasets import EMNIST

    EMNIST(folder, split="balanced", download=True)
