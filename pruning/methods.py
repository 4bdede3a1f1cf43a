"""The names of methods. `{allocation}_{score}` for every allocation and score there is, and `random` for global_random.

Names come from the registries, so that asking for them imports no torch; what a method does is in `pruning.step`.
"""

from __future__ import annotations

from pruning.registry import ALLOCATIONS, SCORES, unknown

SHORT = {"random": ("global", "random")}


def composed() -> dict[str, tuple[str, str]]:
    """Every method's name with its allocation and its score."""
    pairs = {
        f"{allocation}_{score}": (allocation, score)
        for allocation in ALLOCATIONS.names()
        for score in SCORES.names()
    }
    return {**pairs, **SHORT}


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
