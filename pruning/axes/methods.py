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
    """Every method's name with its allocation and its score."""
    scores = SCORES.entries()
    fixed = {name: entry.about["allocation"] for name, entry in scores.items() if "allocation" in entry.about}
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
    if name not in known:
        raise unknown("method", name, known)
    return known[name]


def accumulates(method: str) -> list[str]:
    """What has to be added up over the training before `method` prunes, by name; for most methods nothing."""
    names: list[str] = SCORES.entry(split(method)[1]).about.get("accumulates", [])
    return names


def check(method: str, structure: str) -> None:
    """PruningError, with the reason, if a method has no meaning for a structure (or either is unknown)."""
    allocation, score = split(method)
    score_about, tile = SCORES.entry(score).about, STRUCTURES.entry(structure)
    if allocation not in tile.about.get("allocations", [allocation]):
        right = " or ".join(tile.about["allocations"])
        instead = "choose another score" if "allocation" in score_about else f"choose {right}_{score}"
        raise PruningError(
            f"Structure {structure} goes with the allocation {right} only, not with {method}: "
            f"{tile.about['reason']}; {instead}."
        )
    if tile.name not in score_about.get("structures", [tile.name]):
        right = " or ".join(score_about["structures"])
        raise PruningError(
            f"Method {method} goes with the structure {right} only, not with {structure}: {score_about['reason']}."
        )
