"""Records of runs that never happened, for the tests of reports."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from pruning.config.resolution import resolve
from pruning.experiment.run_files import SCHEMA_VERSION, RunFolder

LAYERS = ("conv1.weight", "fc1.weight", "fc2.weight")


def metrics(top1: float, sparsity: float) -> dict[str, Any]:
    """The metrics of a network of 10,000 weights and 100 biases."""
    weights = 10_000 - round(10_000 * sparsity)
    return {
        "top1": top1,
        "top5": min(100.0, top1 + 8.25),
        "loss": 1 - top1 / 200,
        "sparsity": 1 - weights / 10_000,
        "compression_ratio": 10_100 / (weights + 100),
        "theoretical_speedup": 10_000 / weights if weights else None,
        "parameters": 10_100,
        "nonzero_parameters": weights + 100,
        "macs": 10_000,
        "nonzero_macs": weights,
    }


def record(top1: float, dense: float = 90.0, **options: Any) -> dict[str, Any]:
    """A record of a complete run with these top-1 accuracies (percent); `options` are those of the run."""
    config = resolve(options).to_dict()
    sparsity = config["sparsity"] or 0.5
    final = metrics(top1, sparsity)
    rounds = [
        {"round": number, "target_sparsity": sparsity * number / 2, "top1_before_finetune": top1 - 1, **entry}
        for number, entry in ((1, metrics(top1 + 0.5, sparsity / 2)), (2, final))
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "name": resolve(options).run_name(),
        "config": config,
        "environment": {
            "python": "3.11.7",
            "packages": {"pruning": "0.1.0", "torch": "2.15.0"},
            "device": "cpu",
            "device_name": "a processor",
            "commit": "0123abcd",
        },
        "dense": metrics(dense, 0.0),
        "rounds": rounds,
        "final": final,
        "layers": [
            {
                "name": name,
                "type": "Linear",
                "shape": [50, 100],
                "weights": 5000,
                "nonzero": round(5000 * (1 - share)),
                "sparsity": share,
                "macs": 5000,
                "nonzero_macs": round(5000 * (1 - share)),
                "pruned": name != LAYERS[-1],
            }
            for name, share in zip(LAYERS, (sparsity / 2, sparsity, 0.0), strict=True)
        ],
        "timing": {"total": 1.5},
        "warnings": [],
    }


def measured(speedup: float) -> dict[str, Any]:
    """The latencies of a record: the pruned network is `speedup` times as fast as the dense one."""
    networks = {"dense": {"measured_speedup": 1.0}, "pruned": {"measured_speedup": speedup}}
    return {"device": "cpu", "batches": [{"batch_size": 64, "turns": 10, "networks": networks}]}


def save(folder: Path, content: dict[str, Any], name: str | None = None) -> Path:
    """Write a record as a run in `folder` does; return the run's folder."""
    run = RunFolder(folder / (name or content["name"]))
    run.path.mkdir(parents=True, exist_ok=True)
    run.result.write_text(json.dumps(content))
    return run.path


def save_grid(folder: Path, seeds: tuple[int, ...] = (0, 1, 2), **options: Any) -> None:
    """Save runs of three methods at three sparsities, with a different loss per method and noise per seed."""
    for method, loss in (("global_mag", 1.0), ("layer_mag", 2.0), ("random", 9.0)):
        for sparsity in (0.5, 0.9, 0.98):
            for seed in seeds:
                noise = random.Random(f"{method} {sparsity} {seed}").gauss(0, 0.2)
                dense = 90 + random.Random(seed).gauss(0, 0.2)
                top1 = dense + loss * math.log2(1 - sparsity) * sparsity + noise
                content = record(top1, dense, method=method, sparsity=sparsity, seed=seed, **options)
                save(folder, content)
