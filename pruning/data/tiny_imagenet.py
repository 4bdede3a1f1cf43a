"""Tiny ImageNet (Stanford CS231n): 200 classes of ImageNet at 64x64 pixels."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

import torch

from pruning.data.cache import cache_folder
from pruning.data.download import download
from pruning.data.images import Progress, Source
from pruning.data.listing import Listing, list_images
from pruning.data.reading import Facts, read
from pruning.errors import PruningError
from pruning.registry import DATASETS

NAME = "tiny-imagenet-200"
URL = f"http://cs231n.stanford.edu/{NAME}.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
FACTS = Facts((3, 64, 64), "exact", mean=(0.4802, 0.4481, 0.3975), std=(0.2770, 0.2691, 0.2821))


@DATASETS.register("tiny_imagenet", classes=200, input="3x64x64")
def load(folder: Path | None, on_progress: Progress) -> Source:
    """Tiny ImageNet: 100,000 training photographs of 200 classes; the 10,000 in `val` are the test set.

    The test images that come with it have no labels and are not used.
    """
    home = _found(folder, on_progress)
    train = list_images(home / "train")
    if len(train.classes) != 200:
        raise PruningError(
            f"{home / 'train'} has {len(train.classes)} class folders, but Tiny ImageNet has 200."
        )
    listings = [train, _annotated(home / "val", train.classes)]
    (train_images, test_images), _ = read(listings, home, lambda: FACTS, on_progress)
    return Source(
        train.classes, train_images, test_images, FACTS.mean, FACTS.std, augmentation="crop_and_flip"
    )


def _annotated(folder: Path, classes: tuple[str, ...]) -> Listing:
    """The images of `val`: all in one folder, with a table of their classes, or sorted into class folders by
    hand."""
    table = folder / "val_annotations.txt"
    if not table.is_file():
        return list_images(folder, classes)
    rows = [line.split("\t")[:2] for line in table.read_text(errors="replace").splitlines() if line.strip()]
    wrong = next((row for row in rows if len(row) != 2 or row[1] not in classes or "/" in row[0]), None)
    if wrong or not rows:
        raise PruningError(f"{table} does not give image and class in every line, but {wrong}.")
    places = {name: place for place, name in enumerate(classes)}
    paths = tuple(str(folder / "images" / name) for name, _ in rows)
    return Listing(classes, paths, torch.tensor([places[name] for _, name in rows]))


def _found(folder: Path | None, on_progress: Progress) -> Path:
    root = folder or cache_folder()
    home = next((path for path in (root, root / NAME) if (path / "train").is_dir()), None)
    if home:
        return home
    archive = root / f"{NAME}.zip"
    if not archive.is_file():
        otherwise = f"put the unpacked folder {NAME} into a folder named by --data, or into {root}"
        download([URL], archive, MD5, on_progress, otherwise)
    _unpack(archive, root)
    return root / NAME


def _unpack(archive: Path, folder: Path) -> None:
    """The folder NAME of the archive, put into `folder` whole or not at all."""
    with tempfile.TemporaryDirectory(dir=folder) as beside:
        try:
            with zipfile.ZipFile(archive) as members:
                members.extractall(beside)
            (Path(beside) / NAME).rename(folder / NAME)
        except (zipfile.BadZipFile, EOFError, OSError) as error:
            raise PruningError(f"{archive} cannot be unpacked: {error}.") from error
