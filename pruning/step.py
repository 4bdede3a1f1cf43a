"""The pruning step: score the weights, compare the scores where the method says, remove the lowest.

masks = pruning.prune(model, "global_mag", sparsity=0.9)
masks.hold(optimizer)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from math import isfinite

import torch
from torch import Tensor, nn
from torch.nn import functional

from pruning.allocation import Amount, Group, LayerSize
from pruning.errors import PruningError
from pruning.layers import Layer, prunable
from pruning.masks import Masks
from pruning.methods import split
from pruning.registry import ALLOCATIONS, SCORES
from pruning.scoring import COLLECTORS, Batches, Loss, Weights, layer_seed
from pruning.selection import LOWEST, Source, smallest

DEFAULT_SPARSITY = 0.9
CPU_SLICE = 1 << 17  # weights a thread; what is computed from them stays in a core's own cache
DEVICE_SLICE = 1 << 24  # the most flags that a float32 sum counts exactly


def prune(
    model: nn.Module,
    method: str = "global_mag",
    sparsity: float | None = None,
    count: int | None = None,
    batches: Batches | None = None,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    seed: int = 0,
    *,
    masks: Masks | None = None,
    prune_classifier: bool = False,
    loss: Loss = functional.cross_entropy,
) -> Masks:
    """Removes weights of `model`: sets them to zero and returns the masks, bound to the model.

    The arguments are those of `choose`.
    """
    return choose(
        model, method, sparsity, count, batches, include, exclude, seed,
        masks=masks, prune_classifier=prune_classifier, loss=loss,
    ).apply(model)  # fmt: skip


def choose(
    model: nn.Module,
    method: str = "global_mag",
    sparsity: float | None = None,
    count: int | None = None,
    batches: Batches | None = None,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    seed: int = 0,
    *,
    masks: Masks | None = None,
    prune_classifier: bool = False,
    loss: Loss = functional.cross_entropy,
    stage: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext(),
) -> Masks:
    """The masks with which `method` prunes `model`; the model stays as it is, bit for bit.

    method: `{allocation}_{score}` (global_mag, layer_grad, ...) or random.
    sparsity: the fraction of the prunable weights to remove, 0 to 1 (0.9 if no count is given either); or
    count: the number of weights to remove. A count above a layer's size (layerwise) or the network's empties it.
        Both are of the dense network: what was removed before counts as removed.
    batches: an iterable of (inputs, targets), for scores that need gradients.
    include, exclude: patterns for what to prune besides, or instead of, the default (see `layers.prunable`).
    seed: for scores that draw at random.
    masks: an earlier result to build on: what it removed stays removed, even if that is more than the amount asked for.
        Without it, weights that are exactly zero go first, so that a second pruning builds on the first.
    loss: ``(outputs, targets) -> Tensor``, the mean over a batch.
    stage: the context in which "scoring" (looking at the batches) and "masking" (all the rest) are done, to time them.

    Raises PruningError for an unknown method, an amount out of range, batches that are needed and missing, nothing to
    prune, scores that are not finite, and earlier masks that are of another network.
    """
    allocation, score = split(method)
    amount = Amount(DEFAULT_SPARSITY if sparsity is None and count is None else sparsity, count)
    layers = prunable(model, include, exclude, prune_classifier=prune_classifier)
    earlier = _earlier(masks, layers)
    with stage("scoring"):
        collected = _collect(SCORES.entry(score).about["needs"], method, model, layers, batches, loss)
    with stage("masking"):
        sizes = [LayerSize(layer.name, layer.size, layer.shape, layer.kind) for layer in layers]
        groups = ALLOCATIONS.get(allocation)(sizes, amount)
        sources = {
            layer.name: _source(layer, score, seed, earlier.get(layer.name), collected.get(layer.name, {}))
            for layer in layers
        }
        chosen = _select(groups, sources, earlier)
        return Masks({layer.name: _laid_out_like(layer.parameter, chosen[layer.name]) for layer in layers})


def _select(groups: list[Group], sources: dict[str, Source], earlier: dict[str, Tensor]) -> dict[str, Tensor]:
    """Flat masks by layer: in each group the lowest scores are removed, at least as many as are removed already."""
    chosen: dict[str, Tensor] = {}
    for group in groups:
        removed = sum(int((~earlier[name]).count_nonzero()) for name in group.names if name in earlier)
        kept = smallest([sources[name] for name in group.names], max(group.remove, removed))
        chosen.update(zip(group.names, kept, strict=True))
    return chosen


@dataclass(frozen=True)
class ElementwiseScores:
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
            self.parameter.take(positions),
            {need: values.take(positions) for need, values in self.collected.items()},
            None if self.gone is None else self.gone.take(positions),
        )

    def _scores(
        self, where: range | Tensor, values: Tensor, collected: dict[str, Tensor], gone: Tensor | None
    ) -> Tensor:
        scores = self.score(Weights(values.float(), collected, where, self.seed))
        _refuse_infinite(self.name, scores)
        if self.zeros_go_first:
            gone = values == 0
        # Not in place: a score may hand back the weights themselves.
        return scores if gone is None else scores.masked_fill(gone, LOWEST)

    def held(self) -> HeldScores:
        """The scores of the layer as a whole, for a score that is not elementwise."""
        scores = self._scores(range(self.size), self.parameter, dict(self.collected), self.gone)
        return HeldScores(_flat(scores))


@dataclass(frozen=True)
class HeldScores:
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
        return self.scores.take(positions)


def _source(layer: Layer, score: str, seed: int, kept: Tensor | None, collected: dict[str, Tensor]) -> Source:
    about = SCORES.entry(score).about
    scores = ElementwiseScores(
        name=layer.name,
        parameter=layer.parameter.detach(),
        score=SCORES.get(score),
        seed=layer_seed(seed, layer.name),
        collected=collected,
        gone=None if kept is None else ~kept,
        zeros_go_first=kept is None and not about.get("zero_is_lowest", False),
    )
    return scores if about["elementwise"] else scores.held()


def _collect(
    needs: list[str], method: str, model: nn.Module, layers: list[Layer], batches: Batches | None, loss: Loss
) -> dict[str, dict[str, Tensor]]:
    """What the score needs of each layer: layer name -> need -> tensor."""
    if needs and batches is None:
        raise PruningError(
            f"{method} needs the {' and '.join(needs)}: give batches, an iterable of (inputs, targets)."
        )
    found = {need: COLLECTORS[need](model, layers, batches, loss) for need in needs}
    return {layer.name: {need: values[layer.name] for need, values in found.items()} for layer in layers}


def _earlier(masks: Masks | None, layers: list[Layer]) -> dict[str, Tensor]:
    """The earlier masks of these layers, each on its layer's device."""
    if masks is None:
        return {}
    by_name = {layer.name: layer for layer in layers}
    for name, mask in masks.items():
        if name not in by_name:
            raise PruningError(
                f"The earlier masks have {name}, which is not pruned now: prune the same layers again."
            )
        if tuple(mask.shape) != by_name[name].shape:
            raise PruningError(
                f"The earlier mask of {name} is of shape {tuple(mask.shape)}, the layer of {by_name[name].shape}."
            )
    return {name: mask.to(by_name[name].parameter.device) for name, mask in masks.items()}


def _slice_length(device: torch.device) -> int:
    return CPU_SLICE * torch.get_num_threads() if device.type == "cpu" else DEVICE_SLICE


def _refuse_infinite(name: str, scores: Tensor) -> None:
    """A sum is the cheapest look at all of them; large finite scores may overflow it, hence the second look."""
    if not isfinite(float(scores.sum())) and not bool(scores.isfinite().all()):
        raise PruningError(
            f"The scores of {name} are not all finite: its weights or gradients have diverged to NaN or infinity."
        )


def _flat(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1)


def _laid_out_like(parameter: Tensor, flat: Tensor) -> Tensor:
    """The mask in the parameter's shape and memory format (channels last, say), so that both are walked together."""
    mask = flat.view(parameter.shape)
    if parameter.is_contiguous():
        return mask
    return torch.empty_like(parameter, dtype=torch.bool).copy_(mask)
