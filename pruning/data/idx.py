"""The idx file format of MNIST and its kin: read strictly, found wherever people keep the files.

A file is a magic number (0, 0, 8 for unsigned bytes, number of dimensions), the dimensions as big-endian
32-bit integers, then the bytes, nothing more (http://yann.lecun.com/exdb/mnist). Nothing is allocated on a
header's word.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pruning.data.cache import cache_folder
from pruning.data.download import download
from pruning.data.images import Images, Progress
from pruning.errors import PruningError

# One byte of deflate stands for 1,032 bytes at most (https://zlib.net/zlib_tech.html).
_DEFLATE_RATIO = 1032


def read_idx(path: Path, dimensions: int) -> Tensor:
    """The uint8 tensor in an idx file of `dimensions` dimensions, gzipped if its name ends in .gz.

    Raises PruningError naming the file if it is unreadable, not such a file, shorter or longer than its
    header says.
    """
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise PruningError(f"{path} cannot be read: {error.strerror}.") from error
    header_size = 4 + 4 * dimensions
    unpack = _gunzip if path.suffix == ".gz" else _slice
    sizes = _sizes(path, unpack(path, packed, header_size), dimensions)
    size = header_size + math.prod(sizes)
    if size > len(packed) * (_DEFLATE_RATIO if path.suffix == ".gz" else 1):
        raise PruningError(
            f"{path} is cut short: its header promises {size:,} bytes, more than the file can hold."
        )
    content = unpack(path, packed, size + 1)
    if len(content) != size:
        fault = "is cut short" if len(content) < size else "has bytes after its end"
        raise PruningError(f"{path} {fault}: its header promises exactly {size:,} bytes.")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)[header_size:].view(sizes)


def read_images(images: Path, labels: Path, *, classes: int, size: tuple[int, int] = (28, 28)) -> Images:
    """The grey images of one idx file with the labels of another.

    Raises PruningError if either is damaged, the counts differ, an image is not of `size` (height, width), or
    a label is not below `classes`.
    """
    inputs = read_idx(images, 3)
    targets = read_idx(labels, 1)
    if tuple(inputs.shape[1:]) != size:
        found = "x".join(map(str, inputs.shape[1:]))
        raise PruningError(f"{images} holds images of {found} pixels, not {size[0]}x{size[1]}.")
    if len(inputs) != len(targets):
        raise PruningError(
            f"{images} holds {len(inputs):,} images, but {labels} holds {len(targets):,} labels."
        )
    if targets.max() >= classes:
        raise PruningError(
            f"{labels} holds the label {int(targets.max())}, but labels go from 0 to {classes - 1}."
        )
    return Images(inputs.unsqueeze(1), targets.long())


def mnist_like(
    name: str, folder: Path | None, on_progress: Progress, *, classes: int, system_folder: Path | None = None
) -> tuple[Images, Images]:
    """Training and test images of a data set that is distributed as MNIST is: four idx files of 28x28 images.

    `name` is torchvision's class for it. The files, gzipped or not, are looked for in `folder` itself and
    where torchvision puts them under it (`name`/raw), or, without `folder`, in `system_folder` and in the
    cache; else they are downloaded, into `folder` if given.
    """
    names = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    root = folder or cache_folder()
    raw = root / name / "raw"
    elsewhere = [folder, folder / "raw"] if folder else [*filter(None, [system_folder])]
    paths = find(names, elsewhere) or _complete(raw, name, names, on_progress)
    return read_images(*paths[:2], classes=classes), read_images(*paths[2:], classes=classes)


def find(names: Sequence[str], folders: Sequence[Path]) -> list[Path] | None:
    """The files called `names` (or the same with .gz) in the first of `folders` that holds any of them.

    None if no folder does; PruningError if one holds some of them but not all.
    """
    for folder in folders:
        paths = {name: _plain_or_gzipped(folder, name) for name in names}
        missing = [name for name, path in paths.items() if path is None]
        if not missing:
            return [path for path in paths.values() if path is not None]
        if len(missing) < len(names):
            raise PruningError(f"{folder} holds idx files, but not {' and '.join(missing)}, plain or as .gz.")
    return None


def _plain_or_gzipped(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _complete(folder: Path, name: str, names: Sequence[str], on_progress: Progress) -> list[Path]:
    """The files called `names` in `folder`; what is missing is downloaded from where torchvision's `name`
    does."""
    missing = [file for file in names if _plain_or_gzipped(folder, file) is None]
    if missing:
        import torchvision.datasets

        published = getattr(torchvision.datasets, name)
        checksums = dict(published.resources)
        otherwise = (
            f"put {', '.join(names)}, plain or as .gz, into a folder named by --data, or into {folder}"
        )
        for file in (f"{plain}.gz" for plain in missing):
            urls = [mirror + file for mirror in published.mirrors]
            download(urls, folder / file, checksums[file], on_progress, otherwise)
    return [_plain_or_gzipped(folder, file) or folder / file for file in names]


def _sizes(path: Path, header: bytes, dimensions: int) -> tuple[int, ...]:
    magic = bytes((0, 0, 8, dimensions))
    if header[:4] != magic:
        raise PruningError(
            f"{path} is not an idx file of bytes in {dimensions} dimensions: "
            f"it begins with 0x{header[:4].hex()}, not 0x{magic.hex()}."
        )
    if len(header) < 4 + 4 * dimensions:
        raise PruningError(f"{path} is cut short: it ends within its header.")
    sizes: tuple[int, ...] = struct.unpack(f">{dimensions}I", header[4:])
    if 0 in sizes:
        raise PruningError(f"{path} is empty: its header says {'x'.join(map(str, sizes))}.")
    return sizes


def _slice(path: Path, packed: bytes, limit: int) -> bytes:
    return packed[:limit]


def _gunzip(path: Path, packed: bytes, limit: int) -> bytes:
    """The first `limit` bytes of a gzip file, whose checksum is checked if it has fewer."""
    stream = zlib.decompressobj(wbits=31)
    try:
        content = stream.decompress(packed, limit)
    except zlib.error as error:
        raise PruningError(f"{path} is named .gz, but is not a sound gzip file ({error}).") from error
    if len(content) < limit and not stream.eof:
        raise PruningError(f"{path} is cut short: its gzip stream does not end.")
    if stream.unused_data:
        raise PruningError(f"{path} has bytes after the end of its gzip stream.")
    return content
