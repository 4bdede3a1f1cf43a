"""The experiment: train, then per round score -> mask -> fine-tune -> measure (Blalock et al. 2020, algorithm 1)."""

from __future__ import annotations

from typing import Any

from pruning.config.run_config import RunConfig
from pruning.experiment import checkpoint, records, shared_rounds
from pruning.experiment.dense_cache import DenseStates, dense_network
from pruning.experiment.events import Observer, Resumed, RoundsShared
from pruning.experiment.failures import explain_failures
from pruning.experiment.metrics import measure_network
from pruning.experiment.result import finish
from pruning.experiment.rounds import accept, run_round
from pruning.experiment.session import Session
from pruning.experiment.setup import announce, check_outputs, prepare
from pruning.utils import file_locks


def run(config: RunConfig, observer: Observer, *, fresh: bool = False) -> dict[str, Any]:
    """Run the experiment, or the rest of it, and return its record (the contents of result.json).

    Raises:
        PruningError: The options do not describe a possible experiment; nothing was written.
        RunStoppedError: The run cannot continue. Everything until then is saved.
        InterruptedRunError: The observer stopped the run. Everything until then is saved.
    """
    with explain_failures():
        check_outputs(config, fresh=fresh)
        session = prepare(config, observer)
        with file_locks.file_lock(session.folder.lock, f"The run {session.folder.path.name}"):
            return _run(session, fresh=fresh or config.dry_run)


def _run(session: Session, *, fresh: bool) -> dict[str, Any]:
    if fresh:
        session.folder.clear()
    elif (result := session.folder.read_result()) is not None:
        return result
    announce(session)
    dense = start_or_resume(session, fresh=fresh)
    for number in range(len(session.progress.rounds) + 1, session.config.rounds + 1):
        run_round(session, number, dense)
    return finish(session)


def start_or_resume(session: Session, *, fresh: bool) -> DenseStates:
    """Train the dense network, or continue where an earlier process stopped.

    Returns the states of the dense network that the fine-tuning policy needs.
    """
    records.refuse_other_run(session.folder, session.config)
    saved = checkpoint.load(session)
    if saved is not None:
        checkpoint.check_fingerprint(session, saved)
    shared = shared_rounds.find(session) if session.config.share_rounds and not (saved or fresh) else None
    session.folder.write_config(session.config.to_dict())
    if saved is not None:
        session.log.open(saved.progress.log_length, resumed=True)
    if saved is None and shared is None:
        return start(session, fresh=fresh)
    dense = DenseStates()
    if session.policy.needs_rewind_state or session.policy.needs_teacher:
        dense = dense_network(session, fresh=False)
    session.log.open()
    if saved is not None:
        checkpoint.restore(session, saved)
        session.log.emit(Resumed(rounds=len(saved.progress.rounds)))
    elif shared is not None:
        checkpoint.restore(session, shared)
        session.progress.shared_rounds = len(shared.progress.rounds)
        session.log.emit(RoundsShared(rounds=session.progress.shared_rounds))
        checkpoint.save(session)
    return dense


def start(session: Session, *, fresh: bool) -> DenseStates:
    """Train the dense network, or read it from the cache, and measure it."""
    dense = dense_network(session, fresh=fresh)
    if session.config.dry_run:
        session.warn("Dry run: two batches of every pass over the data, so the metrics are meaningless.")
    session.progress.dense = measure_network(session, "dense")
    if session.config.max_drop is not None:
        accept(session)
    checkpoint.save(session)
    return dense
