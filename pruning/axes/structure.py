"""Axis 1, structure: which weights are removed together.

A structure is a function ``(layer) -> BlockShape``: the shape of the blocks that divide a layer's weight tensor. All
weights of a block are kept or removed together, by one score (`ScoreSpec.group_reduction`). If the block shape has
`keep`, every block keeps that many of its weights instead (N:M). Blocks of one weight are unstructured sparsity.

The attributes of its registration are those of `registry.StructureSpec`. For a layer that it does not fit, a structure
raises a PruningError with the reason only. No torch in this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from pruning.errors import PruningError
from pruning.registry import STRUCTURES


class LayerInfo(Protocol):
    """A layer, as a structure sees it.

    Attributes:
        shape: Shape of the weight.
        kind: conv, linear, attention, recurrent or other.
        type: Class name of the module.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def kind(self) -> str: ...
    @property
    def type(self) -> str: ...


@dataclass(frozen=True)
class BlockShape:
    """Shape of the blocks of one layer.

    Attributes:
        sizes: Length of a block in each dimension of the weight.
        keep: Number of weights that each block keeps; None if blocks are kept or removed whole.
    """

    sizes: tuple[int, ...]
    keep: int | None = None


@STRUCTURES.register("weight", source="LeCun et al. 1990")
def weight(layer: LayerInfo) -> BlockShape:
    """Single weights (unstructured sparsity)"""
    return BlockShape((1,) * len(layer.shape))


@STRUCTURES.register("filter", coupled=True, source="Li et al. 2017, arXiv 1608.08710; Fang et al. 2023")
def filters(layer: LayerInfo) -> BlockShape:
    """Whole filters (neurons of linear layers) with bias and normalisation. Filters coupled to the same channel are
    removed together
    """
    if layer.kind not in ("conv", "linear"):
        raise PruningError(f"its outputs are not channels of the network: it is {layer.kind}")
    output = output_dimension(layer)
    return BlockShape(tuple(1 if i == output else size for i, size in enumerate(layer.shape)))


@STRUCTURES.register(
    "block", pattern=r"block([1-9]\d*)x([1-9]\d*)", example="block4x4", source="Gray et al. 2017"
)
def block(outputs: int, inputs: int, layer: LayerInfo) -> BlockShape:
    """Blocks of outputs x inputs, such as block4x4; in convolutions, one block per kernel position"""
    sizes = [1] * len(layer.shape)
    wanted = {output_dimension(layer): (outputs, "outputs"), input_dimension(layer): (inputs, "inputs")}
    for dimension, (size, noun) in wanted.items():
        _check_divisible(layer.shape[dimension], size, noun)
        sizes[dimension] = size
    return BlockShape(tuple(sizes))


@STRUCTURES.register(
    "N:M",
    pattern=r"(\d+):(\d+)",
    example="2:4",
    fixed_sparsity=True,
    allocations=("layer",),
    reason="scores are compared within M weights, and every layer loses the same fraction",
    source="Zhou et al. 2021, arXiv 2102.04010; Mishra et al. 2021",
)
def n_of_m(n: int, m: int, layer: LayerInfo) -> BlockShape:
    """Keep N of every M consecutive weights along the input dimension, such as 2:4 (convolutions: input channels)"""
    sparsity_of_n_of_m(n, m)
    sizes = [1] * len(layer.shape)
    _check_divisible(layer.shape[input_dimension(layer)], m, "inputs")
    sizes[input_dimension(layer)] = m
    return BlockShape(tuple(sizes), keep=n)


def sparsity_of_n_of_m(n: int, m: int) -> Fraction:
    """Return the fraction that N:M removes; PruningError unless 0 < N < M."""
    if not 0 < n < m:
        raise PruningError(
            f"{n}:{m} keeps {n} of every {m} weights: the first number must be from 1 to {m - 1}."
        )
    return 1 - Fraction(n, m)


def fixed_sparsity(name: str) -> float | None:
    """Return the sparsity that the structure `name` determines, or None if the user does."""
    entry = STRUCTURES.entry(name)
    if not entry.spec.fixed_sparsity:
        return None
    STRUCTURES.get(name)  # raises for a name without numbers
    return float(sparsity_of_n_of_m(*(entry.numbers(name) or ())))


def check_floor(name: str, floor: float) -> None:
    """Raise PruningError if the structure `name` determines the sparsity and that is above what the floor allows."""
    fixed = fixed_sparsity(name)
    if fixed is not None and floor > 1 - fixed + 1e-9:  # 1:3 keeps a third, to rounding
        raise PruningError(
            f"Structure {name} keeps {1 - fixed:g} of every layer, but the floor is {floor:g}. Lower the floor."
        )


def output_dimension(layer: LayerInfo) -> int:
    """Return the dimension of a weight's outputs; PruningError for a weight of one dimension."""
    if len(layer.shape) < 2:
        raise PruningError("it has one dimension, not inputs and outputs")
    return 1 if "Transpose" in layer.type else 0


def input_dimension(layer: LayerInfo) -> int:
    """Return the dimension of a weight's inputs (for a grouped convolution, of one group's inputs)."""
    return 1 - output_dimension(layer)


def _check_divisible(length: int, size: int, noun: str) -> None:
    if size < 1 or length % size:
        raise PruningError(f"its {length} {noun} are not divisible by {size}")
