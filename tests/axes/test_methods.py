"""Names of methods: composed of allocation and score, known without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pruning.axes.methods import accumulates, check, names, split
from pruning.errors import PruningError
from pruning.registry import ALLOCATIONS, SCORES


def test_every_allocation_combines_with_every_score_that_does_not_fix_one() -> None:
    assert {"global_mag", "layer_mag", "global_grad", "layer_grad", "random"} <= set(names())
    for score, entry in SCORES.entries().items():
        if entry.spec.allocation is not None:
            assert split(score) == (entry.spec.allocation, score)
            assert not any(name.endswith(f"_{score}") for name in names())
        else:
            for allocation in ALLOCATIONS.names():
                assert split(f"{allocation}_{score}") == (allocation, score)


def test_a_method_accumulates_what_its_score_accumulates() -> None:
    assert accumulates("layer_movement") == ["movement"]
    assert accumulates("global_grad") == accumulates("random") == []


@pytest.mark.parametrize(
    ("method", "structure", "reason"),
    [
        (
            "global_mag",
            "2:4",
            "2:4 requires the allocation layer, .* global_mag .*layer_mag",
        ),
        ("synflow", "4:8", "4:8 requires the allocation layer, .* synflow .*another score"),
        ("lamp", "filter", "lamp requires the structure weight, not filter"),
        ("layer_l1", "weight", "layer_l1 requires the structure filter or block, not weight"),
        ("global_bn_scale", "weight", "global_bn_scale requires the structure filter, not weight"),
        ("global_mag", "wieght", "Unknown structure 'wieght'. Did you mean weight"),
    ],
)
def test_an_undefined_combination_of_method_and_structure_is_refused(
    method: str, structure: str, reason: str
) -> None:
    with pytest.raises(PruningError, match=reason):
        check(method, structure)


def test_defined_combinations_of_method_and_structure_pass_the_check() -> None:
    for method, structure in (
        ("layer_mag", "2:4"),
        ("global_l1", "filter"),
        ("synflow", "filter"),
        ("lamp", "weight"),
    ):
        check(method, structure)


def test_random_is_short_for_global_random() -> None:
    assert split("random") == ("global", "random")


def test_an_unknown_method_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(PruningError, match=r"Unknown method 'global-mag'\. Did you mean global_mag"):
        split("global-mag")


def test_names_need_no_torch() -> None:
    code = "import sys, pruning.axes.methods as methods; methods.names(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
