"""Resolve a configuration: command line over YAML over defaults, then the checks. `resolve` is the whole sequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pruning.axes.allocation import DEFAULT_SPARSITY
from pruning.axes.structure import fixed_sparsity
from pruning.config import checks, plugins
from pruning.config.messages import describe_invalid_value
from pruning.config.options import TARGET_OPTIONS, flag
from pruning.config.run_config import LATER_OPTIONS, RunConfig
from pruning.errors import PruningError
from pruning.registry import FINETUNINGS, SCHEDULES, canonical_options, unknown
from pruning.utils.yaml_files import read_yaml

DEFAULT_FINETUNE_LR = 0.05


def resolve(options: Mapping[str, Any], file: Path | None = None, *, recorded: bool = False) -> RunConfig:
    """Return the configuration of a run: `options` (command line) over the YAML `file` over the defaults.

    For a `recorded` run, the images and weights that it started from may be missing.

    Raises:
        PruningError: an option is unknown, has an impossible value or conflicts with another one.
    """
    given = merge(options, file)
    load_plugin(given)
    config = parse(given, options, file)
    config = fill_defaults(config)
    checks.check(config, recorded=recorded)
    return shorten(config) if config.dry_run else config


# --- merge ------------------------------------------------------------------------------------------------------


def merge(options: Mapping[str, Any], file: Path | None) -> dict[str, Any]:
    """Return the given options: the command line's over the file's. PruningError if a name is unknown.

    Old names of choices are replaced by the present ones. A None where the default depends on other options is the
    same as no value.
    """
    values = {} if file is None else _without_outdated(read_yaml(file), options)
    values |= options
    for name in values:
        if name not in RunConfig.model_fields:
            where = "" if file is None else f"{file}: "
            raise PruningError(f"{where}{unknown('option', name, RunConfig.model_fields)}")
    given = {name: value for name, value in values.items() if value is not None or name not in DEFAULTS}
    return canonical_options(given)


def _without_outdated(values: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Remove the file's values that depended on options which the command line replaces.

    A run's own config.yaml holds every option, defaults included.
    """
    outdated: set[str] = set()
    if any(options.get(name) is not None for name in TARGET_OPTIONS):
        outdated |= set(TARGET_OPTIONS)
    if "schedule" in options and "rounds" not in options:
        outdated.add("rounds")
    policy = FINETUNINGS.entries().get(FINETUNINGS.canonical(str({**values, **options}.get("finetune"))))
    replays = policy is not None and policy.spec.replays_dense_training
    if replays and {"finetune", "epochs", "rewind_epoch"} & options.keys():
        outdated |= {"finetune_epochs", "finetune_lr"}
    return {name: value for name, value in values.items() if name not in outdated}


def load_plugin(given: Mapping[str, Any]) -> None:
    """Load --plugin, so that the other options can name what it registers."""
    if given.get("plugin") is not None:
        plugins.load(Path(str(given["plugin"])))


# --- types, bounds and names ------------------------------------------------------------------------------------


def parse(given: Mapping[str, Any], options: Mapping[str, Any], file: Path | None) -> RunConfig:
    """Convert the given values to the types of their options.

    PruningError if a value or a name is impossible; it names the file if the value is not among `options`.
    """
    try:
        config = RunConfig.model_validate(given)
    except ValidationError as error:
        name, message = describe_invalid_value(error)
        where = "" if file is None or name in options else f"{file}: "
        raise PruningError(f"{where}{message}") from None
    checks.check_names(config)
    return config


# --- defaults that depend on other options ----------------------------------------------------------------------


def fill_defaults(config: RunConfig) -> RunConfig:
    """Set the options that were not given and whose default depends on others."""
    given = config.model_fields_set
    for name, default in DEFAULTS.items():
        if name not in given:
            config = config.model_copy(update={name: default(config)})
    return config


def default_dataset(config: RunConfig) -> str:
    """`folder` for --data alone."""
    return config.dataset if config.data is None else "folder"


def default_schedule(config: RunConfig) -> str:
    """The search for --max-drop."""
    return config.schedule if config.max_drop is None else "until"


def default_sparsity(config: RunConfig) -> float | None:
    """The fixed sparsity of an N:M structure, else 0.9; none where another option sets the target."""
    if any(getattr(config, name) is not None for name in TARGET_OPTIONS):
        return None
    fixed = fixed_sparsity(config.structure)
    return DEFAULT_SPARSITY if fixed is None else fixed


def default_rounds(config: RunConfig) -> int:
    """1 for a structure of fixed sparsity, else what the schedule prescribes or usually has."""
    if fixed_sparsity(config.structure) is not None:
        return 1
    spec = SCHEDULES.entry(config.schedule).spec
    return spec.rounds or spec.default_rounds or config.rounds


def default_finetune_epochs(config: RunConfig) -> int:
    """The rest of the dense training for policies that replay it."""
    return config.epochs - config.rewind_epoch if config.replays_training else config.finetune_epochs


def default_finetune_lr(config: RunConfig) -> float | None:
    """None for policies that replay the dense training with its learning rates."""
    return None if config.replays_training else DEFAULT_FINETUNE_LR


# In this order: a default may depend on those before it.
DEFAULTS: dict[str, Callable[[RunConfig], Any]] = {
    "dataset": default_dataset,
    "schedule": default_schedule,
    "sparsity": default_sparsity,
    "rounds": default_rounds,
    "finetune_epochs": default_finetune_epochs,
    "finetune_lr": default_finetune_lr,
}


# --- dry run ----------------------------------------------------------------------------------------------------


def shorten(config: RunConfig) -> RunConfig:
    """Return the dry run of a configuration: at most one epoch per training, small evaluation batches."""
    epochs = min(config.epochs, 1)
    rewind_epoch = min(config.rewind_epoch, 0 if config.replays_training else epochs)
    return config.model_copy(
        update={
            "epochs": epochs,
            "rewind_epoch": rewind_epoch,
            "finetune_epochs": epochs if config.replays_training else min(config.finetune_epochs, 1),
            "prune_every": None,
            "prune_until": None,
            "test_batch_size": min(config.test_batch_size, config.batch_size),
        }
    )


# --- comparison -------------------------------------------------------------------------------------------------


def differences(saved: Mapping[str, Any], requested: Mapping[str, Any]) -> list[str]:
    """Describe every option, or other value, that differs between a saved and a requested run."""
    saved, requested = {**LATER_OPTIONS, **saved}, {**LATER_OPTIONS, **requested}
    return [
        f"{_label(name)} was {saved.get(name)!r}, now {requested.get(name)!r}"
        for name in sorted(saved.keys() | requested.keys())
        if saved.get(name) != requested.get(name)
    ]


def _label(name: str) -> str:
    return flag(name) if name in RunConfig.model_fields else name.replace("_", " ")
