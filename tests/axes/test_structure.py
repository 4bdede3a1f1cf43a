"""Structures: blocks that divide the layer, and layers that they do not fit."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import pytest

from pruning.axes.structure import BlockShape, fixed_sparsity
from pruning.errors import PruningError
from pruning.registry import STRUCTURES


@dataclass(frozen=True)
class OneLayer:
    shape: tuple[int, ...]
    kind: str = "conv"
    type: str = "Conv2d"


@pytest.mark.parametrize(
    ("name", "layer", "tile"),
    [
        ("weight", OneLayer((4, 3, 2, 2)), BlockShape((1, 1, 1, 1))),
        ("filter", OneLayer((4, 3, 2, 2)), BlockShape((1, 3, 2, 2))),
        ("filter", OneLayer((4, 3, 2, 2), type="ConvTranspose2d"), BlockShape((4, 1, 2, 2))),
        ("filter", OneLayer((4, 3), "linear", "Linear"), BlockShape((1, 3))),
        ("block2x4", OneLayer((4, 8, 3, 3)), BlockShape((2, 4, 1, 1))),
        ("block2x4", OneLayer((8, 4, 3, 3), type="ConvTranspose2d"), BlockShape((4, 2, 1, 1))),
        ("2:4", OneLayer((5, 8, 3, 3)), BlockShape((1, 4, 1, 1), keep=2)),
        ("4:8", OneLayer((16, 5, 3), type="ConvTranspose1d"), BlockShape((8, 1, 1), keep=4)),
        ("1:3", OneLayer((5, 9), "recurrent", "LSTM"), BlockShape((1, 3), keep=1)),
    ],
)
def test_block_shapes_by_hand(name: str, layer: OneLayer, tile: BlockShape) -> None:
    assert STRUCTURES.get(name)(layer) == tile


@pytest.mark.parametrize(
    ("name", "layer", "reason"),
    [
        (
            "filter",
            OneLayer((12, 4), "attention", "MultiheadAttention"),
            "attention",
        ),
        ("filter", OneLayer((4,), "other"), "other"),
        ("block4x4", OneLayer((6, 4, 3, 3)), "its 6 outputs are not divisible by 4"),
        ("block4x4", OneLayer((4, 1, 3, 3)), "its 1 inputs are not divisible by 4"),
        ("block0x4", OneLayer((4, 4)), "Unknown structure"),
        ("2:4", OneLayer((4, 6, 3, 3)), "its 6 inputs are not divisible by 4"),
        ("2:4", OneLayer((4,), "other"), "one dimension"),
        ("4:4", OneLayer((4, 4)), "the first number must be from 1 to 3"),
        ("0:4", OneLayer((4, 4)), "the first number must be from 1 to 3"),
        ("N:M", OneLayer((4, 4)), "N:M.*2:4"),
    ],
)
def test_a_layer_that_does_not_fit_is_refused_with_the_reason(
    name: str, layer: OneLayer, reason: str
) -> None:
    with pytest.raises(PruningError, match=reason):
        STRUCTURES.get(name)(layer)


def test_n_of_m_determines_the_sparsity() -> None:
    assert (fixed_sparsity("2:4"), fixed_sparsity("1:4"), fixed_sparsity("weight")) == (0.5, 0.75, None)
    with pytest.raises(PruningError, match="N:M"):
        fixed_sparsity("N:M")


def test_needs_no_torch() -> None:
    code = "import sys, pruning.axes.structure; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
