"""What there is to choose from, as tables; read from the registries without importing torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pruning import models
from pruning.axes import methods
from pruning.models.model_stats import model_stats
from pruning.registry import (
    ALLOCATIONS,
    ARCHITECTURES,
    DATASETS,
    FINETUNINGS,
    SCHEDULES,
    SCORES,
    STRUCTURES,
    Registry,
    ScoreSpec,
    unknown,
)

Rows = tuple[list[str], list[list[str]]]


def _methods() -> Rows:
    rows = []
    for name in methods.names():
        allocation, score = methods.split(name)
        spec = SCORES.entry(score).spec
        rows.append([name, allocation, score, _needs(spec), _structures(spec), spec.source])
    return ["method", "compared", "score", "needs", "structures", "source"], rows


def _structures(spec: ScoreSpec) -> str:
    return ", ".join(spec.structures) or "all"


def _needs(spec: ScoreSpec) -> str:
    """What a score has to know besides the weights."""
    over_training = [f"{name} over training" for name in spec.accumulates]
    return ", ".join([*spec.statistics, *over_training]) or "weights only"


def _architectures() -> Rows:
    facts, ours = model_stats(), ARCHITECTURES.entries()
    rows = []
    for name in models.names():
        shape = ours[name].spec.input if name in ours else ""
        summary = ours[name].summary if name in ours else "from torchvision"
        counted = facts.get(name, {})  # a plugin's architecture was not counted
        rows.append(
            [
                name,
                counted.get("input", shape),
                _thousands(counted.get("parameters")),
                _thousands(counted.get("macs")),
                summary,
            ]
        )
    return ["architecture", "input", "parameters", "multiply-adds", "what it is"], rows


def _thousands(count: str | None) -> str:
    return "" if count is None else f"{int(count):,}"


def _scores() -> Rows:
    rows = []
    for entry in SCORES.entries().values():
        rows.append([entry.name, entry.summary, _needs(entry.spec), entry.spec.source])
    return ["score", "what it is", "needs", "source"], rows


def _finetunings() -> Rows:
    return ["fine-tuning policy", "what it does", "source"], [
        [entry.name, entry.summary, entry.spec.source] for entry in FINETUNINGS.entries().values()
    ]


def _plain(registry: Registry[Any]) -> Callable[[], Rows]:
    def rows() -> Rows:
        return [registry.kind, "what it does"], [
            [entry.name, entry.summary] for entry in registry.entries().values()
        ]

    return rows


KINDS: dict[str, Callable[[], Rows]] = {
    "methods": _methods,
    "architectures": _architectures,
    "datasets": _plain(DATASETS),
    "schedules": _plain(SCHEDULES),
    "structures": _plain(STRUCTURES),
    "finetunings": _finetunings,
    "allocations": _plain(ALLOCATIONS),
    "scores": _scores,
}


def kind(what: str) -> str:
    """`what` if it is a kind of thing to list; PruningError with the nearest otherwise."""
    if what not in KINDS:
        raise unknown("list", what, KINDS)
    return what


def table(what: str) -> Rows:
    """Column titles and rows of one kind."""
    return KINDS[what]()
