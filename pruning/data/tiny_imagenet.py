"""Tiny ImageNet (Stanford CS231n): 200 classes of ImageNet at 64x64 pixels."""

from __future__ import annotations

from pathlib import Path

import torch

from pruning.data.cache import cache_folder
from pruning.data.download import download
from pruning.data.images import Progress, RawDataset
from pruning.data.listing import Listing, list_images
from pruning.data.reading import Preprocessing, read
from pruning.errors import PruningError
from pruning.registry import DATASETS

NAME = "tiny-imagenet-200"
# Not in torchvision.datasets.
URL = f"http://cs231n.stanford.edu/{NAME}.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
PREPROCESSING = Preprocessing(
    (3, 64, 64), "exact", mean=(0.4802, 0.4481, 0.3975), std=(0.2770, 0.2691, 0.2821)
)


@DATASETS.register("tiny_imagenet", classes=200, input="3x64x64")
def load(folder: Path | None, on_progress: Progress) -> RawDataset:
    """Tiny ImageNet: 100,000 training photographs of 200 classes; the 10,000 in `val` are the test set.

    The published test images have no labels and are not used.
    """
    home = _find(folder or cache_folder(), on_progress)
    train = list_images(home / "train")
    if len(train.classes) != 200:
        raise PruningError(
            f"{home / 'train'} has {len(train.classes)} class folders, but Tiny ImageNet has 200."
        )
    listings = [train, _list_test_images(home / "val", train.classes)]
    (train_images, test_images), _ = read(listings, home, lambda: PREPROCESSING, on_progress)
    mean, std = PREPROCESSING.mean, PREPROCESSING.std
    return RawDataset(train.classes, train_images, test_images, mean, std, augmentation="crop_and_flip")


def _list_test_images(folder: Path, classes: tuple[str, ...]) -> Listing:
    """List the images of `val`: one folder with a table of classes, or class folders if the user sorted them."""
    table = folder / "val_annotations.txt"
    if not table.is_file():
        return list_images(folder, classes)
    rows = [line.split("\t")[:2] for line in table.read_text(errors="replace").splitlines() if line.strip()]
    wrong = next((row for row in rows if len(row) != 2 or row[1] not in classes or "/" in row[0]), None)
    if wrong or not rows:
        raise PruningError(f"{table} must have an image and its class in every line, but has {wrong}.")
    targets = {name: target for target, name in enumerate(classes)}
    paths = tuple(str(folder / "images" / name) for name, _ in rows)
    return Listing(classes, paths, torch.tensor([targets[name] for _, name in rows]))


def _find(root: Path, on_progress: Progress) -> Path:
    home = next((path for path in (root, root / NAME) if (path / "train").is_dir()), None)
    if home is None:
        download(NAME, _download, [NAME], root, on_progress, archive=(f"{NAME}.zip", MD5))
        home = root / NAME
    return home


def _download(folder: Path) -> None:
    from torchvision.datasets.utils import download_and_extract_archive

    download_and_extract_archive(URL, folder, md5=MD5)
