"""The names of methods, and which score goes with which allocation and structure.

A method is `{allocation}_{score}` for every allocation and score; a score that goes with one allocation only is a
method of its own name. Names and facts come from the registries, so that asking for them imports no torch; what a
method does is in `pruning.core.prune`.
"""

from __future__ import annotations

from pruning.errors import PruningError
from pruning.registry import ALLOCATIONS, SCORES, STRUCTURES, unknown

SHORT = {name: ("global", name) for name in ("random", "snip", "grasp")}


def composed() -> dict[str, tuple[str, str]]:
    """Return the allocation and the score of every method by its name."""
    scores = SCORES.entries()
    fixed = {
        name: entry.spec.allocation for name, entry in scores.items() if entry.spec.allocation is not None
    }
    pairs = {
        f"{allocation}_{score}": (allocation, score)
        for allocation in ALLOCATIONS.names()
        for score in scores
        if score not in fixed
    }
    return {**pairs, **{score: (allocation, score) for score, allocation in fixed.items()}, **SHORT}


def names() -> list[str]:
    """Every method's name."""
    return list(composed())


def split(name: str) -> tuple[str, str]:
    """The allocation and the score that the method called `name` is made of.

    Raises PruningError for an unknown name, with the nearest and then all names.
    """
    known = composed()
    if name in known:
        return known[name]
    for allocation in ALLOCATIONS.names():
        score = SCORES.canonical(name.removeprefix(f"{allocation}_"))
        if f"{allocation}_{score}" in known:
            return allocation, score
    if (score := SCORES.canonical(name)) in known:
        return known[score]
    raise unknown("method", name, known)


def accumulates(method: str) -> list[str]:
    """What has to be added up over the training before `method` prunes, by name; for most methods nothing."""
    return list(SCORES.entry(split(method)[1]).spec.accumulates)


def check(method: str, structure: str) -> None:
    """PruningError, with the reason, if a method has no meaning for a structure (or either is unknown)."""
    allocation, score = split(method)
    score_spec, structure_entry = SCORES.entry(score).spec, STRUCTURES.entry(structure)
    structure_spec = structure_entry.spec
    if structure_spec.allocations and allocation not in structure_spec.allocations:
        right = " or ".join(structure_spec.allocations)
        instead = f"choose {right}_{score}" if score_spec.allocation is None else "choose another score"
        raise PruningError(
            f"Structure {structure} goes with the allocation {right} only, not with {method}: "
            f"{structure_spec.reason}; {instead}."
        )
    if score_spec.structures and structure_entry.name not in score_spec.structures:
        right = " or ".join(score_spec.structures)
        raise PruningError(
            f"Method {method} goes with the structure {right} only, not with {structure}: {score_spec.reason}."
        )
