"""List folders of images: one sub-folder per class, named after the class."""

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
    """Image files and their classes, sorted by name: `targets` (int64 [n]) are indices into `classes`."""

    classes: tuple[str, ...]
    paths: tuple[str, ...]
    targets: Tensor

    def __len__(self) -> int:
        return len(self.paths)


def list_images(folder: Path, classes: Sequence[str] | None = None) -> Listing:
    """List the images in the class folders of `folder`, at any depth; hidden and other files are ignored.

    Args:
        classes: the only class names allowed; None: any, but at least two.

    Raises:
        PruningError: for a missing folder, no class folders, an unknown class, or a class without images.
    """
    found = [path.name for path in _class_folders(folder)]
    if not found:
        raise PruningError(
            f"{folder} has no class folders. Put the images of each class into a sub-folder of their own."
        )
    if classes is None and len(found) == 1:
        raise PruningError(f"{folder} has one class folder, {found[0]}, but at least two are needed.")
    class_names = tuple(classes or found)
    paths: list[str] = []
    targets: list[int] = []
    for name in found:
        if name not in class_names:
            raise PruningError(f"{folder / name} is a class that the training images do not have.")
        images = list(_image_paths(str(folder / name)))
        if not images:
            raise PruningError(f"{folder / name} is a class folder without images ({', '.join(SUFFIXES)}).")
        paths += images
        targets += [class_names.index(name)] * len(images)
    return Listing(class_names, tuple(paths), torch.tensor(targets))


def fingerprint(paths: Iterable[str]) -> str:
    """Return a SHA-256 of the files' names, sizes and modification times; the files are not read."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116  (creating a million Paths takes longer than this)
        except OSError as error:
            raise PruningError(f"{path} cannot be read: {error.strerror}.") from error
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _class_folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise PruningError(f"The folder {folder} cannot be read: {error.strerror}.") from error


def _image_paths(folder: str) -> Iterator[str]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise PruningError(f"The folder {folder} cannot be read: {error.strerror}.") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _image_paths(entry.path)
        elif entry.name.lower().endswith(SUFFIXES) and entry.is_file():
            yield entry.path
