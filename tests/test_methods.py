"""Names of methods: composed of allocation and score, known without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pruning.errors import PruningError
from pruning.methods import names, split
from pruning.registry import ALLOCATIONS, SCORES


def test_every_allocation_goes_with_every_score() -> None:
    assert {"global_mag", "layer_mag", "global_grad", "layer_grad", "random"} <= set(names())
    for allocation in ALLOCATIONS.names():
        for score in SCORES.names():
            assert split(f"{allocation}_{score}") == (allocation, score)


def test_random_is_short_for_global_random() -> None:
    assert split("random") == ("global", "random")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(PruningError, match=r"Unknown method 'global-mag'\. Did you mean global_mag"):
        split("global-mag")


def test_names_need_no_torch() -> None:
    code = "import sys, pruning, pruning.methods; pruning.methods.names(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
