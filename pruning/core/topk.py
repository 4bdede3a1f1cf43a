"""The k smallest of many scores, exactly, streaming over them where they lie.

Scores come from `Source`s, one per layer, slice by slice: no copy of all of them ever exists and they are never sorted.
A deterministic sample brackets the threshold. One pass then counts the scores at or below the bracket, writes the masks
and collects what lies strictly inside (about one score in a hundred), where the rest is selected exactly. A score that
many weights share is never inside: it shows in the sample and becomes an edge of the bracket; if the threshold is that
very score, a second pass removes the first of the equals. A bracket that missed is widened.

Ties go by layer, then by flat index: the first is removed first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, floor, inf, sqrt
from typing import Any, Protocol

import numpy  # comes with torchvision
import torch
from numpy.typing import NDArray
from torch import Tensor

DIRECT = 1 << 13  # scores so few that all of them are collected, without a bracket
MARGIN = (
    3.0  # in standard deviations of the sampled rank; one bracket in 400 misses, which costs another pass
)
EXPECTED_INSIDE = 64  # room is made for every 64th score; of millions about every 100th is inside the bracket
LOWEST = torch.finfo(torch.float32).min  # the score of what goes before everything else
GOLDEN = (sqrt(5) - 1) / 2

Values = Tensor | NDArray[Any]


class Source(Protocol):
    """The scores of one layer: finite float32 numbers, the same every time they are asked for."""

    @property
    def size(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def slices(self) -> Iterator[tuple[range, Tensor]]:
        """All flat positions in order, piece by piece, each with its scores (1-d)."""

    def at(self, positions: Tensor) -> Tensor:
        """The scores at these flat positions (both 1-d)."""


def bottom_k_masks(sources: Sequence[Source], count: int) -> list[Tensor]:
    """One flat bool mask per source: False at the `count` smallest scores of them all, True everywhere else."""
    total = sum(source.size for source in sources)
    count = min(max(count, 0), total)
    if count in (0, total):
        return [torch.full((source.size,), count == 0, device=source.device) for source in sources]
    masks = _unwritten_masks(sources)
    sample = _sample(sources, total) if total > DIRECT else torch.empty(0)
    margin = MARGIN
    while True:
        low, high = _bracket(sample, count / total, margin)
        below, inside = _split(sources, masks, low, high)
        if below < count <= below + len(inside):
            _remove_inside(masks, inside, count - below)
            return masks
        if _remove_at(sources, masks, low if count <= below else high, count):
            return masks
        margin *= 4


def _unwritten_masks(sources: Sequence[Source]) -> list[Tensor]:
    """A flat mask per source. Those on the CPU lie in one piece of memory, for which NumPy asks for huge pages.

    The system hands out memory page by page at the first write; in small pages that took longer than the writing.
    """
    sizes = [source.size if source.device.type == "cpu" else 0 for source in sources]
    on_cpu = torch.from_numpy(numpy.empty(sum(sizes), dtype=numpy.bool_)).split(sizes)
    return [
        mask
        if source.device.type == "cpu"
        else torch.empty(source.size, dtype=torch.bool, device=source.device)
        for source, mask in zip(sources, on_cpu, strict=True)
    ]


def _sample(sources: Sequence[Source], total: int) -> Tensor:
    """Some scores of all sources: one of each of equally long stretches, at an irregular place in it.

    There are total^(2/3) of them, which balances the work of looking at them against that of selecting in the bracket.
    """
    wanted = ceil(total ** (2 / 3))
    stretch = numpy.arange(wanted, dtype=numpy.float64)  # torch takes three times as long for what follows
    irregular = stretch * GOLDEN
    irregular -= numpy.floor(irregular)
    irregular += stretch
    irregular *= total / wanted
    places = torch.from_numpy(irregular.astype(numpy.int64)).clamp_(max=total - 1)
    ends = torch.tensor([source.size for source in sources]).cumsum(0)
    of_each = places.tensor_split(torch.searchsorted(places, ends[:-1]))
    begins = [0, *ends.tolist()]
    return torch.cat(
        [
            source.at((positions - begin).to(source.device)).to(sources[0].device)
            for source, begin, positions in zip(sources, begins, of_each, strict=False)
            if positions.numel()
        ]
    )


def _bracket(sample: Tensor, fraction: float, margin: float) -> tuple[float, float]:
    """Two scores between which the threshold lies, up to a chance given by the margin."""
    size = len(sample)
    spread = margin * sqrt(size * fraction * (1 - fraction)) + margin
    first, last = floor(size * fraction - spread), ceil(size * fraction + spread)
    ranks = [rank for rank in (first, last) if 1 <= rank <= size]
    found = dict(zip(ranks, _at_ranks(sample, ranks), strict=True))
    return found.get(first, -inf), found.get(last, inf)


def _at_ranks(scores: Tensor, ranks: list[int]) -> list[float]:
    """The scores of these ranks, from 1 for the smallest; on CPUs by NumPy, whose partition is vectorised."""
    if scores.device.type == "cpu":
        places = [rank - 1 for rank in ranks]
        return numpy.partition(scores.numpy(), places)[places].tolist() if ranks else []
    return [float(scores.kthvalue(rank).values) for rank in ranks]


class Inside:
    """The scores strictly inside the bracket, source by source, with their flat positions; `counts` of each source.

    Each of the two is one piece of memory with room for more: thousands of small ones, kept, would fragment the heap.
    """

    def __init__(self, room: int, device: torch.device) -> None:
        self._scores = torch.empty(room, dtype=torch.float32, device=device)
        self._positions = torch.empty(room, dtype=torch.int64, device=device)
        self._length = 0
        self.counts: list[int] = []

    def __len__(self) -> int:
        return self._length

    @property
    def scores(self) -> Tensor:
        return self._scores[: len(self)]

    @property
    def positions(self) -> Tensor:
        return self._positions[: len(self)]

    def begin_source(self) -> None:
        self.counts.append(0)

    def add(self, scores: Values, positions: Values) -> None:
        """Some of the scores of the source that began last, with their positions in it."""
        begin, end = len(self), len(self) + len(scores)
        if end > len(self._scores):
            self._scores = _grown(self.scores, 2 * end)
            self._positions = _grown(self.positions, 2 * end)
        _write(scores, self._scores[begin:end])
        _write(positions, self._positions[begin:end])
        self._length = end
        self.counts[-1] += len(scores)


def _write(values: Values, place: Tensor) -> None:
    """Copies; from NumPy to the CPU without torch, which has not begun when NumPy is done with a few numbers."""
    if isinstance(values, Tensor) or place.device.type != "cpu":
        place.copy_(torch.as_tensor(values))
    else:
        place.numpy()[:] = values


def _grown(values: Tensor, room: int) -> Tensor:
    larger = torch.empty(room, dtype=values.dtype, device=values.device)
    larger[: len(values)] = values
    return larger


def _split(sources: Sequence[Source], masks: list[Tensor], low: float, high: float) -> tuple[int, Inside]:
    """Writes masks of the scores above `low`; returns how many are not, and what is strictly inside the bracket."""
    total = sum(source.size for source in sources)
    inside = Inside(max(DIRECT, total // EXPECTED_INSIDE), sources[0].device)
    above: list[Tensor | int] = []
    for source, mask in zip(sources, masks, strict=True):
        inside.begin_source()
        for where, scores in source.slices():
            split = _split_on_cpu if scores.device.type == "cpu" else _split_on_device
            number, found, positions = split(scores, low, high, mask[where.start : where.stop])
            above.append(number)
            inside.add(found, positions + where.start)
            del scores  # so that those of the next slice are written where these are in the cache
    return total - sum(int(number) for number in above), inside


def _split_on_device(scores: Tensor, low: float, high: float, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Writes `kept`, where scores are above `low`; how many are, and those below `high` with their positions."""
    torch.gt(scores, low, out=kept)
    inside = (kept & (scores < high)).nonzero().squeeze(1)
    return kept.sum(), scores.index_select(0, inside), inside


def _split_on_cpu(
    scores: Tensor, low: float, high: float, kept: Tensor
) -> tuple[int, NDArray[Any], NDArray[Any]]:
    """The same by NumPy, which compares floats into bools several times faster than torch does on CPUs."""
    values, above = scores.numpy(), kept.numpy()
    numpy.greater(values, low, out=above)
    inside = numpy.less(values, high)
    inside &= above
    positions = inside.nonzero()[0]
    return int(numpy.count_nonzero(above)), values[positions], positions


def _remove_inside(masks: list[Tensor], inside: Inside, count: int) -> None:
    """Removes the `count` smallest of the collected scores."""
    [threshold] = _at_ranks(inside.scores, [count])
    removed = inside.scores < threshold
    equal = (inside.scores == threshold).nonzero().squeeze(1)
    removed[equal[: count - int(removed.count_nonzero())]] = True
    of_each = zip(inside.positions.split(inside.counts), removed.split(inside.counts), strict=True)
    for mask, (positions, chosen) in zip(masks, of_each, strict=True):
        mask.scatter_(0, positions.to(mask.device), ~chosen.to(mask.device))


def _remove_at(sources: Sequence[Source], masks: list[Tensor], threshold: float, count: int) -> bool:
    """Removes all scores below the threshold and the first of those equal to it; False if that can't make `count`."""
    smaller = equal = 0
    for source in sources:
        for _, scores in source.slices():
            smaller += int((scores < threshold).count_nonzero())
            equal += int((scores == threshold).count_nonzero())
    if not smaller < count <= smaller + equal:
        return False
    left = count - smaller
    for source, mask in zip(sources, masks, strict=True):
        for where, scores in source.slices():
            kept = torch.ge(scores, threshold, out=mask[where.start : where.stop])
            if left:
                equals = (scores == threshold).nonzero().squeeze(1)[:left]
                kept[equals] = False
                left -= len(equals)
    return True
