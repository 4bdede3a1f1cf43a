"""Scores of layers: streamed slice by slice if the score is elementwise, else computed for the whole layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

import torch
from torch import Tensor

from pruning.axes.scoring import Weights, layer_seed
from pruning.axes.structure import output_dimension
from pruning.core.layers import Layer
from pruning.core.topk import LOWEST, ScoreStream
from pruning.errors import PruningError
from pruning.registry import CORRECTIONS, SCORES

CPU_SLICE = 1 << 17  # weights per thread; the scores of a slice stay in the cache of a core
DEVICE_SLICE = 1 << 24  # a float32 sum of bools is exact up to 2^24


class LayerScorer:
    """Scores of layers by name, with one score function and its inputs.

    Args:
        layers: The layers; their parameters can be copies.
        score: Name of the score.
        seed: For random scores.
        kept: Layer name -> mask after the earlier pruning steps. If empty, weights of exactly zero count as pruned.
        statistics: Name of a statistic or accumulator -> layer name -> tensor.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        score: str,
        seed: int,
        kept: Mapping[str, Tensor],
        statistics: Mapping[str, Mapping[str, Tensor]],
    ) -> None:
        self._layers = {layer.name: layer for layer in layers}
        self._spec = SCORES.entry(score).spec
        self._function = SCORES.get(score)
        self._seed = seed
        self.kept = kept
        self._statistics = statistics

    @property
    def group_reduction(self) -> str:
        return self._spec.group_reduction

    def shape(self, name: str) -> tuple[int, ...]:
        return self._layers[name].shape

    def stream(self, name: str) -> ScoreStream:
        """Return the scores of a layer's single weights, with already pruned weights lowest."""
        kept = self.kept.get(name)
        scores = StreamedScores(
            name=name,
            parameter=self._layers[name].parameter.detach(),
            score=self._function,
            seed=layer_seed(self._seed, name),
            statistics=self._layer_statistics(name),
            pruned=None if kept is None else ~kept,
            zeros_are_pruned=kept is None and not self._spec.zero_is_lowest,
        )
        return scores if self._spec.elementwise else scores.materialize()

    def scores(self, name: str) -> Tensor:
        """Return the scores of a whole layer in its shape; pruned weights are scored as zeros."""
        weights = self.weights(name)
        scores = self._function(weights)
        _check_scores(name, scores, weights.value)
        return scores

    def pruned(self, name: str) -> Tensor:
        """Return a bool tensor, True where a layer's weights are already pruned (without earlier masks: zero)."""
        return ~self.kept[name] if name in self.kept else self._layers[name].parameter.detach() == 0

    def combine_with_previous_mask(self, name: str, mask: Tensor) -> Tensor:
        """Return `mask` with the weights that earlier pruning steps removed set to False."""
        return mask & self.kept[name] if name in self.kept else mask

    def weights(self, name: str) -> Weights:
        """Return the argument of the score function for a whole layer: a copy in which pruned weights are zero."""
        layer = self._layers[name]
        return Weights(
            without_pruned(layer.parameter.detach(), self.kept.get(name)).to(torch.float32, copy=True),
            self._layer_statistics(name),
            range(layer.size),
            layer_seed(self._seed, name),
            output_dimension(layer) if len(layer.shape) > 1 else 0,
        )

    def corrected(self, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return layer name -> weights corrected for the masks `kept`; empty if the score has no correction."""
        if self._spec.correction is None:
            return {}
        correct = CORRECTIONS.get(self._spec.correction)
        return {name: correct(self.weights(name), kept[name]) for name in self._layers}

    def _layer_statistics(self, name: str) -> dict[str, Tensor]:
        return {statistic: by_layer[name] for statistic, by_layer in self._statistics.items()}


def without_pruned(parameter: Tensor, kept: Tensor | None) -> Tensor:
    """Return a copy of the parameter with zeros where `kept` is False; the parameter itself if `kept` is None."""
    return parameter if kept is None else parameter.masked_fill(~kept, 0)


@dataclass(frozen=True)
class StreamedScores:
    """A `ScoreStream` that computes the scores slice by slice from the layer's weights, without copying them.

    Attributes:
        pruned: Bool tensor, True where weights are already pruned; None without earlier masks.
        zeros_are_pruned: Whether weights of exactly zero count as pruned.
    """

    name: str
    parameter: Tensor
    score: Callable[[Weights], Tensor]
    seed: int
    statistics: Mapping[str, Tensor] = field(default_factory=dict)
    pruned: Tensor | None = None
    zeros_are_pruned: bool = False

    @property
    def size(self) -> int:
        return self.parameter.numel()

    @property
    def device(self) -> torch.device:
        return self.parameter.device

    def slices(self) -> Iterator[tuple[range, Tensor]]:
        parameter = _flat(self.parameter)
        statistics = {name: _flat(values) for name, values in self.statistics.items()}
        pruned = None if self.pruned is None else _flat(self.pruned)
        for indices in _slices(self.size, self.device):
            piece = slice(indices.start, indices.stop)
            yield (
                indices,
                self._scores(
                    indices,
                    parameter[piece],
                    {name: values[piece] for name, values in statistics.items()},
                    None if pruned is None else pruned[piece],
                ),
            )

    def at(self, indices: Tensor) -> Tensor:
        return self._scores(
            indices,
            _take(self.parameter, indices),
            {name: _take(values, indices) for name, values in self.statistics.items()},
            None if self.pruned is None else _take(self.pruned, indices),
        )

    def _scores(
        self, indices: range | Tensor, values: Tensor, statistics: dict[str, Tensor], pruned: Tensor | None
    ) -> Tensor:
        scores = self.score(Weights(values.float(), statistics, indices, self.seed))
        _check_scores(self.name, scores, values)
        if self.zeros_are_pruned:
            pruned = values == 0
        # Not in place: a score can return the weights themselves.
        return scores if pruned is None else scores.masked_fill(pruned, LOWEST)

    def materialize(self) -> MaterializedScores:
        """Compute the scores of the whole layer; pruned weights are scored as zeros."""
        # A copy, so that a user's score that works in place does not change the model.
        values = self.parameter.clone() if self.pruned is None else self.parameter.masked_fill(self.pruned, 0)
        scores = self._scores(range(self.size), values, dict(self.statistics), self.pruned)
        return MaterializedScores(_flat(scores))


@dataclass(frozen=True)
class MaterializedScores:
    """A `ScoreStream` of scores (1-d) that are in memory."""

    scores: Tensor

    @property
    def size(self) -> int:
        return self.scores.numel()

    @property
    def device(self) -> torch.device:
        return self.scores.device

    def slices(self) -> Iterator[tuple[range, Tensor]]:
        for indices in _slices(self.size, self.device):
            yield indices, self.scores[indices.start : indices.stop]

    def at(self, indices: Tensor) -> Tensor:
        return _take(self.scores, indices)


def _slices(size: int, device: torch.device) -> Iterator[range]:
    length = CPU_SLICE * torch.get_num_threads() if device.type == "cpu" else DEVICE_SLICE
    for start in range(0, size, length):
        yield range(start, min(start + length, size))


def _check_scores(name: str, scores: Tensor, values: Tensor) -> None:
    """Raise PruningError unless the scores are finite float32 numbers of the weights' shape.

    The sum of the scores is the cheapest check. Large finite scores can overflow it: then every score is checked.
    """
    if not isinstance(scores, Tensor) or scores.shape != values.shape or scores.dtype != torch.float32:
        found = (
            f"{scores.dtype} of shape {tuple(scores.shape)}"
            if isinstance(scores, Tensor)
            else type(scores).__name__
        )
        raise PruningError(
            f"The score returned {found} for {name}: "
            f"it must return a float32 tensor of the weights' shape {tuple(values.shape)}."
        )
    if not isfinite(float(scores.sum())) and not bool(scores.isfinite().all()):
        raise PruningError(
            f"The scores of {name} are not all finite: its weights or gradients have diverged to NaN or infinity."
        )


def _flat(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1)


def _take(tensor: Tensor, indices: Tensor) -> Tensor:
    """Return the values at flat indices, without a copy of a tensor that is not contiguous."""
    return tensor.view(-1).index_select(0, indices) if tensor.is_contiguous() else tensor.take(indices)
