"""The bare command: run an experiment, resume it, or show the result of a finished one."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Any

import typer

from pruning.cli.console import Console
from pruning.cli.observer import observe
from pruning.cli.run_options import NO_VALUE
from pruning.cli.startup import without_garbage_collection
from pruning.config.option_sources import annotate_option_source
from pruning.config.resolution import resolve
from pruning.config.run_config import RunConfig
from pruning.errors import PruningError
from pruning.experiment import records

SECTION = "Run"


def run(
    context: typer.Context,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="PATH",
            help="YAML file with options of the same names.",
            rich_help_panel=SECTION,
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume", metavar="PATH", help="Resume the run in this folder.", rich_help_panel=SECTION
        ),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh",
            metavar=NO_VALUE,
            help="Replace the run, and repeat its dense training.",
            rich_help_panel=SECTION,
        ),
    ] = False,
) -> None:
    """Train a network, prune it in rounds with fine-tuning, and record the results.

    python main.py --arch my --method global_mag --sparsity 0.9

    Run the same command again to resume an interrupted run or to show a finished one.
    """
    options: dict[str, Any] = context.obj
    if context.invoked_subcommand is not None:
        _refuse_options(context.invoked_subcommand, given=bool(options or config_file or resume or fresh))
        return
    if resume is not None:
        if config_file is not None:
            raise PruningError(
                f"--config {config_file} conflicts with --resume {resume}, which reads the options from the run's "
                "folder. Remove --config."
            )
        location, config_file = records.saved_options(resume)
        options = {**location, **options}
    with annotate_option_source(options, config_file):
        config = resolve(options, config_file)
        console = Console(quiet=config.quiet)
        finished = None if fresh or config.dry_run else records.finished(config)
        result = _run_experiment(config, console, fresh=fresh) if finished is None else finished
    console.result(result, records.folder_of(config).result)
    if finished is not None:
        console.note("This run was already finished; repeat it with --fresh.")


def _refuse_options(command: str, *, given: bool) -> None:
    if given:
        raise PruningError(
            f"Options of a run conflict with the command {command!r}. Give the command's own options after its name "
            f"(see `{command} --help`)."
        )


def _run_experiment(config: RunConfig, console: Console, *, fresh: bool) -> dict[str, Any]:
    with without_garbage_collection():
        from pruning.experiment.runner import run as run_experiment

    with contextlib.ExitStack() as stack:
        sinks = []
        if config.tensorboard:
            from pruning.cli.tensorboard import TensorBoardSink

            sinks.append(stack.enter_context(TensorBoardSink(config, records.folder_of(config).curves)).event)
        observer = stack.enter_context(observe(console, *sinks))
        return run_experiment(config, observer, fresh=fresh)
