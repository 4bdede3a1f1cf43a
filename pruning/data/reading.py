"""Many image files -> one tensor, if memory allows; else what is needed to stream them."""

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
from pruning.data.decoding import Fit, Shape, survey
from pruning.data.images import Images, Progress
from pruning.data.listing import Listing, fingerprint
from pruning.data.streaming import ImageFiles
from pruning.data.workers import in_workers

# Images larger than this, and images of many sizes, are brought to this height and width, as networks for
# ImageNet expect it.
LARGEST = 224

# Of the cache's content: to be raised when an image comes to other pixels, or to other facts, than before.
_VERSION = 1

_STATISTICS_SAMPLE = 5_000
_BLOCK = 256


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
    listings: Sequence[Listing], folder: Path, find_facts: Callable[[], Facts], on_progress: Progress
) -> tuple[list[Images] | list[ImageFiles], Facts]:
    """The images of each listing, and what holds for all of them (`find_facts` is asked if it is not known).

    In memory if they take at most half of what is available, else as files to be streamed. `folder`, where
    they come from, has one cache file, which is made anew when a file in the folder was touched. Raises
    PruningError naming a file that is no sound image, or not of the size that it must have.
    """
    key = f"{_VERSION} {fingerprint(path for listing in listings for path in listing.paths)}"
    store = cache.cache_folder() / "images" / hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]
    stored = cache.load_facts(store, key)
    facts = _facts_from(stored) if stored else find_facts()
    files = [ImageFiles(listing.paths, listing.targets, facts.shape, facts.fit) for listing in listings]
    sizes = [len(part) * math.prod(facts.shape) for part in files]
    if not fits_in_memory(sum(sizes)):
        if not stored:
            cache.save(store, key, asdict(facts))
        return files, facts
    buffers = cache.load_pixels(store, sizes) if stored else None
    if buffers is None:
        buffers = [_decoded(part, "decoding images", on_progress) for part in files]
        cache.save(store, key, asdict(facts), buffers)
    return [_in_buffer(buffer, part) for buffer, part in zip(buffers, files, strict=True)], facts


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


def survey_images(listings: Sequence[Listing], training: Tensor, on_progress: Progress) -> Facts:
    """The facts as the images themselves tell them; the rows `training` (int64) of the first listing are for
    training.

    The size (at most 224) that more than half of the images share is the size of all, and it is an error to
    have another; without such a size they are resized and cropped to 224x224. Grey images stay grey if all
    are.
    """
    paths = [path for listing in listings for path in listing.paths]
    found: list[Shape] = []
    for shapes in in_workers(
        _survey, [paths[begin : begin + _BLOCK] for begin in range(0, len(paths), _BLOCK)]
    ):
        found += shapes
        on_progress("looking at images", len(found), len(paths))
    shape, fit = _common_shape(found)
    step = max(1, math.ceil(len(training) / _STATISTICS_SAMPLE))
    sample = ImageFiles(listings[0].paths, listings[0].targets, shape, fit).select(training[::step])
    mean, std = statistics(_in_buffer(_decoded(sample, "measuring images", on_progress), sample).inputs)
    # A channel that is the same everywhere has nothing to scale.
    return Facts(shape, fit, mean, tuple(deviation or 1.0 for deviation in std))


def _common_shape(found: Sequence[Shape]) -> tuple[Shape, Fit]:
    channels = max(channels for channels, _, _ in found)
    (height, width), count = Counter((height, width) for _, height, width in found).most_common(1)[0]
    if max(height, width) <= LARGEST and 2 * count > len(found):
        return (channels, height, width), "exact"
    return (channels, LARGEST, LARGEST), "center_crop"


def statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of uint8 images [n, c, h, w], scaled to 0..1, from counts."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in images.unbind(1):
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean = (share * levels).sum()
        means.append(mean.item())
        deviations.append((share * (levels - mean) ** 2).sum().sqrt().item())
    return tuple(means), tuple(deviations)


def _survey(paths: Sequence[str]) -> list[Shape]:
    return [survey(path) for path in paths]


def _decoded(files: ImageFiles, what: str, on_progress: Progress) -> bytearray:
    buffer = bytearray(len(files) * math.prod(files.shape))
    images = _in_buffer(buffer, files).inputs
    done = 0
    for block in in_workers(files.decode, torch.arange(len(files)).split(_BLOCK)):
        images[done : done + len(block)] = block
        done += len(block)
        on_progress(what, done, len(files))
    return buffer


def _in_buffer(buffer: bytearray, files: ImageFiles) -> Images:
    """The images of `files`, whose pixels are (or will be) in `buffer`; not copied."""
    return Images(torch.frombuffer(buffer, dtype=torch.uint8).view(len(files), *files.shape), files.targets)
