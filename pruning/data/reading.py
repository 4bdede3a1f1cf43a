"""Many image files -> one tensor, if memory allows; else what is needed to stream them."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from pruning.data import cache
from pruning.data.decoding import Fit, Shape, decode, survey
from pruning.data.images import Images, Progress
from pruning.data.listing import Listing, fingerprint
from pruning.data.streaming import ImageFiles

T = TypeVar("T")
R = TypeVar("R")

# Images larger than this, and images of many sizes, are brought to this height and width, as networks for
# ImageNet expect it.
LARGEST = 224

_STATISTICS_SAMPLE = 5_000
_CHUNK = 128


@dataclass(frozen=True)
class Facts:
    """What holds for all images of a listing: the shape (c, h, w) that they come to, and how; the mean and
    standard deviation per channel, scaled to 0..1, of the training images (of 5,000 of them, spread evenly,
    if there are more).
    """

    shape: Shape
    fit: Fit
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read(
    listing: Listing, training: Tensor, folder: Path, on_progress: Progress
) -> tuple[Images | ImageFiles, Facts]:
    """The images of `listing`, of which the rows `training` (int64) are for training, and what holds for all.

    In memory if they take at most half of what is available, else as files to be streamed. `folder`, where
    they come from, has one cache file, which is made anew when a file in the folder was touched. Raises
    PruningError naming a file that is no sound image, or not of the size that it must have.
    """
    key = fingerprint(listing.paths)
    store = cache.cache_folder() / "images" / hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]
    stored = cache.load_facts(store, key)
    facts = _facts_from(stored) if stored else _find_facts(listing, training, on_progress)
    files = ImageFiles(listing.paths, listing.targets, facts.shape, facts.fit)
    size = len(listing) * math.prod(facts.shape)
    if not fits_in_memory(size):
        if not stored:
            cache.save(store, key, asdict(facts))
        return files, facts
    pixels = cache.load_pixels(store, size) if stored else None
    if pixels is None:
        pixels = _decode_all(files, on_progress)
        cache.save(store, key, asdict(facts), pixels)
    inputs = torch.frombuffer(pixels, dtype=torch.uint8).view(len(listing), *facts.shape)
    return Images(inputs, listing.targets), facts


def fits_in_memory(size: int) -> bool:
    """Whether `size` bytes are at most half of the memory that is available."""
    return 2 * size <= available_memory()


def available_memory() -> int:
    """Bytes of memory to be had: what the system calls available, within the limit of a container.

    Where the system does not say (it does on Linux), all of the machine's memory, or 8 GiB if that is
    unknown, too.
    """
    limit = _number_in(Path("/sys/fs/cgroup/memory.max"))
    used = _number_in(Path("/sys/fs/cgroup/memory.current"))
    within_container = [limit - used] if limit is not None and used is not None else []
    return min([_system_memory(), *within_container])


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


def _number_in(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _facts_from(stored: dict[str, Any]) -> Facts:
    channels, height, width = stored["shape"]
    return Facts((channels, height, width), stored["fit"], tuple(stored["mean"]), tuple(stored["std"]))


def _find_facts(listing: Listing, training: Tensor, on_progress: Progress) -> Facts:
    found = _in_threads(survey, listing.paths, "looking at images", on_progress)
    shape, fit = _common_shape(found)
    step = max(1, math.ceil(len(training) / _STATISTICS_SAMPLE))
    sample = [listing.paths[row] for row in training[::step].tolist()]
    images = _in_threads(lambda path: decode(path, shape, fit), sample, "measuring images", on_progress)
    mean, std = statistics(torch.stack(images))
    return Facts(shape, fit, mean, std)


def _common_shape(found: Sequence[Shape]) -> tuple[Shape, Fit]:
    """The shape for images of these shapes. The size (at most 224) that more than half of them share is the
    size of all, and it is an error to have another; without such a size they are resized and cropped to
    224x224. Grey images stay grey if all are."""
    channels = max(channels for channels, _, _ in found)
    (height, width), count = Counter((height, width) for _, height, width in found).most_common(1)[0]
    if max(height, width) <= LARGEST and 2 * count > len(found):
        return (channels, height, width), "exact"
    return (channels, LARGEST, LARGEST), "center_crop"


def statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 images [n, c, h, w], scaled to 0..1; exact, from
    counts."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in images.unbind(1):
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean = (share * levels).sum()
        means.append(mean.item())
        deviations.append((share * (levels - mean) ** 2).sum().sqrt().item())
    return tuple(means), tuple(deviations)


def _decode_all(files: ImageFiles, on_progress: Progress) -> bytearray:
    pixels = bytearray(len(files) * math.prod(files.shape))
    images = torch.frombuffer(pixels, dtype=torch.uint8).view(len(files), *files.shape)

    def decode_into_place(row: int) -> None:
        images[row] = decode(files.paths[row], files.shape, files.fit)

    _in_threads(decode_into_place, range(len(files)), "decoding images", on_progress)
    return pixels


def _in_threads(function: Callable[[T], R], items: Sequence[T], what: str, on_progress: Progress) -> list[R]:
    """`function` of every item, in their order; the first error ends it. Decoders release Python's lock."""
    results: list[R] = []
    chunks = [items[begin : begin + _CHUNK] for begin in range(0, len(items), _CHUNK)]
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for part in pool.map(lambda chunk: [function(item) for item in chunk], chunks):
            results += part
            on_progress(what, len(results), len(items))
    finally:
        pool.shutdown(cancel_futures=True)
    return results
