"""What is removed together: groups of one size that make up the layer."""

from __future__ import annotations

import math

import pytest

from pruning.registry import STRUCTURES
from pruning.structure import weight


def test_single_weights() -> None:
    groups = weight((4, 3, 2, 2))
    assert (groups.count, groups.size) == (48, 1)


@pytest.mark.parametrize("name", STRUCTURES.names())
@pytest.mark.parametrize("shape", [(4, 4), (4, 8, 3, 3), (1, 1)])
def test_groups_make_up_the_layer(name: str, shape: tuple[int, ...]) -> None:
    groups = STRUCTURES.get(name)(shape)
    assert groups.count * groups.size == math.prod(shape)
