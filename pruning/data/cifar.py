"""The "python version" of CIFAR (https://www.cs.toronto.edu/~kriz/cifar.html), as torchvision downloads it.

Its files are pickles: programs, in effect, that could do anything when run. Here they can build dictionaries,
lists, strings and numbers, and arrays as inert records of their shape and bytes; a pickle that names anything
else is refused.
"""

from __future__ import annotations

import io
import math
import pickle
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pruning.data.cache import cache_folder
from pruning.data.download import download, write_whole
from pruning.data.images import Images, Progress
from pruning.errors import PruningError

_SHAPE = (3, 32, 32)


def find_cifar(
    name: str, base: str, files: Sequence[str], folder: Path | None, on_progress: Progress
) -> list[Path]:
    """The `files` of torchvision's data set class `name`, in `folder` (None: the cache) or in the folder
    `base` there, where torchvision puts them; unpacked from the archive beside it if need be, which is
    downloaded if need be."""
    root = folder or cache_folder()
    home = next(
        (path for path in (root, root / base) if all((path / file).is_file() for file in files)), None
    )
    if home is None:
        home = root / base
        _unpack(_archive(name, base, root, on_progress), base, files, home)
    return [home / file for file in files]


def _archive(name: str, base: str, folder: Path, on_progress: Progress) -> Path:
    import torchvision.datasets

    published = getattr(torchvision.datasets, name)
    archive: Path = folder / published.filename
    if not archive.is_file():
        otherwise = f"put its unpacked folder {base} into a folder named by --data, or into {folder}"
        download([published.url], archive, published.tgz_md5, on_progress, otherwise)
    return archive


def read_cifar(paths: Sequence[Path], label_key: str, classes: int) -> Images:
    """The images in `paths` together, with the labels found under `label_key`.

    Raises PruningError naming the file if it is no such pickle, asks for anything but arrays, or holds
    anything but as many rows of 3,072 bytes as labels from 0 to `classes` - 1.
    """
    parts = [_read_file(path, label_key, classes) for path in paths]
    return Images(torch.cat([part.inputs for part in parts]), torch.cat([part.targets for part in parts]))


def _read_file(path: Path, label_key: str, classes: int) -> Images:
    content = _unpickle(path)
    try:
        labels = content[label_key.encode()]
        _, shape, dtype, columns_first, pixels = content[b"data"].state
        sound = (
            isinstance(labels, list)
            and len(labels) > 0
            and shape == (len(labels), math.prod(_SHAPE))
            and dtype.arguments[0] in ("u1", b"u1")
            and not columns_first
            and isinstance(pixels, bytes)
            and len(pixels) == math.prod(shape)
            and all(type(label) is int and 0 <= label < classes for label in labels)
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        sound = False
    if not sound:
        raise PruningError(
            f"{path} does not hold rows of 3,072 bytes with as many labels from 0 to {classes - 1}."
        )
    inputs = torch.frombuffer(bytearray(pixels), dtype=torch.uint8).view(len(labels), *_SHAPE)
    return Images(inputs, torch.tensor(labels))


def _unpickle(path: Path) -> Any:
    try:
        return _Unpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except pickle.UnpicklingError as error:
        raise PruningError(f"{path} is refused: {error}.") from error
    except Exception as error:  # A pickle is a program; it can fail in any way.
        raise PruningError(
            f"{path} is not a file of CIFAR: {type(error).__name__} while reading it."
        ) from error


class _Record:
    """What a pickled array or its type says of itself, never made into one."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _latin1(text: str, _: str) -> bytes:
    return text.encode("latin1")


_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _Record,
    ("numpy._core.multiarray", "_reconstruct"): _Record,
    ("numpy", "ndarray"): _Record,
    ("numpy", "dtype"): _Record,
    ("_codecs", "encode"): _latin1,
}


# The one written in Python: the other allocates what a damaged file claims before it looks whether it is
# there.
class _Unpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it would run {module}.{name}, and data must not run anything")
        return _ADMITTED[module, name]


def _unpack(archive: Path, base: str, names: Sequence[str], folder: Path) -> None:
    try:
        with tarfile.open(archive) as tar:
            for name in names:
                member = tar.extractfile(f"{base}/{name}")
                if member is None:
                    raise PruningError(f"{archive} holds no file {base}/{name}.")
                write_whole(folder / name, member)
    except (tarfile.TarError, EOFError, KeyError, OSError) as error:
        raise PruningError(f"{archive} cannot be unpacked: {error}.") from error
