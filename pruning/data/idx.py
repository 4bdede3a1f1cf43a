"""The idx files of MNIST and of the data sets published in its format.

Read by hand, because importing torchvision takes 2 s of CPU time, and the bundled default needs a reader too.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pruning.data.cache import cache_folder
from pruning.data.download import download
from pruning.data.images import Images, Progress
from pruning.errors import PruningError

MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
IMAGE_SIZE = (28, 28)


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Return the uint8 tensor in an idx file; a file named .gz is decompressed.

    The format: the bytes 0, 0, 8 (unsigned bytes) and the number of dimensions, each dimension as a big-endian
    32-bit integer, then the values (http://yann.lecun.com/exdb/mnist).

    Raises:
        PruningError: for a file that is unreadable, of another type, or shorter or longer than its header declares.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise PruningError(f"{path} cannot be read: {reason}.") from error
    header_size = 4 + 4 * dimensions
    magic = bytes((0, 0, 8, dimensions))
    if content[:4] != magic or len(content) < header_size:
        raise PruningError(
            f"{path} is not an idx file of unsigned bytes in {dimensions} dimensions: "
            f"its header is 0x{content[:header_size].hex()}, which should start with 0x{magic.hex()} "
            f"and have {header_size} bytes."
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header_size])
    size = header_size + math.prod(shape)
    if len(content) != size or 0 in shape:
        raise PruningError(
            f"{path} has {len(content):,} bytes, but its header declares {'x'.join(map(str, shape))} values "
            f"({size:,} bytes)."
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)[header_size:].view(shape)


def read_images(images: Path, labels: Path, *, classes: int) -> Images:
    """Read the grey 28x28 images of one idx file and their labels from another.

    Raises:
        PruningError: for a damaged file, different counts, another image size, or a label >= `classes`.
    """
    inputs = read_idx(images, 3)
    targets = read_idx(labels, 1)
    if tuple(inputs.shape[1:]) != IMAGE_SIZE:
        found = "x".join(map(str, inputs.shape[1:]))
        raise PruningError(f"{images} has images of {found} pixels, not 28x28.")
    if len(inputs) != len(targets):
        raise PruningError(f"{images} has {len(inputs):,} images, but {labels} has {len(targets):,} labels.")
    if targets.max() >= classes:
        raise PruningError(
            f"{labels} has the label {int(targets.max())}, but labels range from 0 to {classes - 1}."
        )
    return Images(inputs.unsqueeze(1), targets.long())


def read_mnist_like(
    name: str,
    fetch: Callable[[Path], object],
    folder: Path | None,
    on_progress: Progress,
    *,
    classes: int,
    files: Sequence[str] = MNIST_FILES,
    system_folder: Path | None = None,
) -> tuple[Images, Images]:
    """Read the training and test images of a data set in MNIST's format; download it if there is none.

    Args:
        name: torchvision's class, which is also the folder that torchvision writes to.
        fetch: torchvision's download into the folder that it is called with.
        folder: where to look and to download to; None: `system_folder`, then the cache.
        files: training images, training labels, test images, test labels; plain or with .gz.
    """
    root = folder or cache_folder()
    raw = Path(name) / "raw"
    places = [folder, folder / "raw", folder / "gzip"] if folder else [*filter(None, [system_folder])]
    paths = find_idx_files(files, [*places, root / raw, root / raw / "gzip"])
    if paths is None:
        download(name, fetch, [raw / file for file in files], root, on_progress)
        paths = [root / raw / file for file in files]
    return read_images(*paths[:2], classes=classes), read_images(*paths[2:], classes=classes)


def find_idx_files(files: Sequence[str], folders: Sequence[Path]) -> list[Path] | None:
    """Return the paths of `files`, plain or with .gz, in the first of `folders` that has any of them.

    Raises:
        PruningError: if that folder has some of the files but not all.
    """
    for folder in folders:
        found = {file: _plain_or_gzipped(folder / file) for file in files}
        missing = [file for file, path in found.items() if path is None]
        if not missing:
            return [path for path in found.values() if path is not None]
        if len(missing) < len(files):
            raise PruningError(
                f"{folder} has idx files, but not {' and '.join(missing)}, plain or as .gz. "
                "Add what is missing, or remove the other files to download the data set."
            )
    return None


def _plain_or_gzipped(path: Path) -> Path | None:
    candidates = (path, path.with_name(f"{path.name}.gz"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)
