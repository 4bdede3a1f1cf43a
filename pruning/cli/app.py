"""The command line: `main` runs one command and turns errors into messages and exit codes.

Torch is imported only by the commands that need it, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import os
import signal
import sys

import typer
from typer.exceptions import TyperException

from pruning.cli import commands
from pruning.cli.run_command import run
from pruning.cli.run_options import RunGroup
from pruning.cli.startup import limit_spinning
from pruning.cli.terminal import Terminal
from pruning.errors import InterruptedRunError, PruningError, RunStoppedError


def main() -> None:
    """Run the command line of this process and exit."""
    limit_spinning()
    sys.exit(execute(sys.argv[1:]))


def execute(arguments: list[str]) -> int:
    """Run one command and return its exit code.

    0: success; 1: failure, or a difference found by `verify`; 2: a mistake of the user; 128 + the signal's number
    after a signal.
    """
    try:
        outcome = app(arguments, standalone_mode=False)
        return outcome if isinstance(outcome, int) else 0
    except TyperException as error:
        Terminal().error(error.format_message())
        return 2
    except PruningError as error:
        Terminal().error(str(error))
        return 2
    except RunStoppedError as error:
        Terminal().error(str(error))
        return 1
    except InterruptedRunError as error:
        name = signal.Signals(error.signal_number).name
        Terminal().warning(f"stopped by {name}; everything is saved. Run the same command again to resume.")
        return 128 + error.signal_number
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader of the output has ended (`| head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


app = typer.Typer(
    cls=RunGroup,
    add_completion=False,
    invoke_without_command=True,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda word: word.replace("_", "-"),  # --max_lr is --max-lr
    },
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.callback()(run)
app.command("list")(commands.list_choices)
app.command()(commands.verify)
app.command()(commands.measure)
app.command()(commands.export)
app.command()(commands.bench)
app.command()(commands.sweep)
app.command()(commands.report)
app.command()(commands.compare)
