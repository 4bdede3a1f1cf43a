"""SVHN (Netzer et al. 2011), cropped digits: house numbers photographed in the street."""

from __future__ import annotations

from pathlib import Path

import torch

from pruning.data.cache import cache_folder
from pruning.data.download import download
from pruning.data.images import Images, Progress, Source
from pruning.data.matlab import read_matrices
from pruning.errors import PruningError
from pruning.registry import DATASETS


@DATASETS.register("svhn", classes=10, input="3x32x32")
def load(folder: Path | None, on_progress: Progress) -> Source:
    """SVHN: 73,257 training and 26,032 test photographs of house-number digits, 10 classes; not augmented."""
    train, test = (_read(_found(part, folder, on_progress)) for part in ("train", "test"))
    return Source(
        tuple("0123456789"), train, test, mean=(0.4377, 0.4438, 0.4728), std=(0.1980, 0.2010, 0.1970)
    )


def _found(part: str, folder: Path | None, on_progress: Progress) -> Path:
    name = f"{part}_32x32.mat"
    home = folder or cache_folder() / "SVHN"
    if not (home / name).is_file():
        from torchvision.datasets import SVHN

        url, _, md5 = SVHN.split_list[part]
        otherwise = f"put train_32x32.mat and test_32x32.mat into a folder named by --data, or into {home}"
        download([url], home / name, md5, on_progress, otherwise)
    return home / name


def _read(path: Path) -> Images:
    matrices = read_matrices(path)
    inputs, labels = matrices.get("X"), matrices.get("y")
    if (
        inputs is None
        or labels is None
        or (inputs.dtype, *inputs.shape) != (torch.uint8, 32, 32, 3, labels.numel())
    ):
        raise PruningError(f"{path} does not hold images X of 32x32x3xN with N labels y.")
    if not torch.isin(labels, torch.arange(1, 11)).all():
        raise PruningError(f"{path} holds labels outside 1 to 10.")
    # The digit 0 is labelled 10.
    return Images(inputs.permute(3, 2, 0, 1).contiguous(), labels.flatten().long() % 10)
