"""The end of a run: write the network, the masks and, last, the record."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from pruning.core.masks import FORMAT as MASKS_FORMAT
from pruning.core.masks import Masks
from pruning.experiment import records
from pruning.experiment.events import RunFinished
from pruning.experiment.metrics import layer_table
from pruning.experiment.networks import networks_to_time
from pruning.experiment.run_files import SCHEMA_VERSION
from pruning.experiment.session import Session
from pruning.measure import latency, storage
from pruning.measure.environment import environment
from pruning.measure.macs import count_macs
from pruning.measure.parameters import count_parameters
from pruning.utils import files

STAGES = ("dense_training", "scoring", "masking", "finetuning", "evaluation", "total")


def finish(session: Session) -> dict[str, Any]:
    """Write network, masks and, last, the record; return the record."""
    config, folder, progress = session.config, session.folder, session.progress
    assert progress.dense is not None
    write_network(session)
    last = records.final_network(progress.dense, progress.rounds)
    final = {key: value for key, value in last.items() if key in progress.dense}
    result: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "name": folder.path.name,
        "config": config.to_dict(),
        "environment": environment(session.device),
        "dense": progress.dense,
        "rounds": progress.rounds,
        "final": final,
        "layers": layer_table(session),
        "bytes": asdict(storage.measure_sizes(session.model.state_dict())),
        "warnings": progress.warnings,
    }
    if session.files:
        result["files"] = session.files
    if config.share_rounds:
        result["shared_rounds"] = progress.shared_rounds
    if config.measure_seconds > 0:
        networks = networks_to_time(session)
        if "shrunk" in networks:
            result["shrunk"] = measure_shrunk(networks["shrunk"], session)
        result["measured"] = latency.compare(networks, session.data.shape, seconds=config.measure_seconds)
    session.clock.lap()
    result["timing"] = {stage: progress.timing.get(stage, 0.0) for stage in STAGES}
    session.log.emit(RunFinished(path=str(folder.path), final=final))
    return folder.write_result(result)


def write_network(session: Session) -> None:
    """Write the final network and its masks, and the network once more to --save-path."""
    config, folder = session.config, session.folder
    if session.masks is None:
        assert session.progress.dense is not None
        session.warn(
            f"No round was accepted: every one cost more than --max-drop {config.max_drop:g} points of the dense "
            f"validation top-1 ({session.progress.dense['validation_top1']:.2f} %). The final network is the dense one."
        )
    masks = _nothing_pruned(session) if session.masks is None else session.masks
    files.write_tensors_atomic(folder.model, session.model.state_dict())
    files.write_tensors_atomic(folder.masks, masks.tensors(), metadata=MASKS_FORMAT)
    saved_model = config.saved_model_path()
    if saved_model is not None:
        files.write_state_dict_atomic(saved_model, session.model.state_dict())


def measure_shrunk(network: nn.Module, session: Session) -> dict[str, Any]:
    """Return the counts of the network without its removed filters, as ratios to the dense network."""
    dense = session.progress.dense
    assert dense is not None
    parameters, macs = count_parameters(network), count_macs(network, session.data.shape)
    remaining, used = parameters.nonzero_parameters, macs.nonzero_macs
    return {
        "compression_ratio": dense["parameters"] / remaining if remaining else None,
        "theoretical_speedup": dense["macs"] / used if used else None,
        "parameters": parameters.parameters,
        "nonzero_parameters": remaining,
        "macs": macs.macs,
        "nonzero_macs": used,
        "stored_bytes": storage.measure_sizes(network.state_dict()).stored_bytes,
    }


def _nothing_pruned(session: Session) -> Masks:
    return Masks({layer.name: torch.ones_like(layer.parameter, dtype=torch.bool) for layer in session.layers})
