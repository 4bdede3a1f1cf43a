"""SVHN (Netzer et al. 2011), cropped digits: house numbers photographed in the street."""

from __future__ import annotations

from pathlib import Path

import torch

from pruning.data.cache import cache_folder
from pruning.data.download import download
from pruning.data.images import Images, Progress, RawDataset
from pruning.data.matlab import read_matrices
from pruning.errors import PruningError
from pruning.registry import DATASETS


@DATASETS.register("svhn", classes=10, input="3x32x32")
def load(folder: Path | None, on_progress: Progress) -> RawDataset:
    """SVHN: 73,257 training and 26,032 test photographs of house-number digits, 10 classes; not augmented."""
    home = folder or cache_folder() / "SVHN"
    train, test = (_read(_find(split, home, on_progress)) for split in ("train", "test"))
    mean, std = (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)
    return RawDataset(tuple("0123456789"), train, test, mean, std)


def _find(split: str, home: Path, on_progress: Progress) -> Path:
    path = home / f"{split}_32x32.mat"
    if not path.is_file():
        from torchvision.datasets import SVHN
        from torchvision.datasets.utils import download_url

        url, _, md5 = SVHN.split_list[split]
        download(
            "SVHN", lambda partial: download_url(url, partial, path.name, md5), [path.name], home, on_progress
        )
    return path


def _read(path: Path) -> Images:
    matrices = read_matrices(path)
    inputs, labels = matrices.get("X"), matrices.get("y")
    if (
        inputs is None
        or labels is None
        or (inputs.dtype, *inputs.shape) != (torch.uint8, 32, 32, 3, labels.numel())
    ):
        raise PruningError(f"{path} does not have images X of shape 32x32x3xN and N labels y.")
    if not torch.isin(labels, torch.arange(1, 11)).all():
        raise PruningError(f"{path} has labels outside 1 to 10.")
    # The digit 0 is labelled 10.
    return Images(inputs.permute(3, 2, 0, 1).contiguous(), labels.flatten().long() % 10)
