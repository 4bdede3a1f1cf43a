"""The scores of layers, computed from the weights as they lie: slice by slice where that is possible, else whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

import torch
from torch import Tensor

from pruning.axes.scoring import CORRECTIONS, Weights, layer_seed
from pruning.axes.structure import BlockShape, output_dimension
from pruning.core import pruning_groups
from pruning.core.layers import Layer
from pruning.core.pruning_groups import Candidates, CoupledGroup
from pruning.core.topk import LOWEST, Source
from pruning.errors import PruningError
from pruning.registry import SCORES, unknown

CPU_SLICE = 1 << 17  # weights a thread; what is computed from them stays in a core's own cache
DEVICE_SLICE = 1 << 24  # the most flags that a float32 sum counts exactly


@dataclass(frozen=True)
class LayerScorer:
    """The layers with all that their scores depend on. `kept` are the masks so far, empty if there are none."""

    layers: Sequence[Layer]
    score: str
    seed: int
    kept: Mapping[str, Tensor]
    collected: Mapping[str, dict[str, Tensor]]

    def sources(self) -> dict[str, Source]:
        """The scores weight by weight, streamed where that is possible."""
        return {
            layer.name: _source(
                layer, self.score, self.seed, self.kept.get(layer.name), self.collected.get(layer.name, {})
            )
            for layer in self.layers
        }

    def candidates(self, bundle: CoupledGroup, tiles: Mapping[str, BlockShape]) -> Candidates:
        """The groups of a bundle with what their weights score together."""
        how = SCORES.entry(self.score).spec.group_reduction
        parts, gone = [], []
        for name, order in bundle.tiles.items():
            scores = pruning_groups.rows(self._scores(name), tiles[name])
            missing = pruning_groups.rows(self._gone(name), tiles[name]).all(1)
            parts.append(scores if order is None else scores[order])
            gone.append(missing if order is None else missing[order])
        weighs = sum(part.shape[1] for part in parts)
        return Candidates(pruning_groups.together(parts, how), torch.stack(gone).all(0), weighs)

    def kept_in_each(self, name: str, tile: BlockShape) -> Tensor:
        """The mask of a layer of which every tile keeps a number of weights."""
        assert tile.keep is not None
        scores = self._scores(name).masked_fill(self._gone(name), LOWEST)
        kept = pruning_groups.keep_in_each(pruning_groups.rows(scores, tile), tile.keep)
        return self._still(name, pruning_groups.from_blocks(kept, tuple(scores.shape), tile))

    def spread(self, name: str, tile: BlockShape, order: Tensor | None, kept: Tensor) -> Tensor:
        """The mask of a layer whose k-th tile is `kept` or not."""
        in_layer = kept if order is None else torch.empty_like(kept).index_copy_(0, order, kept)
        shape = self._layer(name).shape
        size = self._layer(name).size // len(kept)
        return self._still(name, pruning_groups.from_blocks(in_layer[:, None].expand(-1, size), shape, tile))

    def _scores(self, name: str) -> Tensor:
        """The scores of a whole layer in its shape, weights that are removed counting as zero."""
        weights = self._weights(name)
        scores = SCORES.get(self.score)(weights)
        _refuse_wrong(name, scores, weights.value)
        return scores

    def corrected(self, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By layer what its weights are to be once only the `kept` are left; empty for scores that correct nothing."""
        correction = SCORES.entry(self.score).spec.correction
        if correction is None:
            return {}
        if correction not in CORRECTIONS:
            raise unknown("correction of a score", correction, CORRECTIONS)
        return {
            layer.name: CORRECTIONS[correction](self._weights(layer.name), kept[layer.name])
            for layer in self.layers
        }

    def _weights(self, name: str) -> Weights:
        """A whole layer with copies of its weights, those that are removed being zero."""
        layer = self._layer(name)
        return Weights(
            removed_at_zero(layer.parameter.detach(), self.kept.get(name)).to(torch.float32, copy=True),
            self.collected.get(name, {}),
            range(layer.size),
            layer_seed(self.seed, name),
            output_dimension(layer) if len(layer.shape) > 1 else 0,
        )

    def _gone(self, name: str) -> Tensor:
        """Where weights are removed already, by the masks or else by being zero."""
        return ~self.kept[name] if name in self.kept else self._layer(name).parameter.detach() == 0

    def _still(self, name: str, mask: Tensor) -> Tensor:
        return mask & self.kept[name] if name in self.kept else mask

    def _layer(self, name: str) -> Layer:
        return next(layer for layer in self.layers if layer.name == name)


def removed_at_zero(parameter: Tensor, kept: Tensor | None) -> Tensor:
    """The parameter itself, or a copy in which what is not `kept` is zero."""
    return parameter if kept is None else parameter.masked_fill(~kept, 0)


@dataclass(frozen=True)
class StreamedScores:
    """The scores of a layer, computed slice by slice from its weights as they lie. A `selection.Source`.

    gone: where weights are removed already, if earlier masks say so; `zeros_go_first` if the zeros say so.
    """

    name: str
    parameter: Tensor
    score: Callable[[Weights], Tensor]
    seed: int
    collected: Mapping[str, Tensor] = field(default_factory=dict)
    gone: Tensor | None = None
    zeros_go_first: bool = False

    @property
    def size(self) -> int:
        return self.parameter.numel()

    @property
    def device(self) -> torch.device:
        return self.parameter.device

    def slices(self) -> Iterator[tuple[range, Tensor]]:
        parameter = _flat(self.parameter)
        collected = {need: _flat(values) for need, values in self.collected.items()}
        gone = None if self.gone is None else _flat(self.gone)
        length = _slice_length(self.device)
        for start in range(0, self.size, length):
            where = range(start, min(start + length, self.size))
            piece = slice(where.start, where.stop)
            yield (
                where,
                self._scores(
                    where,
                    parameter[piece],
                    {need: values[piece] for need, values in collected.items()},
                    None if gone is None else gone[piece],
                ),
            )

    def at(self, positions: Tensor) -> Tensor:
        return self._scores(
            positions,
            _at(self.parameter, positions),
            {need: _at(values, positions) for need, values in self.collected.items()},
            None if self.gone is None else _at(self.gone, positions),
        )

    def _scores(
        self, where: range | Tensor, values: Tensor, collected: dict[str, Tensor], gone: Tensor | None
    ) -> Tensor:
        scores = self.score(Weights(values.float(), collected, where, self.seed))
        _refuse_wrong(self.name, scores, values)
        if self.zeros_go_first:
            gone = values == 0
        # Not in place: a score may hand back the weights themselves.
        return scores if gone is None else scores.masked_fill(gone, LOWEST)

    def held(self) -> MaterializedScores:
        """The scores of the layer as a whole, weights that are removed counting as zero."""
        # A copy, so that a user's score that works in place leaves the model alone.
        left = self.parameter.clone() if self.gone is None else self.parameter.masked_fill(self.gone, 0)
        scores = self._scores(range(self.size), left, dict(self.collected), self.gone)
        return MaterializedScores(_flat(scores))


@dataclass(frozen=True)
class MaterializedScores:
    """The scores of a layer (1-d), computed at once and held. A `selection.Source`."""

    scores: Tensor

    @property
    def size(self) -> int:
        return self.scores.numel()

    @property
    def device(self) -> torch.device:
        return self.scores.device

    def slices(self) -> Iterator[tuple[range, Tensor]]:
        length = _slice_length(self.device)
        for start in range(0, self.size, length):
            where = range(start, min(start + length, self.size))
            yield where, self.scores[where.start : where.stop]

    def at(self, positions: Tensor) -> Tensor:
        return _at(self.scores, positions)


def _source(layer: Layer, score: str, seed: int, kept: Tensor | None, collected: dict[str, Tensor]) -> Source:
    spec = SCORES.entry(score).spec
    scores = StreamedScores(
        name=layer.name,
        parameter=layer.parameter.detach(),
        score=SCORES.get(score),
        seed=layer_seed(seed, layer.name),
        collected=collected,
        gone=None if kept is None else ~kept,
        zeros_go_first=kept is None and not spec.zero_is_lowest,
    )
    return scores if spec.elementwise else scores.held()


def _slice_length(device: torch.device) -> int:
    return CPU_SLICE * torch.get_num_threads() if device.type == "cpu" else DEVICE_SLICE


def _refuse_wrong(name: str, scores: Tensor, values: Tensor) -> None:
    """A sum is the cheapest look at all of them; large finite scores may overflow it, hence the second look."""
    if not isinstance(scores, Tensor) or scores.shape != values.shape or scores.dtype != torch.float32:
        found = (scores.dtype, tuple(scores.shape)) if isinstance(scores, Tensor) else type(scores)
        raise PruningError(
            f"The score gave {found} for {name}: "
            f"it must give a float32 tensor of the weights' shape {tuple(values.shape)}."
        )
    if not isfinite(float(scores.sum())) and not bool(scores.isfinite().all()):
        raise PruningError(
            f"The scores of {name} are not all finite: its weights or gradients have diverged to NaN or infinity."
        )


def _flat(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1)


def _at(tensor: Tensor, positions: Tensor) -> Tensor:
    """The values at flat positions, without a copy of those that do not lie one after another."""
    return tensor.view(-1).index_select(0, positions) if tensor.is_contiguous() else tensor.take(positions)
