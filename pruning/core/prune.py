"""The pruning step: score the weights, select the groups with the lowest scores, and set them to zero.

masks = pruning.prune(model, "global_mag", sparsity=0.9)
masks.hold(optimizer)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional

from pruning.axes import methods
from pruning.axes.allocation import is_fraction
from pruning.axes.structure import check_floor, fixed_sparsity
from pruning.core.accumulation import sums_for_method
from pruning.core.budgets import budgets_at, layer_budgets, sparsity_target
from pruning.core.layer_scores import LayerScorer, without_pruned
from pruning.core.layers import Layer, prunable_layers
from pruning.core.masks import Masks
from pruning.core.selection import select
from pruning.core.statistics import check_statistics, compute_statistics, need_batches
from pruning.core.statistics.evaluation import Batches, Loss
from pruning.core.weight_groups import WeightGroups, to_blocks, weight_groups
from pruning.errors import PruningError
from pruning.registry import SCORES, STRUCTURES

Stage = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True, kw_only=True)
class PruneOptions:
    """Options of a pruning step, independent of the model and the data.

    Attributes:
        method: `{allocation}_{score}` (global_mag, layer_grad, ...), or a method with its own name (lamp, random, ...).
        sparsity: Fraction of the prunable weights to remove, 0 to 1 (default 0.9 without a count), or fractions by kind
            of layer or name pattern: {"conv": 0.2, "linear": 0.4}.
        count: Number of weights to remove instead. A count above the size of a layer (layerwise) or of the network
            removes all of it.
        include, exclude: Patterns of parameters to prune besides, or instead of, the default (`prunable_layers`).
        seed: For scores that draw at random.
        structure: Which weights form a group that is removed together (`list structures`).
        floor: Fraction of its weights that every layer keeps, even those with low scores.
        prune_classifier: Prune the last layer too.
    """

    method: str = "global_mag"
    sparsity: float | Mapping[str, float] | None = None
    count: int | None = None
    include: Iterable[str] = ()
    exclude: Iterable[str] = ()
    seed: int = 0
    structure: str = "weight"
    floor: float = 0.0
    prune_classifier: bool = False

    def layers(self, model: nn.Module) -> list[Layer]:
        """Return the layers of `model` to prune."""
        return prunable_layers(model, self.include, self.exclude, prune_classifier=self.prune_classifier)


@dataclass(frozen=True)
class Plan:
    """A pruning that is computed but not applied.

    Attributes:
        corrected: Layer name -> float32 weights after the pruning step, if the score corrects the kept weights.
    """

    model: nn.Module
    masks: Masks
    corrected: Mapping[str, Tensor]

    def apply(self) -> Masks:
        """Set pruned weights to zero and correct the kept ones, in place. Return the masks, bound to the model."""
        with torch.no_grad():
            for name, values in self.corrected.items():
                self.model.get_parameter(name).copy_(values)
        return self.masks.apply(self.model)


def prune(
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
) -> Masks:
    """Prune a model in place: set weights to zero and return the masks, bound to the model.

    The parameters are the attributes of `PruneOptions` and the arguments of `plan`, which also lists the errors.

    Parameters: more than 8, because this is the public API and a call names only what it needs.
    """
    options = PruneOptions(
        method=method,
        sparsity=sparsity,
        count=count,
        include=include,
        exclude=exclude,
        seed=seed,
        structure=structure,
        floor=floor,
        prune_classifier=prune_classifier,
    )
    return plan(model, options, batches, masks=masks, accumulated=accumulated, loss=loss).apply()


def compute_masks(
    model: nn.Module,
    options: PruneOptions,
    batches: Batches | None = None,
    *,
    masks: Masks | None = None,
    accumulated: Mapping[str, Mapping[str, Tensor]] | None = None,
    loss: Loss = functional.cross_entropy,
) -> Masks:
    """Return the masks of a pruning step without changing the model; the arguments are those of `plan`."""
    return plan(model, options, batches, masks=masks, accumulated=accumulated, loss=loss).masks


def plan(
    model: nn.Module,
    options: PruneOptions,
    batches: Batches | None = None,
    *,
    masks: Masks | None = None,
    accumulated: Mapping[str, Mapping[str, Tensor]] | None = None,
    loss: Loss = functional.cross_entropy,
    stage: Stage = lambda name: nullcontext(),
) -> Plan:
    """Compute a pruning step without changing the model.

    Length: over 60 lines, to show the whole algorithm in one place.

    Args:
        batches: Iterable of (inputs, targets), for scores that read gradients or activations, and for filters, to find
            which layers share channels.
        masks: Result of an earlier pruning; what it removed stays removed, even beyond the target. Without it, weights
            that are zero count as pruned. Targets are fractions or counts of the dense network.
        accumulated: Result of `pruning.accumulate`, for methods whose scores accumulate during training.
        loss: ``(outputs, targets) -> Tensor``, the mean over a batch.
        stage: Returns a context for "scoring" (computing statistics) and "masking" (everything else), to time them.

    Raises:
        PruningError: unknown or incompatible options, a target or floor that cannot be reached, layers that the
            structure does not fit, missing batches or sums, scores that are not finite, or masks of another network.
    """
    methods.check(options.method, options.structure)
    allocation, score = methods.split(options.method)
    spec = SCORES.entry(score).spec

    # Layers and budgets
    target = sparsity_target(options.sparsity, options.count, options.structure)
    _check_floor(options)
    layers = options.layers(model)
    earlier = _earlier_masks(masks, layers)
    budgets = layer_budgets(allocation, target, layers)

    # Groups
    with stage("masking"):
        images, batches = _first_inputs(options.structure, batches)
        groups = weight_groups(options.structure, model, layers, images)
    _check_batches(options.method, spec.statistics, batches)
    sums = sums_for_method(options.method, accumulated or {}, layers)

    # Blocks that keep n weights of their own (N:M) reach their sparsity in one step.
    steps = spec.iterations if fixed_sparsity(options.structure) is None else 1
    if batches is not None and (steps > 1 or len(need_batches(spec.statistics)) > 1):
        batches = list(batches)  # read more than once
    kept, corrected = earlier, dict[str, Tensor]()
    for step in range(1, steps + 1):
        # Scores
        with stage("scoring"):
            current = _remaining(layers, kept, corrected) if kept and spec.statistics else layers
            statistics = compute_statistics(
                spec.statistics, model, current, batches or (), loss, groups, elementwise=spec.elementwise
            )
        # Masks
        with stage("masking"):
            scorer = LayerScorer(current, score, options.seed, kept, {**statistics, **sums})
            step_budgets = budgets_at(step / steps, budgets, earlier, layers)
            selected = select(step_budgets, groups, scorer, options.floor)
            kept = {layer.name: selected[layer.name].view(layer.shape) for layer in layers}
            # Corrections
            corrected = scorer.corrected(kept)

    with stage("masking"):
        dependent = {
            **(masks.dependent_masks if masks is not None else {}),
            **_dependent_masks(model, groups, kept),
        }
        kept = {layer.name: _in_memory_format(kept[layer.name], layer.parameter) for layer in layers}
    return Plan(model, Masks(kept, dependent), corrected)


def check(model: nn.Module, method: str, structure: str, layers: Sequence[Layer], images: Tensor) -> None:
    """Raise PruningError if a method and structure cannot prune these layers, as far as that shows without data."""
    methods.check(method, structure)
    groups = weight_groups(structure, model, layers, images)
    check_statistics(SCORES.entry(methods.split(method)[1]).spec.statistics, model, layers, groups)


def _check_floor(options: PruneOptions) -> None:
    if not is_fraction(options.floor):
        raise PruningError(f"Floor {options.floor!r} is not a fraction: it must be from 0 to 1.")
    check_floor(options.structure, options.floor)


def _earlier_masks(masks: Masks | None, layers: list[Layer]) -> dict[str, Tensor]:
    """Return the masks of an earlier pruning, each on its layer's device.

    Raises:
        PruningError: they do not fit the layers.
    """
    if masks is None:
        return {}
    by_name = {layer.name: layer for layer in layers}
    for name, mask in masks.items():
        if name not in by_name:
            raise PruningError(
                f"The earlier masks have {name}, which is not among the layers to prune: prune the same layers again."
            )
        if tuple(mask.shape) != by_name[name].shape:
            raise PruningError(
                f"The earlier mask of {name} has shape {tuple(mask.shape)}, but the layer has {by_name[name].shape}."
            )
    return {name: mask.to(by_name[name].parameter.device) for name, mask in masks.items()}


def _first_inputs(structure: str, batches: Batches | None) -> tuple[Tensor | None, Batches | None]:
    """Return example inputs if the structure is coupled, and the batches including the one they are from."""
    if not STRUCTURES.entry(structure).spec.coupled:
        return None, batches
    iterator: Iterator[tuple[Tensor, Tensor]] = iter(batches or ())
    first = next(iterator, None)
    if first is None:
        raise PruningError(
            f"Structure {structure} needs a batch of (inputs, targets), to find which layers share channels: "
            "give batches."
        )
    return first[0], batches if isinstance(batches, Sequence) else chain([first], iterator)


def _check_batches(method: str, statistics: Sequence[str], batches: Batches | None) -> None:
    needed = need_batches(statistics)
    if needed and batches is None:
        raise PruningError(
            f"Method {method} needs the {' and '.join(needed)}: give batches, an iterable of (inputs, targets)."
        )


def _remaining(
    layers: Sequence[Layer], kept: Mapping[str, Tensor], corrected: Mapping[str, Tensor]
) -> list[Layer]:
    """Return the layers with copies of their weights: corrected, if they are, and zero where pruned."""
    found = []
    for layer in layers:
        values = corrected.get(layer.name, layer.parameter.detach()).to(layer.parameter)
        parameter = nn.Parameter(without_pruned(values, kept.get(layer.name)), requires_grad=False)
        found.append(replace(layer, parameter=parameter))
    return found


def _dependent_masks(
    model: nn.Module, groups: Sequence[WeightGroups], kept: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the masks of biases and normalisations whose filters are removed."""
    found: dict[str, Tensor] = {}
    for coupled in groups:
        if not coupled.dependent:
            continue
        name, blocks = next(iter(coupled.blocks.items()))
        kept_groups = blocks.in_group_order(to_blocks(kept[name], blocks.shape).any(1))
        for parameter, entries in coupled.dependent.items():
            mask = torch.ones_like(model.get_parameter(parameter), dtype=torch.bool)
            mask[entries[~kept_groups]] = False
            found[parameter] = mask
    return found


def _in_memory_format(mask: Tensor, parameter: Tensor) -> Tensor:
    """Return the mask in the parameter's memory format (channels last, for example), for fast multiplication."""
    if parameter.is_contiguous():
        return mask
    return torch.empty_like(parameter, dtype=torch.bool).copy_(mask)
