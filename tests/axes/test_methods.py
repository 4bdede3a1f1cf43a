"""Names of methods: composed of allocation and score, known without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pruning.axes.methods import accumulates, check, names, split
from pruning.errors import PruningError
from pruning.registry import ALLOCATIONS, SCORES


def test_every_allocation_goes_with_every_score_that_does_not_fix_it() -> None:
    assert {"global_mag", "layer_mag", "global_grad", "layer_grad", "random"} <= set(names())
    for score, entry in SCORES.entries().items():
        if entry.spec.allocation is not None:
            assert split(score) == (entry.spec.allocation, score)
            assert not any(name.endswith(f"_{score}") for name in names())
        else:
            for allocation in ALLOCATIONS.names():
                assert split(f"{allocation}_{score}") == (allocation, score)


def test_a_method_adds_up_over_training_what_its_score_goes_by() -> None:
    assert accumulates("layer_movement") == ["movement"]
    assert accumulates("global_grad") == accumulates("random") == []


@pytest.mark.parametrize(
    ("method", "structure", "reason"),
    [
        (
            "global_mag",
            "2:4",
            "goes with the allocation layer only, .* within each M weights only.*choose layer_mag",
        ),
        ("synflow", "4:8", "goes with the allocation layer only.*choose another score"),
        ("lamp", "filter", "goes with the structure weight only.*among the single weights"),
        ("layer_l1", "weight", "goes with the structure filter or block only.*it is mag"),
        ("global_bn_scale", "weight", "goes with the structure filter only.*normalisation behind a filter"),
        ("global_mag", "wieght", "Unknown structure 'wieght'. Did you mean weight"),
    ],
)
def test_what_has_no_meaning_is_refused_with_the_reason(method: str, structure: str, reason: str) -> None:
    with pytest.raises(PruningError, match=reason):
        check(method, structure)


def test_what_has_a_meaning_is_not() -> None:
    for method, structure in (
        ("layer_mag", "2:4"),
        ("global_l1", "filter"),
        ("synflow", "filter"),
        ("lamp", "weight"),
    ):
        check(method, structure)


def test_random_is_short_for_global_random() -> None:
    assert split("random") == ("global", "random")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(PruningError, match=r"Unknown method 'global-mag'\. Did you mean global_mag"):
        split("global-mag")


def test_names_need_no_torch() -> None:
    code = "import sys, pruning.axes.methods as methods; methods.names(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
