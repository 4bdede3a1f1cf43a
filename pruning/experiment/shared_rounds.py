"""Rounds that runs share: where runs differ only in how far they prune, the common beginning is computed once.

With --share-rounds a run keeps, after each round, what going on from there needs, under a key of all that determined
it; and a run that begins takes up the longest beginning of its own that was kept. Nothing in a round depends on the
rounds that follow it, so the result is the same as alone, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pruning.config.run_config import RunConfig
from pruning.experiment.run_files import Checkpoints, shared_round
from pruning.experiment.targets import Step, series
from pruning.utils.digests import digest

if TYPE_CHECKING:
    from torch import Tensor

    from pruning.experiment.session import Session

HOW_FAR = ("sparsity", "compression", "count", "layer_sparsity", "rounds")
REVISION = 2  # to be raised whenever a change of the code changes what a round gives


def chain_key(config: RunConfig) -> str:
    """Equal for runs that have at least their first round in common and differ only in how far they prune.

    Needs neither torch nor the network, so runs that give a count or fractions by layer, where the rounds depend on the
    network, share a key with nobody.
    """
    for kind in ("sparsity", "compression"):
        amount = getattr(config, kind)
        if amount is not None:
            first = series(kind, amount, config.schedule, config.rounds)[0]
            return digest({**_without_how_far(config), "first": [kind, first]})
    return digest(config.config_key())


def find(session: Session) -> tuple[Mapping[str, Tensor], Mapping[str, Any]] | None:
    """What `Session.restore` needs to go on after the most rounds of this run that were kept; None if none were.

    Files that are damaged, or not what their place says, are passed over.
    """
    for rounds in range(len(session.prunings), 0, -1):
        beginning = _beginning(session, rounds)
        found = _kept(session, beginning).load()
        if found is not None and _is_sealed(found[1]) and found[1]["beginning"] == beginning:
            return found
    return None


def keep(session: Session) -> None:
    """Keep the state after the rounds done so far for runs that begin with the same rounds."""
    tensors, facts = session.snapshot()
    beginning = _beginning(session, len(session.progress.rounds))
    facts = {**facts, "beginning": beginning}
    _kept(session, beginning).save(tensors, {**facts, "sha256": digest(facts)})


def _beginning(session: Session, rounds: int) -> dict[str, Any]:
    """All that the first so many rounds depend on."""
    return {
        "options": _without_how_far(session.config),
        "basis": session.basis,
        "prunings": [[_in_order(step) for step in steps] for steps in session.prunings[:rounds]],
        "revision": REVISION,
    }


def _in_order(step: Step) -> dict[str, Any]:
    """A step as JSON holds it, with fractions by layer as a list: the last of them that fits a layer holds for it."""
    by_layer = step.amount.by_layer
    return {**asdict(step), "by_layer": by_layer and [list(pair) for pair in by_layer.items()]}


def _without_how_far(config: RunConfig) -> dict[str, Any]:
    return {name: value for name, value in config.config_key().items() if name not in HOW_FAR}


def _kept(session: Session, beginning: Mapping[str, Any]) -> Checkpoints:
    return shared_round(session.config.runs_dir, digest(beginning)[:16])


def _is_sealed(facts: Mapping[str, Any]) -> bool:
    unsealed = {name: value for name, value in facts.items() if name != "sha256"}
    return facts.get("sha256") == digest(unsealed)
