"""Read many image files into one tensor if it fits in memory, else prepare to stream them."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruning.data import cache
from pruning.data.decoding import Fit, Shape, read_shape
from pruning.data.images import Images, Progress
from pruning.data.listing import Listing, fingerprint
from pruning.data.streaming import ImageFiles
from pruning.data.workers import map_in_workers

# Larger images, and images of many sizes, get this height and width, the usual one for ImageNet.
MAX_SIZE = 224

# Part of the cache key: increase it if decoding or inferring changes.
CACHE_VERSION = 1

STATISTICS_SAMPLE = 5_000  # training images
IMAGES_PER_TASK = 256  # of a worker process


@dataclass(frozen=True)
class Preprocessing:
    """How all images of a data set become tensors.

    shape: (channels, height, width) of the tensors.
    fit: how images are fitted to `shape`.
    mean, std: per channel, of the training images scaled to 0..1.
    """

    shape: Shape
    fit: Fit
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read(
    listings: Sequence[Listing], folder: Path, infer: Callable[[], Preprocessing], on_progress: Progress
) -> tuple[list[Images] | list[ImageFiles], Preprocessing]:
    """Return the images of each listing and their preprocessing.

    The images are in memory if they need at most half of the available memory, else files to be streamed. They
    are cached in one file per `folder`, which is replaced when a file in the folder changes.

    Args:
        folder: the folder of all listings.
        infer: returns the preprocessing; called if it is not cached.

    Raises:
        PruningError: for a file that is not an image, or of the wrong size.
    """
    key = f"{CACHE_VERSION} {fingerprint(path for listing in listings for path in listing.paths)}"
    folder_digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]
    cache_file = cache.cache_folder() / "images" / folder_digest
    cached = cache.load_metadata(cache_file, key)
    preprocessing = _from_metadata(cached) if cached else infer()
    shape, fit = preprocessing.shape, preprocessing.fit
    files = [ImageFiles(listing.paths, listing.targets, shape, fit) for listing in listings]
    sizes = [len(split) * math.prod(shape) for split in files]
    if not fits_in_memory(sum(sizes)):
        if not cached:
            cache.save(cache_file, key, asdict(preprocessing))
        return files, preprocessing
    buffers = cache.load_buffers(cache_file, sizes) if cached else None
    if buffers is None:
        buffers = [_decode_all(split, "decoding images", on_progress) for split in files]
        cache.save(cache_file, key, asdict(preprocessing), buffers)
    return [_view(buffer, split) for buffer, split in zip(buffers, files, strict=True)], preprocessing


def fits_in_memory(size: int) -> bool:
    """Whether `size` bytes are at most half of the available memory."""
    return 2 * size <= available_memory()


def available_memory() -> int:
    """Return the available memory in bytes, within the container's limit.

    Without Linux's /proc/meminfo, all of the machine's memory; 8 GiB if that is unknown, too.
    """
    limit = _read_number(Path("/sys/fs/cgroup/memory.max"))
    used = _read_number(Path("/sys/fs/cgroup/memory.current"))
    in_container = [limit - used] if limit is not None and used is not None else []
    return min([_system_memory(), *in_container])


def _system_memory() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 8 << 30


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _from_metadata(metadata: dict[str, Any]) -> Preprocessing:
    channels, height, width = metadata["shape"]
    mean, std = tuple(metadata["mean"]), tuple(metadata["std"])
    return Preprocessing((channels, height, width), metadata["fit"], mean, std)


def infer_preprocessing(
    listings: Sequence[Listing], training: Tensor, on_progress: Progress
) -> Preprocessing:
    """Infer shape, fit and normalisation from the images.

    If more than half of the images have the same size, at most 224, it is the size of all; otherwise they are
    resized and cropped to 224x224. There is one channel if all images are grey. Mean and deviation are those of
    up to 5,000 evenly spaced training images.

    Args:
        training: indices (int64) of the training images in the first listing.
    """
    paths = [path for listing in listings for path in listing.paths]
    shapes: list[Shape] = []
    tasks = [paths[start : start + IMAGES_PER_TASK] for start in range(0, len(paths), IMAGES_PER_TASK)]
    for some_shapes in map_in_workers(_read_shapes, tasks):
        shapes += some_shapes
        on_progress("looking at images", len(shapes), len(paths))
    shape, fit = _common_shape(shapes)
    step = max(1, math.ceil(len(training) / STATISTICS_SAMPLE))
    sample = ImageFiles(listings[0].paths, listings[0].targets, shape, fit).select(training[::step])
    mean, std = statistics(_view(_decode_all(sample, "measuring images", on_progress), sample).inputs)
    # A constant channel has no deviation to divide by.
    return Preprocessing(shape, fit, mean, tuple(deviation or 1.0 for deviation in std))


def _common_shape(shapes: Sequence[Shape]) -> tuple[Shape, Fit]:
    channels = max(channels for channels, _, _ in shapes)
    (height, width), count = Counter((height, width) for _, height, width in shapes).most_common(1)[0]
    if max(height, width) <= MAX_SIZE and 2 * count > len(shapes):
        return (channels, height, width), "exact"
    return (channels, MAX_SIZE, MAX_SIZE), "center_crop"


def statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of uint8 images [n, c, h, w] scaled to 0..1."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in images.unbind(1):
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean = (share * levels).sum()
        means.append(mean.item())
        deviations.append((share * (levels - mean) ** 2).sum().sqrt().item())
    return tuple(means), tuple(deviations)


def _read_shapes(paths: Sequence[str]) -> list[Shape]:
    return [read_shape(path) for path in paths]


def _decode_all(files: ImageFiles, what: str, on_progress: Progress) -> bytearray:
    buffer = bytearray(len(files) * math.prod(files.shape))
    images = _view(buffer, files).inputs
    done = 0
    for block in map_in_workers(files.decode, torch.arange(len(files)).split(IMAGES_PER_TASK)):
        images[done : done + len(block)] = block
        done += len(block)
        on_progress(what, done, len(files))
    return buffer


def _view(buffer: bytearray, files: ImageFiles) -> Images:
    """Return a view of `buffer` as the images of `files`."""
    return Images(torch.frombuffer(buffer, dtype=torch.uint8).view(len(files), *files.shape), files.targets)
