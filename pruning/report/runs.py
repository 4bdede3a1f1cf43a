"""Read the records of runs for a report or a comparison, and compare the options of runs.

Records can be from other machines, so every number in them is checked; NaN and infinity are refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pruning.axes import methods
from pruning.config.options import DENSE_GROUPS, TARGET_OPTIONS, MachineOptions, OutputOptions
from pruning.errors import PruningError
from pruning.experiment import run_files
from pruning.registry import canonical_options

# Options that do not change what a run computes, and the pruning target, which is shown on its own.
NOT_SETTINGS = {*OutputOptions.model_fields, *MachineOptions.model_fields, *TARGET_OPTIONS} - {"precision"}
BASELINE_SCORE = "random"
# Options whose value is clear without the name of the option, in the order in which a label has them.
SELF_EXPLANATORY = ("dataset", "arch", "method", "structure", "schedule", "finetune")


class _RecordPart(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class NetworkMetrics(_RecordPart):
    """Metrics of the dense or the final network; accuracies in percent, sparsity as a fraction."""

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


class LayerRecord(_RecordPart):
    """Weights of one layer in the final network; `pruned` is whether the layer was eligible for pruning."""

    name: str
    weights: int
    nonzero: int
    sparsity: float = Field(ge=0, le=1)
    pruned: bool


class _LatencyRecord(_RecordPart):
    measured_speedup: float = Field(gt=0)


class _BatchSizeRecord(_RecordPart):
    batch_size: int
    networks: dict[str, _LatencyRecord]


class _LatenciesRecord(_RecordPart):
    batches: list[_BatchSizeRecord]


class _ConfigRecord(_RecordPart):
    """The options that a report needs; all others are kept unchecked."""

    dataset: str
    arch: str
    method: str
    seed: int
    rounds: int = 1


class _NumericTarget(_RecordPart):
    value: float = Field(ge=0)


class _LayerTarget(_RecordPart):
    value: str


class RunRecord(_RecordPart):
    """The content of result.json."""

    name: str
    config: dict[str, Any]
    environment: dict[str, Any]
    dense: NetworkMetrics
    final: NetworkMetrics
    layers: list[LayerRecord]
    timing: dict[str, float]
    warnings: list[str]
    measured: _LatenciesRecord | None = None


@dataclass(frozen=True, order=True)
class Target:
    """The requested amount of pruning; `kind` is the option (sparsity, compression, count, ...)."""

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
class CompletedRun:
    """A complete run: its folder, its record, and the name of its method (see `unify_method_names`)."""

    path: Path
    record: RunRecord
    method: str

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def seed(self) -> int:
        return int(self.record.config["seed"])

    @property
    def dense(self) -> NetworkMetrics:
        return self.record.dense

    @property
    def final(self) -> NetworkMetrics:
        return self.record.final

    @cached_property
    def target(self) -> Target:
        config = self.record.config
        kind = next(kind for kind in TARGET_OPTIONS if config.get(kind) is not None)
        return Target(kind, config[kind])

    @cached_property
    def task(self) -> tuple[str, str]:
        """Data set and architecture; a folder of images also has its path."""
        config = self.record.config
        path = f" {config.get('data')}" if config["dataset"] == "folder" else ""
        return config["dataset"] + path, config["arch"]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Every option that determines the result, without the seed and the pruning target."""
        config = self.record.config
        settings = canonical_options({name: config[name] for name in config if name not in NOT_SETTINGS})
        if config["dataset"] != "folder":
            settings.pop("data", None)
        return {**settings, "method": self.method}

    @cached_property
    def dense_settings(self) -> dict[str, Any]:
        """The settings that determine the dense network."""
        names = {name for group in DENSE_GROUPS for name in group.model_fields}
        return {name: value for name, value in self.settings.items() if name in names}

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Hardware and versions as one flat mapping with keys such as `packages.torch`."""
        flat: dict[str, Any] = {}
        for name, value in self.record.environment.items():
            inner = value.items() if isinstance(value, Mapping) else [("", value)]
            flat |= {f"{name}.{key}" if key else name: one for key, one in inner}
        return flat

    @cached_property
    def measured_speedups(self) -> dict[str, float]:
        """Latency of the dense network / latency, by network and batch size (`pruned, batch 64`)."""
        if self.record.measured is None:
            return {}
        return {
            f"{network}, batch {batch.batch_size}": latency.measured_speedup
            for batch in self.record.measured.batches
            for network, latency in list(batch.networks.items())[1:]  # the first one is the dense network
        }


def canonical_method(name: str) -> str:
    """Return one name for all names of a method (`random` for global_random); an unknown name is returned as it is."""
    try:
        parts = methods.split(name)
    except PruningError:
        return name
    return {parts: name for name, parts in methods.composed().items()}[parts]


def is_random_baseline(method: str) -> bool:
    """Return whether a method prunes at random."""
    parts = methods.composed().get(method)
    return parts is not None and parts[1] == BASELINE_SCORE


def read_runs(folders: Sequence[Path]) -> list[CompletedRun]:
    """Read every complete run in these folders and below, each once.

    Raises:
        PruningError: a folder is missing or has no complete run, or a record is damaged.
    """
    found: dict[Path, CompletedRun] = {}
    for folder in folders:
        if not folder.is_dir():
            raise PruningError(f"{folder}: no such folder. Give folders that contain complete runs.")
        runs = run_files.complete_runs(folder)
        if not runs:
            raise PruningError(
                f"{folder} has no complete run (dry runs do not count). Give a folder of complete runs."
            )
        found |= {run.path.resolve(): read_run(run) for run in runs}
    return unify_method_names(list(found.values()))


def read_run(folder: run_files.RunFolder) -> CompletedRun:
    """Read and check one record. PruningError, with the field, if it is not a valid record of a complete run."""
    result = folder.read_result()
    if result is None:
        raise PruningError(f"{folder.path} has no complete run.")
    try:
        record = RunRecord.model_validate(result)
        config = _ConfigRecord.model_validate(
            {name: record.config[name] for name in _ConfigRecord.model_fields if name in record.config}
        )
        targets = {kind: value for kind in TARGET_OPTIONS if (value := record.config.get(kind)) is not None}
        for kind, value in targets.items():
            (_LayerTarget if kind == "layer_sparsity" else _NumericTarget)(value=value)
        json.dumps(result, allow_nan=False)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise PruningError(f"{folder.result} is not a valid record: {field}: {first['msg']}.") from None
    except ValueError:
        raise PruningError(f"{folder.result} is not a valid record: it contains NaN or infinity.") from None
    if not targets:
        raise PruningError(
            f"{folder.result} is not a valid record: config has no {' or '.join(TARGET_OPTIONS)}."
        )
    return CompletedRun(folder.path, record, config.method)


def unify_method_names(runs: Sequence[CompletedRun]) -> list[CompletedRun]:
    """Give each method one name: that of the records, or the canonical name if the records use several.

    So a report calls a method as the user did (`global_snip` or `snip`), but never by two names.
    """
    spellings: dict[str, set[str]] = {}
    for run in runs:
        spellings.setdefault(canonical_method(run.method), set()).add(run.method)
    several = {name for name, found in spellings.items() if len(found) > 1}
    return [
        replace(run, method=canonical) if (canonical := canonical_method(run.method)) in several else run
        for run in runs
    ]


def drop_repeats(runs: Iterable[CompletedRun]) -> tuple[list[CompletedRun], list[str]]:
    """Return the runs without those that repeat an earlier one (same options and seed), and a warning for each."""
    kept: dict[str, CompletedRun] = {}
    warnings = []
    for run in runs:
        first = kept.setdefault(json_key([run.settings, run.target.kind, run.target.value, run.seed]), run)
        if first is not run:
            warnings.append(f"{run.path} repeats {first.path} (same options, same seed) and is left out.")
    return list(kept.values()), warnings


def json_key(value: Any) -> str:
    """Return a hashable key for a value that JSON can hold, independent of the order of mappings."""
    return json.dumps(value, sort_keys=True)


def differing_fields(mappings: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the fields that differ between the mappings, each with its values in order of appearance."""
    rows = list(mappings)
    names = list(dict.fromkeys(name for row in rows for name in row))
    values = {name: list({json_key(row.get(name)): row.get(name) for row in rows}.values()) for name in names}
    return {name: found for name, found in values.items() if len(found) > 1}


def environment_warnings(runs: Sequence[CompletedRun], where: str) -> list[str]:
    """Return a warning if the runs used different hardware or versions; otherwise none."""
    different = differing_fields(run.environment for run in runs)
    if not different:
        return []
    return [f"{where}: records differ in hardware or versions: {format_fields(different)}."]


def format_fields(fields: Mapping[str, Sequence[Any]]) -> str:
    """Return `name (value, value), name (...)`."""
    return ", ".join(f"{name} ({', '.join(map(format_value, values))})" for name, values in fields.items())


def format_settings(settings: Mapping[str, Any], names: Iterable[str]) -> str:
    """Return the named settings as a label, self-explanatory ones first: `rewind, finetune_lr 0.1`."""
    chosen = set(names)
    parts = [format_value(settings.get(name)) for name in SELF_EXPLANATORY if name in chosen]
    parts += [
        f"{name} {format_value(settings.get(name))}"
        for name in settings
        if name in chosen and name not in SELF_EXPLANATORY
    ]
    return ", ".join(parts)


def format_value(value: object) -> str:
    """Return the value of an option as text."""
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
