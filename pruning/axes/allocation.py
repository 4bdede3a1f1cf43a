"""Axis 2b, allocation: which layers' scores are compared, and how many weights are removed from them.

An allocation is a function ``(layers, target) -> budgets``. `layers` are the sizes of the prunable layers, `target` is
the requested sparsity, and each budget is the exact number of weights to remove from a set of layers whose scores are
compared. Every layer is in exactly one budget. No torch in this file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction
from numbers import Real
from typing import TypeGuard

from pruning.errors import PruningError
from pruning.registry import ALLOCATIONS, unknown

DEFAULT_SPARSITY = 0.9


@dataclass(frozen=True)
class LayerSize:
    """A prunable layer, as an allocation sees it.

    Attributes:
        size: Number of weights.
        kind: conv, linear, attention, recurrent or other.
    """

    name: str
    size: int
    shape: tuple[int, ...] = ()
    kind: str = "other"


@dataclass(frozen=True)
class LayerBudget:
    """Number of weights to remove from some layers together.

    Attributes:
        layers: Names of the layers whose scores are compared.
        remove: Number of weights that they lose in total.
    """

    layers: tuple[str, ...]
    remove: int


def is_fraction(value: object) -> bool:
    """Return whether the value is a number from 0 to 1."""
    return _is_number(value) and 0 <= value <= 1


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool)


@dataclass(frozen=True)
class SparsityTarget:
    """How many weights to remove, in total since the dense network. Exactly one of the attributes is given.

    Attributes:
        sparsity: Fraction of the weights, 0 to 1.
        count: Number of weights.
        by_layer: Fractions by kind of layer (conv, linear, ...) or by shell pattern of a layer's name, with or without
            ".weight". The last pattern that matches a layer applies.
    """

    sparsity: float | None = None
    count: int | None = None
    by_layer: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if (self.sparsity, self.count, self.by_layer).count(None) != 2:
            raise PruningError(
                "sparsity and count both set how many weights to remove: give exactly one of them."
            )
        for sparsity in (self.sparsity, *(self.by_layer or {}).values()):
            if sparsity is not None and not is_fraction(sparsity):
                raise PruningError(f"Sparsity {sparsity!r} is not a fraction: it must be from 0 to 1.")
        if self.count is not None and not (
            _is_number(self.count) and self.count >= 0 and float(self.count).is_integer()
        ):
            raise PruningError(
                f"Count {self.count!r} is not a number of weights: it must be a whole number >= 0."
            )

    def number_of(self, size: int) -> int:
        """Return how many of `size` weights to remove, at most all of them."""
        if self.count is not None:
            return min(int(self.count), size)
        assert self.sparsity is not None, "split a target by layer first"
        return round(self.sparsity * size)

    def split(self, layers: Sequence[LayerSize]) -> list[tuple[list[LayerSize], SparsityTarget]]:
        """Return sets of layers, each with the one sparsity or count that applies to it.

        Raises:
            PruningError: a pattern that matches no layer, or a layer that no pattern matches.
        """
        if self.by_layer is None:
            return [(list(layers), self)]
        for pattern in self.by_layer:
            if not any(_matches(pattern, layer) for layer in layers):
                kinds = dict.fromkeys(layer.kind for layer in layers)
                raise unknown("layer or kind of layer", pattern, [*kinds, *(layer.name for layer in layers)])
        by_pattern: dict[str, list[LayerSize]] = {pattern: [] for pattern in self.by_layer}
        for layer in layers:
            matching = [pattern for pattern in self.by_layer if _matches(pattern, layer)]
            if not matching:
                raise PruningError(
                    f"{layer.name} ({layer.kind}) has no sparsity: add {layer.kind}=0.5, for example, or '*=0' at the "
                    "front for all other layers."
                )
            by_pattern[matching[-1]].append(layer)
        return [
            (part, SparsityTarget(self.by_layer[pattern])) for pattern, part in by_pattern.items() if part
        ]


def _matches(pattern: str, layer: LayerSize) -> bool:
    return pattern == layer.kind or any(
        fnmatchcase(name, pattern) for name in (layer.name, layer.name.rpartition(".")[0])
    )


def read_by_layer(text: str) -> dict[str, float]:
    """Parse `conv=0.2 linear=0.4`.

    Raises:
        PruningError: a word that is not PATTERN=FRACTION.
    """
    fractions = {}
    for word in text.split():
        pattern, _, number = word.rpartition("=")
        try:
            fractions[pattern] = float(number)
        except ValueError:
            pattern = ""
        if not pattern:
            raise PruningError(f"{word!r} is not PATTERN=FRACTION: write conv=0.2 linear=0.4, for example.")
    SparsityTarget(by_layer=fractions)
    return fractions


@ALLOCATIONS.register("global", source="Blalock et al. 2020, section 7.2")
def whole_network(layers: Sequence[LayerSize], target: SparsityTarget) -> list[LayerBudget]:
    """Compare scores across the whole network (or across all layers that one fraction applies to)"""
    return [
        LayerBudget(tuple(layer.name for layer in part), own.number_of(sum(layer.size for layer in part)))
        for part, own in target.split(layers)
    ]


@ALLOCATIONS.register("layer", source="Blalock et al. 2020, section 7.2")
def per_layer(layers: Sequence[LayerSize], target: SparsityTarget) -> list[LayerBudget]:
    """Compare scores within each layer; every layer loses the same fraction (or the same number)"""
    return [
        LayerBudget((layer.name,), own.number_of(layer.size))
        for part, own in target.split(layers)
        for layer in part
    ]


@ALLOCATIONS.register("uniform_plus", source="Gale et al. 2019, arXiv 1902.09574, section 5")
def uniform_except_first(layers: Sequence[LayerSize], target: SparsityTarget) -> list[LayerBudget]:
    """Compare scores within each layer; keep the first layer dense, and prune all others by one larger fraction

    In total exactly the target is removed. The paper also limits the last layer to 80 %, which is not needed here,
    because the classifier is kept by default.
    """
    remove = _network_number("uniform_plus", layers, target)
    first, *others = layers
    available = sum(layer.size for layer in others)
    if remove > available:
        total = available + first.size
        raise PruningError(
            f"uniform_plus keeps the first layer, {first.name}, dense: at most {available:,} of {total:,} weights "
            f"can be removed (sparsity {available / total:.4g}), not {remove:,}."
        )
    shares = [Fraction(remove * layer.size, max(available, 1)) for layer in others]
    return [
        LayerBudget((first.name,), 0),
        *(
            LayerBudget((layer.name,), number)
            for layer, number in zip(others, _round_to_total(shares, remove), strict=True)
        ),
    ]


@ALLOCATIONS.register("erk", source="Evci et al. 2020, arXiv 1911.11134, appendix; Mocanu et al. 2018")
def erdos_renyi_kernel(layers: Sequence[LayerSize], target: SparsityTarget) -> list[LayerBudget]:
    """Compare scores within each layer; keep weights in proportion to the sum of a layer's dimensions

    The density of a layer is e (n_in + n_out + kernel height + width) / (n_in n_out height width), at most 1. The one
    factor e is such that the whole network loses exactly the target.
    """
    keep = sum(layer.size for layer in layers) - _network_number("erk", layers, target)
    dimensions = {layer.name: sum(layer.shape or (layer.size,)) for layer in layers}
    dense: set[str] = set()
    while True:
        sparse = [layer for layer in layers if layer.name not in dense]
        keep_sparse = keep - sum(layer.size for layer in layers if layer.name in dense)
        factor = Fraction(keep_sparse, sum(dimensions[layer.name] for layer in sparse) or 1)
        full = {layer.name for layer in sparse if factor * dimensions[layer.name] > layer.size}
        if not full:
            break
        dense |= full
    shares = [
        Fraction(layer.size) if layer.name in dense else factor * dimensions[layer.name] for layer in layers
    ]
    return [
        LayerBudget((layer.name,), layer.size - number)
        for layer, number in zip(layers, _round_to_total(shares, keep), strict=True)
    ]


def _network_number(allocation: str, layers: Sequence[LayerSize], target: SparsityTarget) -> int:
    """Return how many of all weights to remove, for an allocation that divides them among the layers itself."""
    if target.by_layer is not None:
        raise PruningError(
            f"The allocation {allocation} divides the target among the layers itself: fractions by layer require the "
            "allocation global or layer."
        )
    return target.number_of(sum(layer.size for layer in layers))


def _round_to_total(shares: Sequence[Fraction], total: int) -> list[int]:
    """Round each share up or down so that the sum is `total`: the largest remainders up (the first of equals)."""
    numbers = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: numbers[i] - shares[i])
    for i in by_remainder[: total - sum(numbers)]:
        numbers[i] += 1
    return numbers
