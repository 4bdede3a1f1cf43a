"""Folders of images: one sub-folder per class, its name the class' name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pruning.errors import PruningError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True)
class Listing:
    """Image files by class: `targets` (int64 [n]) are places in `classes`. In the order of the names,
    always."""

    classes: tuple[str, ...]
    paths: tuple[str, ...]
    targets: Tensor

    def __len__(self) -> int:
        return len(self.paths)


def list_images(folder: Path, classes: Sequence[str] | None = None) -> Listing:
    """The images in the class folders of `folder`, however deep; hidden files and other files are passed
    over.

    `classes` are the only names allowed (None: any, but at least two). Raises PruningError for a folder that
    is missing, has no class folders or an unknown one, and for a class folder without images.
    """
    found = [path.name for path in _class_folders(folder)]
    if not found:
        raise PruningError(
            f"{folder} has no class folders: the images of each class belong in one of their own."
        )
    if classes is None and len(found) == 1:
        raise PruningError(f"{folder} has one class folder, {found[0]}; at least two are needed.")
    known = tuple(classes or found)
    paths: list[str] = []
    targets: list[int] = []
    for name in found:
        if name not in known:
            raise PruningError(
                f"{folder / name} is the folder of a class that the training images do not have."
            )
        images = list(_images(str(folder / name)))
        if not images:
            raise PruningError(f"{folder / name} is a class folder without images ({', '.join(SUFFIXES)}).")
        paths += images
        targets += [known.index(name)] * len(images)
    return Listing(known, tuple(paths), torch.tensor(targets))


def fingerprint(paths: Iterable[str]) -> str:
    """A digest of the files' names, sizes and times of change: another one if any of them was touched."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116  (making a million Paths takes longer than this)
        except OSError as error:
            raise PruningError(f"{path} cannot be read: {error.strerror}.") from error
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _class_folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise PruningError(f"The folder {folder} cannot be read: {error.strerror}.") from error


def _images(folder: str) -> Iterator[str]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise PruningError(f"The folder {folder} cannot be read: {error.strerror}.") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _images(entry.path)
        elif entry.name.lower().endswith(SUFFIXES) and entry.is_file():
            yield entry.path
