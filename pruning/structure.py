"""Axis 1: what is removed together.

A structure is a function ``(shape) -> Groups``: how the weights of a layer of that shape fall into groups of one size.
Scores are summed over each group, groups are kept or removed by their sums, and the decision is spread over their
weights again. A group of one weight is the plain sparse case.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pruning.registry import STRUCTURES


@dataclass(frozen=True)
class Groups:
    """`count` groups of `size` weights each; together they are the layer."""

    count: int
    size: int


@STRUCTURES.register("weight", source="LeCun et al. 1990")
def weight(shape: tuple[int, ...]) -> Groups:
    """Single weights, wherever they lie: a sparse network"""
    return Groups(count=math.prod(shape), size=1)
