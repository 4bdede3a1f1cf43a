"""How a configuration comes to be: command line over YAML file over defaults, and one sentence for what is wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pruning.config import plugins
from pruning.config.options import TARGET_OPTIONS, flag
from pruning.config.run_config import RunConfig, replays_training
from pruning.errors import PruningError
from pruning.registry import unknown
from pruning.utils.yaml_files import read_yaml


def resolve(options: Mapping[str, Any], file: Path | None = None, *, recorded: bool = False) -> RunConfig:
    """The configuration of a run: `options` (command line) over the YAML `file` over the defaults.

    Of a `recorded` run the images and weights that it began with need not be there any more.

    Raises PruningError, in one sentence, for a value that is not possible.
    """
    base = _left_standing(read_yaml(file), options) if file is not None else {}
    values = {**base, **options}
    for name in values:
        if name not in RunConfig.model_fields:
            raise _in_file(file, unknown("option", name, RunConfig.model_fields))
    if values.get("plugin") is not None:
        plugins.load(Path(str(values["plugin"])))
    try:
        config = RunConfig.model_validate(values, context="recorded" if recorded else None)
        return _dry(config) if config.dry_run else config
    except ValidationError as error:
        raise _sentence(error, file if set(base) - set(options) else None, options) from None


def differences(saved: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """What was saved and what is asked for, of every option and other fact in which they differ."""
    names = sorted(set(saved) | set(asked))
    return [
        f"{_told(name)} was {saved.get(name)!r}, now {asked.get(name)!r}"
        for name in names
        if saved.get(name) != asked.get(name)
    ]


def _told(name: str) -> str:
    return flag(name) if name in RunConfig.model_fields else name.replace("_", " ")


def _left_standing(values: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The file's values, less those that follow from what `options` say anew."""
    outdated: set[str] = set()
    if any(options.get(name) is not None for name in TARGET_OPTIONS):
        outdated |= set(TARGET_OPTIONS)
    if "schedule" in options and "rounds" not in options:
        outdated.add("rounds")
    replays = replays_training({**values, **options}.get("finetune"))
    if replays and {"finetune", "epochs", "rewind_epoch"} & options.keys():
        outdated |= {"finetune_epochs", "finetune_lr"}
    return {name: value for name, value in values.items() if name not in outdated}


def _dry(config: RunConfig) -> RunConfig:
    """The same run, but one epoch where there are more, and small batches to evaluate."""
    epochs = min(config.epochs, 1)
    replays = replays_training(config.finetune)
    rewind_epoch = min(config.rewind_epoch, 0 if replays else epochs)
    fewer = {
        "epochs": epochs,
        "rewind_epoch": rewind_epoch,
        "finetune_epochs": epochs if replays else min(config.finetune_epochs, 1),
        "prune_every": None,
        "prune_until": None,
        "test_batch_size": min(config.test_batch_size, config.batch_size),
    }
    return config.model_copy(update=fewer)


def _in_file(file: Path | None, error: PruningError) -> PruningError:
    return error if file is None else PruningError(f"{file}: {error}")


def in_plain_words(message: str) -> str:
    """pydantic's complaint about a number without what only programmers know."""
    message = re.sub(r", unable to parse string as an? \w+", "", message)
    return message.replace("a valid integer", "a whole number").replace("a valid number", "a number")


def _sentence(error: ValidationError, file: Path | None, options: Mapping[str, Any]) -> PruningError:
    """pydantic's first complaint as one sentence that names option, value and bound."""
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0])
    message = in_plain_words(first["msg"]).removeprefix("Input ").removeprefix("Value error, ")
    about = RunConfig.model_fields[name].description or ""
    meaning = about.split(" (default")[0].rstrip(".")
    where = f"{file}: " if file is not None and name not in options else ""
    given = str(first["input"])
    if not given or not given.isprintable():
        given = repr(given)
    return PruningError(f"{where}{flag(name)} {given}: {message} ({meaning[0].lower()}{meaning[1:]}).")
