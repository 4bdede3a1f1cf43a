"""Method names, and which score can be combined with which allocation and structure.

A method is `{allocation}_{score}`; a score that is defined for one allocation only is a method under its own name. This
file reads the registries and imports no torch; `pruning.core.prune` applies a method.
"""

from __future__ import annotations

from pruning.errors import PruningError
from pruning.registry import ACCUMULATORS, ALLOCATIONS, CORRECTIONS, SCORES, STATISTICS, STRUCTURES, unknown

SHORT_NAMES = {name: ("global", name) for name in ("random", "snip", "grasp")}


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
    return {**pairs, **{score: (allocation, score) for score, allocation in fixed.items()}, **SHORT_NAMES}


def names() -> list[str]:
    """Return the names of all methods."""
    return list(composed())


def split(name: str) -> tuple[str, str]:
    """Return the allocation and the score of a method.

    Raises:
        PruningError: unknown name; the message lists the nearest names and then all.
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
    """Return the names of what must be accumulated during training before `method` prunes; empty for most methods."""
    return list(SCORES.entry(split(method)[1]).spec.accumulates)


def check(method: str, structure: str) -> None:
    """Raise PruningError, with the reason, if a method is not defined for a structure or a name is unknown."""
    allocation, score = split(method)
    score_spec, structure_entry = SCORES.entry(score).spec, STRUCTURES.entry(structure)
    structure_spec = structure_entry.spec
    for statistic in score_spec.statistics:
        STATISTICS.entry(statistic)
    for accumulator in score_spec.accumulates:
        ACCUMULATORS.entry(accumulator)
    if score_spec.correction is not None:
        CORRECTIONS.entry(score_spec.correction)
    if structure_spec.allocations and allocation not in structure_spec.allocations:
        allowed = " or ".join(structure_spec.allocations)
        fix = f"Choose {allowed}_{score}" if score_spec.allocation is None else "Choose another score"
        raise PruningError(
            f"Structure {structure} requires the allocation {allowed}, but method {method} has {allocation}: "
            f"{structure_spec.reason}. {fix}."
        )
    if score_spec.structures and structure_entry.name not in score_spec.structures:
        allowed = " or ".join(score_spec.structures)
        raise PruningError(
            f"Method {method} requires the structure {allowed}, not {structure}: {score_spec.reason}."
        )
