"""Exact selection of the k lowest scores of many, in one pass over streamed scores.

Every layer's scores are a `ScoreStream` of slices, so that no copy of all scores exists, and they are never sorted. A
deterministic sample brackets the threshold. One pass counts the scores at or below the bracket, writes the masks and
collects the candidates strictly inside it (about one score in a hundred), among which the rest is selected exactly. A
score that many weights share is never inside: it is in the sample and becomes an edge of the bracket. If it is the
threshold, a second pass removes the first of the equal scores. A bracket that misses the threshold is widened.

Ties are broken by layer, then by flat index: the first is removed first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, floor, inf, sqrt
from typing import Any, Protocol

import numpy  # comes with torchvision
import torch
from numpy.typing import NDArray
from torch import Tensor

DIRECT = 1 << 13  # up to this many scores, all are candidates and there is no bracket
MARGIN = 3.0  # in standard deviations of the sampled rank; one bracket in 400 misses and costs a pass
EXPECTED_CANDIDATES = 64  # room for every 64th score; of millions about every 100th is a candidate
LOWEST = torch.finfo(torch.float32).min  # the score of weights that are already pruned
GOLDEN = (sqrt(5) - 1) / 2

Values = Tensor | NDArray[Any]


class ScoreStream(Protocol):
    """The scores of one layer: finite float32 numbers, equal in every pass."""

    @property
    def size(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def slices(self) -> Iterator[tuple[range, Tensor]]:
        """Yield all flat indices in order, slice by slice, each slice with its scores (1-d)."""

    def at(self, indices: Tensor) -> Tensor:
        """Return the scores at flat indices (both 1-d)."""


def bottom_k_masks(streams: Sequence[ScoreStream], count: int) -> list[Tensor]:
    """Return one flat bool mask per stream: False at the `count` lowest scores of all streams, True elsewhere."""
    total = sum(stream.size for stream in streams)
    count = min(max(count, 0), total)
    if count in (0, total):
        return [torch.full((stream.size,), count == 0, device=stream.device) for stream in streams]
    masks = _unwritten_masks(streams)
    sample = _sample(streams, total) if total > DIRECT else torch.empty(0)
    margin = MARGIN
    while True:
        low, high = _bracket(sample, count / total, margin)
        below, candidates = _split(streams, masks, low, high)
        if below < count <= below + len(candidates):
            _remove_candidates(masks, candidates, count - below)
            return masks
        if _remove_at(streams, masks, low if count <= below else high, count):
            return masks
        margin *= 4


def _unwritten_masks(streams: Sequence[ScoreStream]) -> list[Tensor]:
    """Return an uninitialised flat mask per stream. Those on the CPU share one allocation.

    NumPy requests huge pages for it. With small pages, the page faults of the first write took longer than the write.
    """
    sizes = [stream.size if stream.device.type == "cpu" else 0 for stream in streams]
    on_cpu = torch.from_numpy(numpy.empty(sum(sizes), dtype=numpy.bool_)).split(sizes)
    return [
        mask
        if stream.device.type == "cpu"
        else torch.empty(stream.size, dtype=torch.bool, device=stream.device)
        for stream, mask in zip(streams, on_cpu, strict=True)
    ]


def _sample(streams: Sequence[ScoreStream], total: int) -> Tensor:
    """Return total^(2/3) scores of all streams: one from each of equally long intervals, at an irregular offset.

    That number balances the cost of the sample against that of the selection among the candidates.
    """
    wanted = ceil(total ** (2 / 3))
    stretch = numpy.arange(wanted, dtype=numpy.float64)  # torch takes three times as long here
    irregular = stretch * GOLDEN
    irregular -= numpy.floor(irregular)
    irregular += stretch
    irregular *= total / wanted
    places = torch.from_numpy(irregular.astype(numpy.int64)).clamp_(max=total - 1)
    ends = torch.tensor([stream.size for stream in streams]).cumsum(0)
    by_stream = places.tensor_split(torch.searchsorted(places, ends[:-1]))
    begins = [0, *ends.tolist()]
    return torch.cat(
        [
            stream.at((indices - begin).to(stream.device)).to(streams[0].device)
            for stream, begin, indices in zip(streams, begins, by_stream, strict=False)
            if indices.numel()
        ]
    )


def _bracket(sample: Tensor, fraction: float, margin: float) -> tuple[float, float]:
    """Return two scores that enclose the threshold, with a probability given by the margin."""
    size = len(sample)
    spread = margin * sqrt(size * fraction * (1 - fraction)) + margin
    first, last = floor(size * fraction - spread), ceil(size * fraction + spread)
    ranks = [rank for rank in (first, last) if 1 <= rank <= size]
    found = dict(zip(ranks, _at_ranks(sample, ranks), strict=True))
    return found.get(first, -inf), found.get(last, inf)


def _at_ranks(scores: Tensor, ranks: list[int]) -> list[float]:
    """Return the scores of these ranks, 1 for the lowest; on CPUs with NumPy, whose partition is vectorised."""
    if scores.device.type == "cpu":
        places = [rank - 1 for rank in ranks]
        return numpy.partition(scores.numpy(), places)[places].tolist() if ranks else []
    return [float(scores.kthvalue(rank).values) for rank in ranks]


class Candidates:
    """The scores strictly inside the bracket, stream by stream, with their flat indices.

    Scores and indices are one growing allocation each; thousands of small ones would fragment the heap.

    Attributes:
        counts: Number of candidates of each stream.
    """

    def __init__(self, room: int, device: torch.device) -> None:
        self._scores = torch.empty(room, dtype=torch.float32, device=device)
        self._indices = torch.empty(room, dtype=torch.int64, device=device)
        self._length = 0
        self.counts: list[int] = []

    def __len__(self) -> int:
        return self._length

    @property
    def scores(self) -> Tensor:
        return self._scores[: len(self)]

    @property
    def indices(self) -> Tensor:
        return self._indices[: len(self)]

    def begin_stream(self) -> None:
        self.counts.append(0)

    def add(self, scores: Values, indices: Values) -> None:
        """Append scores of the current stream with their flat indices."""
        begin, end = len(self), len(self) + len(scores)
        if end > len(self._scores):
            self._scores = _grown(self.scores, 2 * end)
            self._indices = _grown(self.indices, 2 * end)
        _write(scores, self._scores[begin:end])
        _write(indices, self._indices[begin:end])
        self._length = end
        self.counts[-1] += len(scores)


def _write(values: Values, place: Tensor) -> None:
    """Copy; from NumPy to the CPU with NumPy, whose overhead for a few numbers is lower than torch's."""
    if isinstance(values, Tensor) or place.device.type != "cpu":
        place.copy_(torch.as_tensor(values))
    else:
        place.numpy()[:] = values


def _grown(values: Tensor, room: int) -> Tensor:
    larger = torch.empty(room, dtype=values.dtype, device=values.device)
    larger[: len(values)] = values
    return larger


def _split(
    streams: Sequence[ScoreStream], masks: list[Tensor], low: float, high: float
) -> tuple[int, Candidates]:
    """Write the masks of scores above `low`; return the number of the other scores, and the candidates."""
    total = sum(stream.size for stream in streams)
    candidates = Candidates(max(DIRECT, total // EXPECTED_CANDIDATES), streams[0].device)
    above: list[Tensor | int] = []
    for stream, mask in zip(streams, masks, strict=True):
        candidates.begin_stream()
        for where, scores in stream.slices():
            split = _split_on_cpu if scores.device.type == "cpu" else _split_on_device
            number, found, indices = split(scores, low, high, mask[where.start : where.stop])
            above.append(number)
            candidates.add(found, indices + where.start)
            del scores  # so that the next slice reuses this memory, which is in the cache
    return total - sum(int(number) for number in above), candidates


def _split_on_device(scores: Tensor, low: float, high: float, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Write `kept` where scores are above `low`; return their number, and those below `high` with their indices."""
    torch.gt(scores, low, out=kept)
    inside = (kept & (scores < high)).nonzero().squeeze(1)
    return kept.sum(), scores.index_select(0, inside), inside


def _split_on_cpu(
    scores: Tensor, low: float, high: float, kept: Tensor
) -> tuple[int, NDArray[Any], NDArray[Any]]:
    """The same with NumPy, which compares floats into bools several times faster than torch on CPUs."""
    values, above = scores.numpy(), kept.numpy()
    numpy.greater(values, low, out=above)
    inside = numpy.less(values, high)
    inside &= above
    indices = inside.nonzero()[0]
    return int(numpy.count_nonzero(above)), values[indices], indices


def _remove_candidates(masks: list[Tensor], candidates: Candidates, count: int) -> None:
    """Remove the `count` lowest candidates."""
    [threshold] = _at_ranks(candidates.scores, [count])
    removed = candidates.scores < threshold
    equal = (candidates.scores == threshold).nonzero().squeeze(1)
    removed[equal[: count - int(removed.count_nonzero())]] = True
    by_stream = zip(
        candidates.indices.split(candidates.counts), removed.split(candidates.counts), strict=True
    )
    for mask, (indices, chosen) in zip(masks, by_stream, strict=True):
        mask.scatter_(0, indices.to(mask.device), ~chosen.to(mask.device))


def _remove_at(streams: Sequence[ScoreStream], masks: list[Tensor], threshold: float, count: int) -> bool:
    """Remove the scores below the threshold and the first of those equal to it; False if that cannot be `count`."""
    smaller = equal = 0
    for stream in streams:
        for _, scores in stream.slices():
            smaller += int((scores < threshold).count_nonzero())
            equal += int((scores == threshold).count_nonzero())
    if not smaller < count <= smaller + equal:
        return False
    left = count - smaller
    for stream, mask in zip(streams, masks, strict=True):
        for indices, scores in stream.slices():
            kept = torch.ge(scores, threshold, out=mask[indices.start : indices.stop])
            if left:
                equals = (scores == threshold).nonzero().squeeze(1)[:left]
                kept[equals] = False
                left -= len(equals)
    return True
