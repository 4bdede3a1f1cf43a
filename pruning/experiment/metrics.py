"""The metrics of a run's network as it is now: evaluated, and counted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pruning.core.layers import prunable_layers
from pruning.errors import DivergedError
from pruning.experiment.events import Evaluated
from pruning.experiment.session import Session
from pruning.measure.parameters import count_parameters
from pruning.training.evaluation import evaluate


def evaluate_network(session: Session, what: str, split: str = "test", **position: Any) -> dict[str, float]:
    """Return top1 and top5 (percent) and loss on a split, and emit them as an event.

    Args:
        what: "dense", "pruned", "finetuned", ... (see `events.Evaluated`).
        position: Round, phase and epoch, for the event.

    Raises:
        DivergedError: The loss is NaN or infinite.
    """
    with session.clock.stage("evaluation"):
        evaluation = evaluate(
            session.model,
            getattr(session.data, split),
            session.config.test_batch_size,
            session.config.precision,
            batch_limit=session.batch_limit,
            between_batches=session.log.check_stop,
        )
    if not math.isfinite(evaluation.loss):
        raise DivergedError(
            f"the loss on the {split} images is {evaluation.loss}, the network has diverged",
            session.config.precision,
        )
    metrics = asdict(evaluation)
    session.log.emit(Evaluated(what=what, split=split, **position, **metrics))
    return metrics


def with_counts(session: Session, evaluation: Mapping[str, float]) -> dict[str, Any]:
    """Return an evaluation with the counted metrics that every entry of a record has."""
    parameters = count_parameters(session.model)
    macs = session.macs_trace.count(session.model)
    return {
        **evaluation,
        "sparsity": 0.0 if session.masks is None else session.masks.sparsity,
        "compression_ratio": parameters.compression_ratio,
        "theoretical_speedup": macs.theoretical_speedup,
        "parameters": parameters.parameters,
        "nonzero_parameters": parameters.nonzero_parameters,
        "macs": macs.macs,
        "nonzero_macs": macs.nonzero_macs,
    }


def measure_network(session: Session, what: str, **position: Any) -> dict[str, Any]:
    """Return a record's entry for the network: its metrics, with `validation_top1` if --max-drop uses it."""
    entry = with_counts(session, evaluate_network(session, what, **position))
    if session.config.max_drop is not None:
        entry["validation_top1"] = evaluate_network(session, what, "validation", **position)["top1"]
    return entry


def layer_table(session: Session) -> list[dict[str, Any]]:
    """Return a record's `layers`: every layer that could be pruned, with its remaining weights and MACs."""
    macs = session.macs_trace.count(session.model).layers
    eligible = {layer.name for layer in session.layers}
    table = []
    for layer in prunable_layers(session.model, include=sorted(eligible), prune_classifier=True):
        nonzero = int(layer.parameter.count_nonzero())
        counted = macs.get(layer.module)
        table.append(
            {
                "name": layer.name,
                "type": layer.type,
                "shape": list(layer.shape),
                "weights": layer.size,
                "nonzero": nonzero,
                "sparsity": 1 - nonzero / layer.size,
                "macs": counted.macs if counted else 0,
                "nonzero_macs": counted.nonzero_macs if counted else 0,
                "pruned": layer.name in eligible,
            }
        )
    return table
