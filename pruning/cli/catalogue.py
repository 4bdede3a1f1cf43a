"""Tables of `list`: the choices of each registry, read without importing torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pruning import models
from pruning.axes import methods
from pruning.models.model_stats import model_stats
from pruning.registry import (
    ACCUMULATORS,
    ALLOCATIONS,
    ARCHITECTURES,
    CORRECTIONS,
    DATASETS,
    FINETUNINGS,
    SCHEDULES,
    SCORES,
    STATISTICS,
    STRUCTURES,
    Registry,
    ScoreSpec,
    unknown,
)

Table = tuple[list[str], list[list[str]]]  # column titles, rows


def table(name: str) -> Table:
    """Return column titles and rows of one table. PruningError with the nearest name for an unknown table."""
    if name not in TABLES:
        raise unknown("list", name, TABLES)
    return TABLES[name]()


def method_table() -> Table:
    rows = []
    for name in methods.names():
        allocation, score = methods.split(name)
        spec = SCORES.entry(score).spec
        structures = ", ".join(spec.structures) or "all"
        rows.append([name, allocation, score, _inputs(spec), structures, spec.source])
    return ["method", "allocation", "score", "needs", "structures", "source"], rows


def architecture_table() -> Table:
    stats, entries = model_stats(), ARCHITECTURES.entries()
    rows = []
    for name in models.names():
        entry = entries.get(name)
        counts = stats.get(name, {})  # empty for a plugin's architecture
        rows.append(
            [
                name,
                counts.get("input", entry.spec.input if entry else ""),
                _format_count(counts.get("parameters")),
                _format_count(counts.get("macs")),
                entry.summary if entry else "from torchvision",
            ]
        )
    return ["architecture", "input", "parameters", "MACs", "description"], rows


def score_table() -> Table:
    rows = [
        [entry.name, entry.summary, _inputs(entry.spec), entry.spec.source]
        for entry in SCORES.entries().values()
    ]
    return ["score", "description", "needs", "source"], rows


def finetuning_table() -> Table:
    rows = [[entry.name, entry.summary, entry.spec.source] for entry in FINETUNINGS.entries().values()]
    return ["fine-tuning policy", "description", "source"], rows


def plain_table(registry: Registry[Any]) -> Table:
    rows = [[entry.name, entry.summary] for entry in registry.entries().values()]
    return [registry.kind, "description"], rows


TABLES: dict[str, Callable[[], Table]] = {
    "methods": method_table,
    "architectures": architecture_table,
    "datasets": lambda: plain_table(DATASETS),
    "schedules": lambda: plain_table(SCHEDULES),
    "structures": lambda: plain_table(STRUCTURES),
    "finetunings": finetuning_table,
    "allocations": lambda: plain_table(ALLOCATIONS),
    "scores": score_table,
    "statistics": lambda: plain_table(STATISTICS),
    "accumulators": lambda: plain_table(ACCUMULATORS),
    "corrections": lambda: plain_table(CORRECTIONS),
}


def _inputs(spec: ScoreSpec) -> str:
    """Return the statistics and accumulators that a score reads, as text."""
    accumulated = [f"{name} over training" for name in spec.accumulates]
    return ", ".join([*spec.statistics, *accumulated]) or "weights only"


def _format_count(count: str | None) -> str:
    return "" if count is None else f"{int(count):,}"
