"""The command-line options of a run, one for each field of `RunConfig`.

Typer reads options from a function's signature. A run has one option per field of `config.options`, so `run_parameters`
makes a dataclass with one annotated field each and has Typer read that. `RunGroup` adds the result to the bare command
and passes the given values to it as `context.obj`.

A new field needs nothing here: it is listed in its group's later section of the help, unless `FIRST_SECTIONS` has it.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from dataclasses import make_dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo
from typer.core import TyperGroup

from pruning.config.options import GROUPS, Choice, flag
from pruning.config.run_config import RunConfig
from pruning.errors import PruningError
from pruning.registry import unknown

# The options that most users need, in order of use. The bare command's own options are in the last section.
FIRST_SECTIONS: dict[str, tuple[str, ...]] = {
    "Network and data": ("arch", "dataset", "data"),
    "Dense training": ("epochs", "lr", "batch_size"),
    "Pruning": ("method", "sparsity", "compression", "structure", "schedule", "rounds"),
    "Fine-tuning": ("finetune", "finetune_epochs", "finetune_lr"),
    "Run": ("seed", "device", "dry_run"),
}
FLAGS = {"prune_classifier": "--prune-classifier/--keep-classifier"}  # other booleans are --x/--no-x

NO_VALUE = ""  # shown in the help for the value of a boolean
METAVARS = {str: "NAME", int: "N", float: "NUMBER", Path: "PATH", list[str]: "PATTERN", bool: NO_VALUE}


class RunGroup(TyperGroup):
    """The bare command, which has the options of a run and the other commands below it."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        first, rest = run_parameters()
        self.params = [*first, *self.params, *rest]

    def invoke(self, ctx: Any) -> Any:
        """Pass the options of a run that were given as `ctx.obj`, all others as arguments."""
        values = {name: ctx.params.pop(name) for name in RunConfig.model_fields}
        ctx.obj = {name: value for name, value in values.items() if value not in (None, ())}
        return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the first word names. PruningError for an unknown one."""
        word = args[0]
        if word not in self.commands:
            error = unknown("command", word, self.commands)
            if word.lower() in ("true", "false", "yes", "no", "on", "off"):
                raise PruningError(
                    f"{error} A boolean option takes no value: write --pretrained or --no-pretrained."
                )
            raise error
        return super().resolve_command(ctx, args)


def run_parameters() -> tuple[list[Any], list[Any]]:
    """Typer's parameters for the fields of `RunConfig`: those of the first sections, and the rest."""
    fields = [
        (name, option_type(name, RunConfig.model_fields[name], section), None)
        for section, names in sections()
        for name in names
    ]
    reader = typer.Typer(add_completion=False)
    reader.command()(make_dataclass("RunOptions", fields))
    parameters = typer.main.get_command(reader).params
    count = sum(len(names) for names in FIRST_SECTIONS.values())
    return parameters[:count], parameters[count:]


def sections() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Title and options of each section of the help."""
    yield from FIRST_SECTIONS.items()
    shown = {name for names in FIRST_SECTIONS.values() for name in names}
    for group in GROUPS:
        yield (
            f"More options: {group.__doc__}",
            tuple(name for name in group.model_fields if name not in shown),
        )


def option_type(name: str, field: FieldInfo, section: str) -> Any:
    """The annotation from which Typer makes one option; its value is None if it was not given."""
    kind = value_type(field.annotation)
    spelling = FLAGS.get(name, f"{flag(name)}/{flag('no_' + name)}" if kind is bool else flag(name))
    # Numbers stay text here, so that `resolve` refuses wrong ones from the command line and from YAML alike.
    given = kind if kind in (bool, Path, list[str]) else str
    return Annotated[
        given | None,
        typer.Option(
            spelling,
            metavar=METAVARS[kind],
            help=help_text(field),
            show_default=False,
            rich_help_panel=section,
        ),
    ]


def value_type(annotation: Any) -> Any:
    """int for `int | None`, str for a Literal, list[str] for a tuple of strings."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        annotation = next(kind for kind in typing.get_args(annotation) if kind is not type(None))
    if typing.get_origin(annotation) is typing.Literal:
        return str
    return list[str] if typing.get_origin(annotation) is tuple else annotation


def help_text(field: FieldInfo) -> str:
    """The option's description with its choices, where they are few, and its default."""
    text = (field.description or "").rstrip(".")
    choices = (
        list(typing.get_args(field.annotation))
        if typing.get_origin(field.annotation) is typing.Literal
        else []
    )
    for choice in field.metadata:
        if isinstance(choice, Choice) and choice.names is not None:
            choices = choice.names()
    if choices:
        text += f": {', '.join(choices)}"
    has_default = field.default not in (None, ()) and not isinstance(field.default, bool)
    return f"{text} (default: {field.default})." if has_default else f"{text}."
