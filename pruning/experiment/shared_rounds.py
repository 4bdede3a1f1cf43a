"""Rounds that runs share (--share-rounds): runs that differ only in the final sparsity compute common rounds once.

After each round a run writes its state under a key of everything that determined it. A new run
reads the latest state with a key of its own rounds. No round depends on the rounds after it, so the result is
bit-identical to that of the run alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pruning.config.run_config import RunConfig
from pruning.experiment.checkpoint_files import CheckpointFiles
from pruning.experiment.run_files import shared_round
from pruning.experiment.targets import PruningStep, amount_series
from pruning.utils.digests import digest

if TYPE_CHECKING:
    from pruning.experiment.checkpoint import RunCheckpoint
    from pruning.experiment.session import Session

TARGET_OPTIONS = ("sparsity", "compression", "count", "layer_sparsity", "rounds")
REVISION = (
    3  # raised whenever a change of the code changes the result of a round, or the contents of a checkpoint
)


def chain_key(config: RunConfig) -> str:
    """Return a key that is equal for runs whose first round is the same and that differ only in the final sparsity.

    Imports neither torch nor the network. Runs with a count or fractions by layer, whose rounds depend on the network,
    therefore share a key with no other run.
    """
    for kind in ("sparsity", "compression"):
        amount = getattr(config, kind)
        if amount is not None:
            first = amount_series(kind, amount, config.schedule, config.rounds)[0]
            return digest({**_without_target(config), "first": [kind, first]})
    return digest(config.config_key())


def find(session: Session) -> RunCheckpoint | None:
    """Return the state after as many shared rounds of this run as possible; None if no round is shared.

    Files that are damaged, or whose contents do not match their key, are skipped.
    """
    from pruning.experiment.checkpoint import RunCheckpoint

    for rounds in range(len(session.pruning_steps_by_round), 0, -1):
        first_rounds = _first_rounds(session, rounds)
        found = _files(session, first_rounds).load()
        if found is not None and found[1].get("first_rounds") == first_rounds:
            return RunCheckpoint.unpack(*found)
    return None


def write(session: Session) -> None:
    """Write the state after the rounds done so far, for other runs that have the same first rounds."""
    from pruning.experiment.checkpoint import checkpoint_of

    tensors, values = checkpoint_of(session).pack()
    first_rounds = _first_rounds(session, len(session.progress.rounds))
    files = _files(session, first_rounds)
    files.folder.parent.mkdir(exist_ok=True)
    files.save(tensors, {**values, "first_rounds": first_rounds})


def _first_rounds(session: Session, rounds: int) -> dict[str, Any]:
    """Return everything that the first `rounds` rounds depend on."""
    return {
        "options": _without_target(session.config),
        "fingerprint": session.fingerprint,
        "prunings": [[_to_json(step) for step in steps] for steps in session.pruning_steps_by_round[:rounds]],
        "revision": REVISION,
    }


def _to_json(step: PruningStep) -> dict[str, Any]:
    """Return a pruning step as JSON values. Fractions by layer become a list, because their order matters."""
    by_layer = step.amount.by_layer
    return {**asdict(step), "by_layer": by_layer and [list(pair) for pair in by_layer.items()]}


def _without_target(config: RunConfig) -> dict[str, Any]:
    return {name: value for name, value in config.config_key().items() if name not in TARGET_OPTIONS}


def _files(session: Session, first_rounds: Mapping[str, Any]) -> CheckpointFiles:
    return shared_round(session.config.runs_dir, digest(first_rounds)[:16])
