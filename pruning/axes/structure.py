"""Axis 1: which weights are removed together.

A structure is a function ``(layer) -> BlockShape``: the shape of the blocks that tile a layer's weight tensor. All
weights of a block are kept or removed together, by one score for the block (``group_reduction`` in `scoring`). If the
block shape has `keep`, every block keeps that many of its weights instead (N:M). Blocks of one weight are unstructured
sparsity.

It is registered with ``source`` and, where that is so, with

- ``pattern`` and ``example``: numbers in its name (see `registry`);
- ``coupled=True``: blocks are filters, and the filters of all layers that write one channel form one group;
- ``allocations``: the only allocations that it works with, and ``reason``, why;
- ``fixed_sparsity=True``: the structure alone determines the sparsity.

For a layer that it does not fit, it raises a PruningError that holds the reason only. No torch in this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from pruning.errors import PruningError
from pruning.registry import STRUCTURES


class LayerInfo(Protocol):
    """What a structure looks at: `shape` is that of the weight; `type` the class name of the module that holds it."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def kind(self) -> str: ...
    @property
    def type(self) -> str: ...


@dataclass(frozen=True)
class BlockShape:
    """`sizes`: how long a tile is in each dimension of the weight; `keep`: how many weights each keeps, if it says."""

    sizes: tuple[int, ...]
    keep: int | None = None


@STRUCTURES.register("weight", source="LeCun et al. 1990")
def weight(layer: LayerInfo) -> BlockShape:
    """Single weights, wherever they lie: a sparse network"""
    return BlockShape((1,) * len(layer.shape))


@STRUCTURES.register("filter", coupled=True, source="Li et al. 2017, arXiv 1608.08710; Fang et al. 2023")
def filters(layer: LayerInfo) -> BlockShape:
    """Whole filters (of linear layers: neurons), with bias and normalisation; those that make one channel as one"""
    if layer.kind not in ("conv", "linear"):
        raise PruningError(f"what its rows compute is not a channel of the network: it is {layer.kind}")
    output = output_dimension(layer)
    return BlockShape(tuple(1 if i == output else size for i, size in enumerate(layer.shape)))


@STRUCTURES.register(
    "block", pattern=r"block([1-9]\d*)x([1-9]\d*)", example="block4x4", source="Gray et al. 2017"
)
def block(outputs: int, inputs: int, layer: LayerInfo) -> BlockShape:
    """Blocks of so many outputs x inputs, as block4x4; in convolutions at each place of the kernel"""
    sizes = [1] * len(layer.shape)
    wanted = {output_dimension(layer): (outputs, "outputs"), input_dimension(layer): (inputs, "inputs")}
    for dimension, (size, what) in wanted.items():
        _divides(layer.shape[dimension], size, what)
        sizes[dimension] = size
    return BlockShape(tuple(sizes))


@STRUCTURES.register(
    "N:M",
    pattern=r"(\d+):(\d+)",
    example="2:4",
    fixed_sparsity=True,
    allocations=("layer",),
    reason="scores are compared within each M weights only, and every layer loses the same fraction",
    source="Zhou et al. 2021, arXiv 2102.04010; Mishra et al. 2021",
)
def n_of_m(n: int, m: int, layer: LayerInfo) -> BlockShape:
    """Of every M weights along the inputs N are kept, as 2:4; in convolutions along the input channels"""
    sparsity_of_n_of_m(n, m)
    sizes = [1] * len(layer.shape)
    _divides(layer.shape[input_dimension(layer)], m, "inputs")
    sizes[input_dimension(layer)] = m
    return BlockShape(tuple(sizes), keep=n)


def sparsity_of_n_of_m(n: int, m: int) -> Fraction:
    """The fraction that N:M removes. PruningError unless 0 < N < M."""
    if not 0 < n < m:
        raise PruningError(
            f"{n}:{m} keeps {n} of every {m} weights: the first number must be from 1 to {m - 1}."
        )
    return 1 - Fraction(n, m)


def fixed_sparsity(name: str) -> float | None:
    """The sparsity that the structure called `name` comes to, if that is not for the user to say."""
    entry = STRUCTURES.entry(name)
    if not entry.spec.fixed_sparsity:
        return None
    STRUCTURES.get(name)  # refuses a name without its numbers
    return float(sparsity_of_n_of_m(*(entry.numbers(name) or ())))


def check_floor(name: str, floor: float) -> None:
    """PruningError if the structure called `name` says how much is removed, and that leaves layers below the floor."""
    fixed = fixed_sparsity(name)
    if fixed is not None and floor > 1 - fixed + 1e-9:  # 1:3 keeps a third, to rounding
        raise PruningError(
            f"Structure {name} keeps {1 - fixed:g} of every layer, which a floor of {floor:g} contradicts: lower it."
        )


def output_dimension(layer: LayerInfo) -> int:
    """Where a weight's outputs lie. PruningError if it has no two sides."""
    if len(layer.shape) < 2:
        raise PruningError("it has one dimension only, and no inputs and outputs")
    return 1 if "Transpose" in layer.type else 0


def input_dimension(layer: LayerInfo) -> int:
    """Where a weight's inputs lie (of a grouped convolution: those of one group)."""
    return 1 - output_dimension(layer)


def _divides(length: int, size: int, what: str) -> None:
    if size < 1 or length % size:
        raise PruningError(f"its {length} {what} do not divide by {size}")
