"""Records of runs, read strictly: what a report or a comparison needs of each, and what tells two runs apart.

A record is a stranger's file: every number is checked to be one, NaN and infinity are refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pruning.axes import methods
from pruning.config.options import DENSE_GROUPS, TARGET_OPTIONS, MachineOptions, OutputOptions
from pruning.errors import PruningError
from pruning.experiment import run_files
from pruning.registry import canonical_options

# What says where and how a run is computed and kept, not what it computes.
NOT_SETTINGS = {*OutputOptions.model_fields, *MachineOptions.model_fields, *TARGET_OPTIONS} - {"precision"}
BASELINE_SCORE = "random"
# Of these the value alone says what is meant.
SPEAKING = ("dataset", "arch", "method", "structure", "schedule", "finetune")


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class Metrics(_Part):
    """The numbers of a network: dense, or after a round."""

    top1: float = Field(ge=0, le=100)
    top5: float = Field(ge=0, le=100)
    loss: float
    sparsity: float = Field(ge=0, le=1)
    compression_ratio: float | None = Field(ge=1)
    theoretical_speedup: float | None = Field(ge=0)
    parameters: int
    nonzero_parameters: int
    macs: int
    nonzero_macs: int


class LayerRow(_Part):
    """What is left of one layer; `pruned` says whether it was eligible."""

    name: str
    weights: int
    nonzero: int
    sparsity: float = Field(ge=0, le=1)
    pruned: bool


class _Latency(_Part):
    measured_speedup: float = Field(gt=0)


class _Batch(_Part):
    batch_size: int
    networks: dict[str, _Latency]


class _Measured(_Part):
    batches: list[_Batch]


class _Config(_Part):
    """The options that must be what they should be; all others are kept as they are."""

    dataset: str
    arch: str
    method: str
    seed: int
    rounds: int = 1


class _Amount(_Part):
    """How much was asked for, as a number."""

    value: float = Field(ge=0)


class _AmountByLayer(_Part):
    """How much was asked for, in words."""

    value: str


class _Record(_Part):
    name: str
    config: dict[str, Any]
    environment: dict[str, Any]
    dense: Metrics
    final: Metrics
    layers: list[LayerRow]
    timing: dict[str, float]
    warnings: list[str]
    measured: _Measured | None = None


@dataclass(frozen=True, order=True)
class Target:
    """How much was asked for: `kind` is the option (sparsity, compression, count, ...)."""

    kind: str
    value: float | str

    def __str__(self) -> str:
        if isinstance(self.value, str):
            return self.value
        if self.kind == "sparsity":
            return f"{100 * self.value:.6g} %"
        if self.kind == "max_drop":
            return f"{self.value:g} points"
        return f"{self.value:g}x" if self.kind == "compression" else f"{self.value:,.0f} weights"


@dataclass(frozen=True)
class Run:
    """One complete run, as its record says."""

    path: Path
    record: _Record

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def seed(self) -> int:
        return int(self.record.config["seed"])

    @property
    def dense(self) -> Metrics:
        return self.record.dense

    @property
    def final(self) -> Metrics:
        return self.record.final

    @cached_property
    def method(self) -> str:
        """The method's shortest name: `random` for global_random."""
        return canonical_method(self.record.config["method"])

    @cached_property
    def target(self) -> Target:
        config = self.record.config
        kind = next(kind for kind in TARGET_OPTIONS if config.get(kind) is not None)
        return Target(kind, config[kind])

    @cached_property
    def task(self) -> tuple[str, str]:
        """Data set and architecture; a folder of images is told by its place."""
        config = self.record.config
        place = f" {config.get('data')}" if config["dataset"] == "folder" else ""
        return config["dataset"] + place, config["arch"]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Every option that determines the result, but the seed and how much was to be removed."""
        config = self.record.config
        settings = canonical_options({name: config[name] for name in config if name not in NOT_SETTINGS})
        if config["dataset"] != "folder":
            settings.pop("data", None)
        return {**settings, "method": self.method}

    @cached_property
    def dense_settings(self) -> dict[str, Any]:
        """Those of the settings that determine the dense network."""
        names = {name for part in DENSE_GROUPS for name in part.model_fields}
        return {name: value for name, value in self.settings.items() if name in names}

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Hardware and versions, one level deep: `packages.torch` and so on."""
        flat: dict[str, Any] = {}
        for name, value in self.record.environment.items():
            inner = value.items() if isinstance(value, Mapping) else [("", value)]
            flat |= {f"{name}.{key}" if key else name: one for key, one in inner}
        return flat

    @cached_property
    def measured(self) -> dict[str, float]:
        """Measured speedups where there are any: `pruned, batch 64` -> dense latency / that network's latency."""
        if self.record.measured is None:
            return {}
        return {
            f"{network}, batch {batch.batch_size}": latency.measured_speedup
            for batch in self.record.measured.batches
            for network, latency in list(batch.networks.items())[1:]  # the first one is the yardstick
        }


def canonical_method(name: str) -> str:
    """The last name there is for the same allocation and score; the name itself if it is not known here."""
    known = methods.composed()
    return {parts: name for name, parts in known.items()}[known[name]] if name in known else name


def is_random(method: str) -> bool:
    """Is this a baseline that looks at no weight?"""
    parts = methods.composed().get(method)
    return parts is not None and parts[1] == BASELINE_SCORE


def read(folders: Sequence[Path]) -> list[Run]:
    """Every complete run in these folders and below, each once. PruningError if a folder is missing or has none."""
    found: dict[Path, Run] = {}
    for folder in folders:
        if not folder.is_dir():
            raise PruningError(f"{folder}: no such folder; give folders that hold complete runs.")
        runs = run_files.complete_runs(folder)
        if not runs:
            raise PruningError(f"{folder} holds no complete run (dry runs do not count).")
        found |= {run.path.resolve(): read_run(run) for run in runs}
    return list(found.values())


def read_run(folder: run_files.RunFolder) -> Run:
    """One run's record. PruningError, naming the field, if it is not what a record must be."""
    result = folder.read_result()
    if result is None:
        raise PruningError(f"{folder.path} holds no complete run.")
    try:
        record = _Record.model_validate(result)
        _Config.model_validate({k: v for k, v in record.config.items() if k in _Config.model_fields})
        amounts = {kind: amount for kind in TARGET_OPTIONS if (amount := record.config.get(kind)) is not None}
        for kind, amount in amounts.items():
            (_AmountByLayer if kind == "layer_sparsity" else _Amount)(value=amount)
        json.dumps(result, allow_nan=False)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PruningError(f"{folder.result} is no record of a run: {where}: {first['msg']}.") from None
    except ValueError:
        raise PruningError(f"{folder.result} is no record of a run: it holds NaN or infinity.") from None
    if not amounts:
        raise PruningError(
            f"{folder.result} is no record of a run: config says no {' or '.join(TARGET_OPTIONS)}."
        )
    return Run(folder.path, record)


def without_repeats(runs: Iterable[Run]) -> tuple[list[Run], list[str]]:
    """The runs less those that repeat an earlier one (same options and seed), and a warning for each left out."""
    kept: dict[str, Run] = {}
    warnings = []
    for run in runs:
        first = kept.setdefault(key([run.settings, run.target.kind, run.target.value, run.seed]), run)
        if first is not run:
            warnings.append(f"{run.path} repeats {first.path} (same options, same seed) and is left out.")
    return list(kept.values()), warnings


def key(value: Any) -> str:
    """JSON-able values as one hashable, independent of the order of keys."""
    return json.dumps(value, sort_keys=True)


def differing(many: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The fields that are not the same in all of these mappings, each with its values in order of appearance."""
    rows = list(many)
    names = list(dict.fromkeys(name for row in rows for name in row))
    values = {name: list({key(row.get(name)): row.get(name) for row in rows}.values()) for name in names}
    return {name: found for name, found in values.items() if len(found) > 1}


def environment_warning(runs: Sequence[Run], where: str) -> list[str]:
    """A warning if these runs were made on different hardware or with different versions; else none."""
    different = differing(run.environment for run in runs)
    if not different:
        return []
    return [f"{where}: records differ in hardware or versions: {listing(different)}."]


def listing(different: Mapping[str, Sequence[Any]]) -> str:
    """`name (value, value), name (...)`."""
    return ", ".join(f"{name} ({', '.join(map(plain, values))})" for name, values in different.items())


def describe(settings: Mapping[str, Any], names: Iterable[str]) -> str:
    """Some options in a few words, those that speak for themselves first: `rewind, finetune_lr 0.1`."""
    chosen = set(names)
    words = [plain(settings.get(name)) for name in SPEAKING if name in chosen]
    words += [
        f"{name} {plain(settings.get(name))}" for name in settings if name in chosen and name not in SPEAKING
    ]
    return ", ".join(words)


def plain(value: object) -> str:
    """An option's value as text."""
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
