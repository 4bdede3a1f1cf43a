"""Axis 2b: where scores are compared, and how many weights go in each place.

An allocation is a function ``(layers, amount) -> groups``: `layers` are the sizes of the prunable layers, `amount` is
what the user asked for, and each group names the layers whose scores are compared with one another and the exact number
of weights to remove from them together. Every layer is in exactly one group. Pure arithmetic: no torch in here.
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

DEFAULT_SPARSITY = 0.9  # where nobody says how much to remove


@dataclass(frozen=True)
class LayerSize:
    """What an allocation sees of a layer: `size` is its number of weights, `kind` conv, linear, attention, ..."""

    name: str
    size: int
    shape: tuple[int, ...] = ()
    kind: str = "other"


@dataclass(frozen=True)
class Group:
    """`names` are the layers whose scores are compared; `remove` is how many weights they lose together."""

    names: tuple[str, ...]
    remove: int


def is_fraction(value: object) -> bool:
    """Whether it is a number from 0 to 1."""
    return _is_number(value) and 0 <= value <= 1


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool)


@dataclass(frozen=True)
class Amount:
    """How much to remove, from the dense network on.

    A fraction of the weights (0 to 1); or a number of them; or fractions by kind of layer (conv, linear, ...) or shell
    pattern of a layer's name (with or without ".weight"), of which the last that fits a layer holds for it.
    """

    sparsity: float | None = None
    count: int | None = None
    by_layer: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if (self.sparsity, self.count, self.by_layer).count(None) != 2:
            raise PruningError("The amount to remove is a sparsity or a count: give exactly one of them.")
        for sparsity in (self.sparsity, *(self.by_layer or {}).values()):
            if sparsity is not None and not is_fraction(sparsity):
                raise PruningError(f"Sparsity {sparsity!r} is not a fraction: it must be from 0 to 1.")
        if self.count is not None and not (
            _is_number(self.count) and self.count >= 0 and float(self.count).is_integer()
        ):
            raise PruningError(
                f"Count {self.count!r} is not a number of weights: it must be a whole number from 0 up."
            )

    def of(self, size: int) -> int:
        """How many of `size` weights that is, never more than all of them."""
        if self.count is not None:
            return min(int(self.count), size)
        assert self.sparsity is not None, "fractions by layer are of `parts` of a network"
        return round(self.sparsity * size)

    def parts(self, layers: Sequence[LayerSize]) -> list[tuple[list[LayerSize], Amount]]:
        """The layers in sets, each with the one amount that holds for all of it.

        Raises PruningError for a pattern that no layer fits, and for layers that no pattern fits.
        """
        if self.by_layer is None:
            return [(list(layers), self)]
        for pattern in self.by_layer:
            if not any(_fits(pattern, layer) for layer in layers):
                kinds = dict.fromkeys(layer.kind for layer in layers)
                raise unknown("layer or kind of layer", pattern, [*kinds, *(layer.name for layer in layers)])
        chosen: dict[str, list[LayerSize]] = {pattern: [] for pattern in self.by_layer}
        for layer in layers:
            fitting = [pattern for pattern in self.by_layer if _fits(pattern, layer)]
            if not fitting:
                raise PruningError(
                    f"No sparsity is given for {layer.name} ({layer.kind}): add {layer.kind}=0.5, say, or '*=0' to the "
                    "front for all others."
                )
            chosen[fitting[-1]].append(layer)
        return [(part, Amount(self.by_layer[pattern])) for pattern, part in chosen.items() if part]


def _fits(pattern: str, layer: LayerSize) -> bool:
    return pattern == layer.kind or any(
        fnmatchcase(name, pattern) for name in (layer.name, layer.name.rpartition(".")[0])
    )


def read_by_layer(text: str) -> dict[str, float]:
    """`conv=0.2 linear=0.4` as a mapping. PruningError for a word that is not PATTERN=FRACTION."""
    fractions = {}
    for word in text.split():
        pattern, _, number = word.rpartition("=")
        try:
            fractions[pattern] = float(number)
        except ValueError:
            pattern = ""
        if not pattern:
            raise PruningError(f"{word!r} gives no layer a sparsity: write conv=0.2 linear=0.4, say.")
    Amount(by_layer=fractions)
    return fractions


@ALLOCATIONS.register("global", source="Blalock et al. 2020, section 7.2")
def whole_network(layers: Sequence[LayerSize], amount: Amount) -> list[Group]:
    """Scores are compared across the whole network (or across all layers that a given fraction is for)"""
    return [
        Group(tuple(layer.name for layer in part), own.of(sum(layer.size for layer in part)))
        for part, own in amount.parts(layers)
    ]


@ALLOCATIONS.register("layer", source="Blalock et al. 2020, section 7.2")
def per_layer(layers: Sequence[LayerSize], amount: Amount) -> list[Group]:
    """Scores are compared within each layer, and every layer loses the same fraction (or the same number)"""
    return [Group((layer.name,), own.of(layer.size)) for part, own in amount.parts(layers) for layer in part]


@ALLOCATIONS.register("uniform_plus", source="Gale et al. 2019, arXiv 1902.09574, section 5")
def uniform_but_the_first(layers: Sequence[LayerSize], amount: Amount) -> list[Group]:
    """Within each layer; the first layer stays dense, all others lose the same, somewhat larger, fraction

    Together they lose exactly the amount asked for. (The paper's limit of 80% for the last layer is not needed: the
    classifier is kept anyway, unless asked for.)
    """
    remove = _of_all("uniform_plus", layers, amount)
    first, *others = layers
    left = sum(layer.size for layer in others)
    if remove > left:
        raise PruningError(
            f"uniform_plus spares the first layer, {first.name}: at most {left:,} of {left + first.size:,} weights can "
            f"go (sparsity {left / (left + first.size):.4g}), not {remove:,}."
        )
    shares = [Fraction(remove * layer.size, max(left, 1)) for layer in others]
    return [
        Group((first.name,), 0),
        *(
            Group((layer.name,), number)
            for layer, number in zip(others, _whole_numbers(shares, remove), strict=True)
        ),
    ]


@ALLOCATIONS.register("erk", source="Evci et al. 2020, arXiv 1911.11134, appendix; Mocanu et al. 2018")
def erdos_renyi_kernel(layers: Sequence[LayerSize], amount: Amount) -> list[Group]:
    """Within each layer; what is kept grows with the sum of a weight's dimensions, not with their product

    The density of a layer is e (n_in + n_out + kernel height + width) / (n_in n_out height width), at most 1, with
    the one e for which the whole network loses exactly the amount asked for.
    """
    keep = sum(layer.size for layer in layers) - _of_all("erk", layers, amount)
    weights = {layer.name: sum(layer.shape or (layer.size,)) for layer in layers}
    dense: set[str] = set()
    while True:
        free = [layer for layer in layers if layer.name not in dense]
        for_free = keep - sum(layer.size for layer in layers if layer.name in dense)
        factor = Fraction(for_free, sum(weights[layer.name] for layer in free) or 1)
        full = {layer.name for layer in free if factor * weights[layer.name] > layer.size}
        if not full:
            break
        dense |= full
    shares = [
        Fraction(layer.size) if layer.name in dense else factor * weights[layer.name] for layer in layers
    ]
    return [
        Group((layer.name,), layer.size - number)
        for layer, number in zip(layers, _whole_numbers(shares, keep), strict=True)
    ]


def _of_all(allocation: str, layers: Sequence[LayerSize], amount: Amount) -> int:
    """How many of all the layers' weights go, for an allocation that itself divides them among the layers."""
    if amount.by_layer is not None:
        raise PruningError(
            f"The allocation {allocation} divides the amount among the layers itself: fractions by layer go with "
            "global and layer."
        )
    return amount.of(sum(layer.size for layer in layers))


def _whole_numbers(shares: Sequence[Fraction], total: int) -> list[int]:
    """Each share rounded up or down so that they add up to `total`; the largest remainders go up (ties: the first)."""
    numbers = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: numbers[i] - shares[i])
    for i in by_remainder[: total - sum(numbers)]:
        numbers[i] += 1
    return numbers
