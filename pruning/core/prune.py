"""The pruning step: score the weights, compare the scores where the method says, remove the lowest.

masks = pruning.prune(model, "global_mag", sparsity=0.9)
masks.hold(optimizer)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import wraps
from inspect import signature
from itertools import chain
from typing import ParamSpec

import torch
from torch import Tensor, nn
from torch.nn import functional

from pruning.axes import methods
from pruning.axes.allocation import DEFAULT_SPARSITY, Amount, Group, LayerSize, is_fraction
from pruning.axes.structure import BlockShape, check_floor, fixed_sparsity
from pruning.core import pruning_groups
from pruning.core.layer_scores import LayerScorer, removed_at_zero
from pruning.core.layers import Layer, prunable_layers
from pruning.core.masks import Masks
from pruning.core.pruning_groups import CoupledGroup
from pruning.core.statistics import COLLECTORS, Batches, Loss, refuse_unseen_inputs
from pruning.core.topk import Source, bottom_k_masks
from pruning.errors import PruningError
from pruning.registry import ALLOCATIONS, SCORES, STRUCTURES, unknown

P = ParamSpec("P")


@dataclass(frozen=True)
class Plan:
    """A pruning that is worked out and not done yet.

    corrected: for scores that correct the kept weights, layer name -> float32 weights after the pruning.
    """

    model: nn.Module
    masks: Masks
    corrected: Mapping[str, Tensor]

    def apply(self) -> Masks:
        """Does it, in place: removed weights are zero, kept ones corrected. Returns the masks, bound to the model."""
        with torch.no_grad():
            for name, values in self.corrected.items():
                self.model.get_parameter(name).copy_(values)
        return self.masks.apply(self.model)


def plan(
    model: nn.Module,
    method: str = "global_mag",
    sparsity: float | Mapping[str, float] | None = None,
    count: int | None = None,
    batches: Batches | None = None,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    seed: int = 0,
    *,
    structure: str = "weight",
    floor: float = 0.0,
    masks: Masks | None = None,
    accumulated: Mapping[str, Mapping[str, Tensor]] | None = None,
    prune_classifier: bool = False,
    loss: Loss = functional.cross_entropy,
    stage: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext(),
) -> Plan:
    """How `method` prunes `model`; the model stays as it is, bit for bit.

    method: `{allocation}_{score}` (global_mag, layer_grad, ...), or one with a name of its own (lamp, random, ...).
    sparsity: the fraction of the prunable weights to remove, 0 to 1 (0.9 if no count is given either); or fractions by
        kind of layer or name pattern, {"conv": 0.2, "linear": 0.4}; or
    count: the number of weights to remove. A count above a layer's size (layerwise) or the network's empties it.
        Both are of the dense network: what was removed before counts as removed.
    batches: an iterable of (inputs, targets), for scores that need gradients or activations, and for filters (to see
        how layers are connected).
    include, exclude: patterns for what to prune besides, or instead of, the default (see `layers.prunable`).
    seed: for scores that draw at random.
    structure: what is removed together (see `list structures`). Of groups that many go with which the weights removed
        come nearest to the amount; N:M fixes the amount.
    floor: the fraction of its weights that every layer keeps, whatever they score.
    masks: an earlier result to build on: what it removed stays removed, even if that is more than the amount asked for.
        Without it, weights that are exactly zero go first, so that a second pruning builds on the first.
    accumulated: for methods that go by the training before: what `accumulating.accumulate` added up.
    loss: ``(outputs, targets) -> Tensor``, the mean over a batch.
    stage: the context in which "scoring" (looking at the batches) and "masking" (all the rest) are done, to time them.

    Raises PruningError for an unknown method or structure, a method that has no meaning for the structure, an amount
    out of range, layers that the structure does not fit, batches or sums over training that are needed and missing,
    nothing to prune, scores that are not finite, a floor that leaves too little to remove, and earlier masks that are
    of another network.
    """
    methods.check(method, structure)
    allocation, score = methods.split(method)
    spec = SCORES.entry(score).spec
    amount = _amount(sparsity, count, structure)
    if not is_fraction(floor):
        raise PruningError(f"Floor {floor!r} is not a fraction: it must be from 0 to 1.")
    check_floor(structure, floor)
    layers = prunable_layers(model, include, exclude, prune_classifier=prune_classifier)
    earlier = _earlier(masks, layers)
    groups = ALLOCATIONS.get(allocation)(
        [LayerSize(layer.name, layer.size, layer.shape, layer.kind) for layer in layers], amount
    )
    # What keeps a number in every tile does so at once: further steps would find nothing to remove.
    iterations = spec.iterations if fixed_sparsity(structure) is None else 1
    with stage("masking"):
        tiles = None if structure == "weight" else pruning_groups.block_shapes(structure, layers)
        bundles, batches = _bundles(structure, model, layers, batches)
    if iterations > 1 and batches is not None:
        batches = list(batches)
    kept, needs = earlier, spec.statistics
    added_up = _added_up(method, accumulated or {}, layers)
    corrected: dict[str, Tensor] = {}
    for step in range(1, iterations + 1):
        with stage("scoring"):
            now = _as_left(layers, kept, corrected) if kept and needs else layers
            collected = _collect(needs, method, model, now, batches, loss, bundles)
        with stage("masking"):
            scored = LayerScorer(now, score, seed, kept, _by_layer({**collected, **added_up}, layers))
            shares = [_share(group, earlier, step / iterations, layers) for group in groups]
            if tiles is None:
                chosen = _select(shares, scored.sources(), kept, floor)
            else:
                chosen = _select_tiles(shares, scored, tiles, bundles, floor)
            kept = {layer.name: chosen[layer.name].view(layer.shape) for layer in layers}
            corrected = scored.corrected(kept)
    with stage("masking"):
        new = Masks(
            {layer.name: _laid_out_like(layer.parameter, kept[layer.name]) for layer in layers},
            {**(masks.along if masks is not None else {}), **_along(model, bundles, kept, tiles)},
        )
    return Plan(model, new, corrected)


def _with_arguments_of(
    planning: Callable[P, Plan],
) -> Callable[[Callable[[Plan], Masks]], Callable[P, Masks]]:
    """Decorator: a function of a plan becomes one of the arguments from which the plan is made."""

    def decorate(finish: Callable[[Plan], Masks]) -> Callable[P, Masks]:
        @wraps(finish)
        def planned(*arguments: P.args, **named: P.kwargs) -> Masks:
            return finish(planning(*arguments, **named))

        planned.__signature__ = signature(planning).replace(return_annotation="Masks")  # type: ignore[attr-defined]
        return planned

    return decorate


@_with_arguments_of(plan)
def prune(planned: Plan) -> Masks:
    """Removes weights of a model: sets them to zero and returns the masks, bound to the model.

    Scores that correct the kept weights do so here. The arguments are those of `plan`.
    """
    return planned.apply()


@_with_arguments_of(plan)
def choose(planned: Plan) -> Masks:
    """The masks with which a method prunes a model, which stays as it is, bit for bit; the arguments are `plan`'s."""
    return planned.masks


def check(model: nn.Module, method: str, structure: str, layers: Sequence[Layer], images: Tensor) -> None:
    """PruningError if `method` and `structure` cannot prune these layers, as far as that shows without any data."""
    methods.check(method, structure)
    pruning_groups.block_shapes(structure, layers)
    needs = SCORES.entry(methods.split(method)[1]).spec.statistics
    if STRUCTURES.entry(structure).spec.coupled:
        bundles = pruning_groups.coupled_groups(structure, model, images, layers)
        for need in pruning_groups.OF_CHANNELS.keys() & set(needs):
            pruning_groups.OF_CHANNELS[need](model, layers, bundles)
    if {"input norm", "mean input"} & set(needs):
        refuse_unseen_inputs(layers)


def _amount(sparsity: float | Mapping[str, float] | None, count: int | None, structure: str) -> Amount:
    """What was asked for, or what the structure comes to; PruningError if these contradict one another."""
    fixed = fixed_sparsity(structure)
    if fixed is not None and (count is not None or sparsity not in (None, fixed)):
        given = f"a count of {count}" if count is not None else f"a sparsity of {sparsity}"
        raise PruningError(
            f"Structure {structure} removes exactly {fixed:g}: {given} contradicts it; leave it out."
        )
    if isinstance(sparsity, Mapping):
        return Amount(count=count, by_layer=sparsity)
    if sparsity is None and count is None:
        sparsity = DEFAULT_SPARSITY if fixed is None else fixed
    return Amount(sparsity, count)


def _bundles(
    structure: str, model: nn.Module, layers: list[Layer], batches: Batches | None
) -> tuple[list[CoupledGroup], Batches | None]:
    """What goes together across layers, and the batches, of which the first may have been looked at."""
    if not STRUCTURES.entry(structure).spec.coupled:
        return [CoupledGroup({layer.name: None}) for layer in layers], batches
    found = iter(batches or ())
    first = next(found, None)
    if first is None:
        raise PruningError(
            f"Structure {structure} needs a batch of (inputs, targets), to see how layers are connected: give batches."
        )
    bundles = pruning_groups.coupled_groups(structure, model, first[0], layers)
    return bundles, batches if isinstance(batches, Sequence) else chain([first], found)


def _share(group: Group, earlier: Mapping[str, Tensor], progress: float, layers: Sequence[Layer]) -> Group:
    """What a group shall have lost after this part of the iterations, each of which keeps the same fraction."""
    if progress == 1:
        return group
    size = sum(layer.size for layer in layers if layer.name in group.names)
    before = size - _removed(group, earlier)
    after = size - group.remove
    if not 0 < after < before:
        return group
    return Group(group.names, size - round(before * (after / before) ** progress))


def _removed(group: Group, kept: Mapping[str, Tensor]) -> int:
    return sum(int((~kept[name]).count_nonzero()) for name in group.names if name in kept)


def _as_left(
    layers: Sequence[Layer], kept: Mapping[str, Tensor], corrected: Mapping[str, Tensor]
) -> list[Layer]:
    """The layers with copies of their weights, corrected if they are, in which those that are removed are zero."""
    return [
        replace(layer, parameter=nn.Parameter(removed_at_zero(left, kept.get(layer.name)), False))
        for layer in layers
        for left in [corrected.get(layer.name, layer.parameter.detach()).to(layer.parameter)]
    ]


def _select(
    groups: list[Group], sources: dict[str, Source], earlier: dict[str, Tensor], floor: float
) -> dict[str, Tensor]:
    """Flat masks by layer: in each group the lowest scores are removed, at least as many as are removed already."""
    chosen: dict[str, Tensor] = {}
    for group in groups:
        remove = max(group.remove, _removed(group, earlier))
        chosen |= _smallest(list(group.names), sources, remove, floor)
    return chosen


def _smallest(names: list[str], sources: dict[str, Source], remove: int, floor: float) -> dict[str, Tensor]:
    """Flat masks without the `remove` smallest scores of these layers, none of which falls below the floor.

    A layer that would fall below it loses only what it may, and the others lose the rest.
    """
    spare = {name: sources[name].size - pruning_groups.at_least(floor, sources[name].size) for name in names}
    if remove > (possible := sum(spare.values())):
        raise pruning_groups.floor_reached(floor, remove, possible)
    kept = dict(zip(names, bottom_k_masks([sources[name] for name in names], remove), strict=True))
    if not floor:
        return kept
    below = [name for name in names if int((~kept[name]).count_nonzero()) > spare[name]]
    if not below:
        return kept
    at_floor = {name: bottom_k_masks([sources[name]], spare[name])[0] for name in below}
    others = [name for name in names if name not in below]
    return {**at_floor, **_smallest(others, sources, remove - sum(spare[name] for name in below), floor)}


def _select_tiles(
    groups: list[Group],
    scored: LayerScorer,
    tiles: dict[str, BlockShape],
    bundles: list[CoupledGroup],
    floor: float,
) -> dict[str, Tensor]:
    """Masks by layer that remove whole groups, or within each tile what it does not keep."""
    chosen: dict[str, Tensor] = {}
    for together, remove in pruning_groups.merged(groups, bundles):
        if any(tiles[name].keep is not None for bundle in together for name in bundle.tiles):
            chosen |= {name: scored.kept_in_each(name, tiles[name]) for one in together for name in one.tiles}
            continue
        candidates = [scored.candidates(bundle, tiles) for bundle in together]
        for bundle, kept in zip(together, pruning_groups.lowest(candidates, remove, floor), strict=True):
            for name, order in bundle.tiles.items():
                chosen[name] = scored.spread(name, tiles[name], order, kept)
    return chosen


def _along(
    model: nn.Module,
    bundles: Sequence[CoupledGroup],
    kept: Mapping[str, Tensor],
    tiles: Mapping[str, BlockShape] | None,
) -> dict[str, Tensor]:
    """Masks of what goes with filters of which nothing is left."""
    found: dict[str, Tensor] = {}
    if tiles is None:
        return found
    for bundle in bundles:
        name, order = next(iter(bundle.tiles.items()))
        left = pruning_groups.rows(kept[name], tiles[name]).any(1)
        left = left if order is None else left[order]
        for own, entries in bundle.along.items():
            mask = torch.ones_like(model.get_parameter(own), dtype=torch.bool)
            mask[entries[~left]] = False
            found[own] = mask
    return found


def _collect(
    needs: Sequence[str],
    method: str,
    model: nn.Module,
    layers: list[Layer],
    batches: Batches | None,
    loss: Loss,
    bundles: Sequence[CoupledGroup],
) -> dict[str, Mapping[str, Tensor]]:
    """What the score needs: need -> layer name -> tensor."""
    of_batches = [need for need in needs if need not in pruning_groups.OF_CHANNELS]
    if of_batches and batches is None:
        raise PruningError(
            f"{method} needs the {' and '.join(of_batches)}: give batches, an iterable of (inputs, targets)."
        )
    for need in of_batches:
        if need not in COLLECTORS:
            raise unknown("need of a score", need, [*COLLECTORS, *pruning_groups.OF_CHANNELS])
    return {
        need: COLLECTORS[need](model, layers, batches, loss)
        if need in of_batches
        else pruning_groups.OF_CHANNELS[need](model, layers, bundles)
        for need in needs
    }


def _added_up(
    method: str, accumulated: Mapping[str, Mapping[str, Tensor]], layers: list[Layer]
) -> dict[str, Mapping[str, Tensor]]:
    """What was added up for the score: name -> layer name -> tensor, on the layer's device."""
    found: dict[str, Mapping[str, Tensor]] = {}
    for name in methods.accumulates(method):
        sums = accumulated.get(name, {})
        for layer in layers:
            if layer.name not in sums or tuple(sums[layer.name].shape) != layer.shape:
                raise PruningError(
                    f"{method} needs the {name} of {layer.name} over the training before: "
                    f"give accumulated, which pruning.accumulate(model, optimizer, {method!r}) adds up."
                )
        found[name] = {layer.name: sums[layer.name].to(layer.parameter.device) for layer in layers}
    return found


def _by_layer(found: Mapping[str, Mapping[str, Tensor]], layers: list[Layer]) -> dict[str, dict[str, Tensor]]:
    return {layer.name: {name: values[layer.name] for name, values in found.items()} for layer in layers}


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


def _laid_out_like(parameter: Tensor, flat: Tensor) -> Tensor:
    """The mask in the parameter's shape and memory format (channels last, say), so that both are walked together."""
    mask = flat.view(parameter.shape)
    if parameter.is_contiguous():
        return mask
    return torch.empty_like(parameter, dtype=torch.bool).copy_(mask)
