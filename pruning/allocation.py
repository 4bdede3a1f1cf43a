"""Axis 2b: where scores are compared, and how many weights go in each place.

An allocation is a function ``(layers, amount) -> groups``: `layers` are the sizes of the prunable layers, `amount` is
what the user asked for, and each group names the layers whose scores are compared with one another and the exact number
of weights to remove from them together. Every layer is in exactly one group. Pure arithmetic: no torch in here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pruning.errors import PruningError
from pruning.registry import ALLOCATIONS


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


@dataclass(frozen=True)
class Amount:
    """How much to remove, from the dense network on: a fraction of the weights (0 to 1), or a number of them."""

    sparsity: float | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        if (self.sparsity is None) == (self.count is None):
            raise PruningError("The amount to remove is a sparsity or a count: give exactly one of them.")
        if self.sparsity is not None and not 0 <= self.sparsity <= 1:
            raise PruningError(f"Sparsity {self.sparsity} is not a fraction: it must be from 0 to 1.")
        if self.count is not None and (self.count < 0 or self.count != int(self.count)):
            raise PruningError(
                f"Count {self.count} is not a number of weights: it must be a whole number from 0 up."
            )

    def of(self, size: int) -> int:
        """How many of `size` weights that is, never more than all of them."""
        if self.count is not None:
            return min(int(self.count), size)
        assert self.sparsity is not None
        return round(self.sparsity * size)


@ALLOCATIONS.register("global", source="Blalock et al. 2020, section 7.2")
def whole_network(layers: Sequence[LayerSize], amount: Amount) -> list[Group]:
    """Scores are compared across the whole network"""
    names = tuple(layer.name for layer in layers)
    return [Group(names, amount.of(sum(layer.size for layer in layers)))]


@ALLOCATIONS.register("layer", source="Blalock et al. 2020, section 7.2")
def per_layer(layers: Sequence[LayerSize], amount: Amount) -> list[Group]:
    """Scores are compared within each layer, and every layer loses the same fraction (or the same number)"""
    return [Group((layer.name,), amount.of(layer.size)) for layer in layers]
