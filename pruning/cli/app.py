"""The command line: options -> RunConfig -> experiment. Torch is imported only once there is work for it.

The options of a run are made from the fields of `options.GROUPS`; a new field there is a new option here.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import json
import os
import re
import signal
import sys
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo
from typer.exceptions import TyperException

from pruning.cli import catalogue
from pruning.cli.console import Console
from pruning.cli.signals import Signals
from pruning.config import option_sources, plugins
from pruning.config.options import GROUPS, flag
from pruning.config.resolution import resolve
from pruning.config.run_config import RunConfig
from pruning.errors import InterruptedRunError, PruningError, RunStoppedError
from pruning.experiment import records
from pruning.experiment.events import Event
from pruning.utils.files import write_bytes
from pruning.utils.text import pluralize

SPELLINGS = {
    "max_lr": ("--max-lr", "--max_lr"),
    "save_path": ("--save-path", "--save_path"),
    "prune_classifier": ("--prune-classifier/--keep-classifier",),
}

SWITCH = ""  # what the help shows for the value of a switch: it takes none
METAVARS = {str: "NAME", int: "N", float: "NUMBER", Path: "PATH", list[str]: "PATTERN", bool: SWITCH}

app = typer.Typer(
    add_completion=False,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


# How long OpenMP's threads spin before they sleep. With the default, two runs that share their cores stop one another
# for up to seconds at every parallel loop; on idle cores this costs nothing that could be measured.
SPINS = "20000"


def main() -> None:
    """Run the command line and exit: 0 done, 2 the user's mistake, 129, 130 or 143 interrupted, 1 anything else."""
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    sys.exit(execute(sys.argv[1:]))


def execute(arguments: list[str]) -> int:
    try:
        outcome = app(arguments, standalone_mode=False)
        return outcome if isinstance(outcome, int) else 0
    except (PruningError, TyperException) as error:
        Console().error(_of_typer(error) if isinstance(error, TyperException) else str(error))
        return 2
    except RunStoppedError as error:
        Console().error(str(error))
        return 1
    except InterruptedRunError as error:
        name = signal.Signals(error.signal_number).name
        Console().warning(f"stopped by {name}; everything is saved, and the same command goes on from here.")
        return 128 + error.signal_number
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader of our output went away (`| head`); nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _of_typer(error: TyperException) -> str:
    """What Typer found wrong, in the words of the rest, and with what would be right where it says nothing of that."""
    message = error.format_message()
    unknown_command = re.fullmatch(r"No such command '(.*)'\.", message)
    if unknown_command and unknown_command[1].lower() in ("true", "false", "yes", "no", "on", "off"):
        return f"{message} A switch takes no value: write --pretrained or --no-pretrained, say."
    if unknown_command:
        names = typer.main.get_group(app).commands
        return f"{message} Known: {', '.join(names)}; options begin with --."
    return message


def run(
    context: typer.Context,
    config_file: Path | None,
    resume: Path | None,
    fresh: bool,
    options: dict[str, Any],
) -> None:
    """Train a network, prune it in rounds, fine-tune after each, and leave a record of what that did.

    python main.py --arch my --method global_mag --sparsity 0.9

    The same command again resumes a run that was interrupted, and shows one that is finished.
    """
    if context.invoked_subcommand is not None:
        if options or config_file or resume or fresh:
            raise PruningError(
                f"Options of a run do not go with the command {context.invoked_subcommand!r}; "
                f"its own are given after its name (see `{context.invoked_subcommand} --help`)."
            )
        return
    if resume is not None:
        if config_file is not None:
            raise PruningError("--resume takes the options from the run's folder; leave --config out.")
        place, config_file = records.saved_options(resume)
        options = {**place, **options}
    with option_sources.annotate_option_source(options, config_file):
        config = resolve(options, config_file)
        console = Console(quiet=config.quiet)
        before = None if fresh or config.dry_run else records.finished(config)
        result = _do(config, console, fresh=fresh) if before is None else before
    console.result(result, str(records.folder_of(config).path))
    if before is not None:
        console.note("This run was finished before; --fresh runs it anew.")


def _do(config: RunConfig, console: Console, *, fresh: bool) -> dict[str, Any]:
    with _loading():
        from pruning.experiment.runner import run as experiment

    with _watching(console) as watcher, contextlib.ExitStack() as open_sinks:
        if config.tensorboard:
            from pruning.cli.tensorboard import TensorBoardSink

            curves = open_sinks.enter_context(TensorBoardSink(config, records.folder_of(config).curves))
            watcher = replace(watcher, sinks=(curves.event,))
        return experiment(config, watcher, fresh=fresh)


@contextlib.contextmanager
def _loading() -> Iterator[None]:
    """For imports that bring torch along: none of what they make is garbage, so nobody looks for any in it.

    Python's collector would, several times while they last and once more when the process ends: half a second of every
    run, most of it between the last line and the prompt.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@dataclass(frozen=True)
class Watcher:
    """What watches a run (see `session.Observer`): the terminal shows it, a signal stops it, sinks are told of it."""

    console: Console
    signals: Signals
    sinks: tuple[Callable[[Event], None], ...] = ()

    def event(self, event: Event) -> None:
        self.console.event(event)
        for sink in self.sinks:
            sink(event)

    def progress(self, done: int, total: int) -> None:
        self.console.progress(done, total)

    def check_stop(self) -> None:
        self.signals.check_stop()


@contextlib.contextmanager
def _watching(console: Console) -> Iterator[Watcher]:
    try:
        with Signals() as signals:
            yield Watcher(console, signals)
    finally:
        console.close()


@app.command("list")
def list_choices(
    what: Annotated[str | None, typer.Argument(help=f"One of: {', '.join(catalogue.KINDS)}.")] = None,
    plugin: Annotated[
        Path | None, typer.Option(help="Python file that registers choices of your own.")
    ] = None,
) -> None:
    """Show what there is to choose from: methods, architectures, data sets, schedules, ..."""
    if plugin is not None:
        plugins.load(plugin)
    console = Console()
    for kind in catalogue.KINDS if what is None else [catalogue.kind(what)]:
        console.table(kind, *catalogue.table(kind))


@app.command()
def verify(run: Annotated[Path, typer.Argument(help="Folder of a complete run.")]) -> int:
    """Check a record: load its network and masks afresh, count, evaluate, compare. Exit code 1 if anything differs."""
    with _loading():
        from pruning.experiment.verification import verify as checks_of

    console = Console()
    with _watching(console) as watcher:
        checks = checks_of(records.folder_at(run), watcher)
    rows = [
        [check.what, check.recorded, check.found, "ok" if check.agrees else "DIFFERS"] for check in checks
    ]
    console.table(str(run), ["", "recorded", "found", ""], rows)
    failed = sum(not check.agrees for check in checks)
    console.note(f"{failed} of {len(checks)} checks failed" if failed else f"all {len(checks)} checks passed")
    return 1 if failed else 0


@app.command()
def measure(
    run: Annotated[Path, typer.Argument(help="Folder of a complete run.")],
    batch_size: Annotated[
        list[int] | None,
        typer.Option(
            "--batch-size", metavar="N", help="Images at once (may be repeated; default: 1 and 64)."
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.01, max=3600, help="Time for each batch size.")
    ] = 2.0,
) -> None:
    """Time a run's pruned network beside the dense one on this machine; and the shrunk one, if filters are removed."""
    with _loading():
        from pruning.experiment.setup import networks_to_time, reopen
        from pruning.measure import latency

    console = Console()
    with _watching(console) as watcher:
        session, _ = reopen(records.folder_at(run), watcher)
        console.latencies(
            latency.compare(networks_to_time(session), session.data.shape, batch_size or (1, 64), seconds)
        )


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a complete run.")],
    to: Annotated[
        str, typer.Option("--to", metavar="FORMAT", help="dense, sparse, shrunk, torch-export or onnx.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where to (default: in the run's folder).")
    ] = None,
) -> None:
    """Write a run's network to a file, read it back and compare it with the run's on all test images."""
    with _loading():
        from pruning.experiment.setup import reopen
        from pruning.measure import export as exports

    console = Console()
    with _watching(console) as watcher:
        session, _ = reopen(records.folder_at(run), watcher)
        path = session.folder.keeps_from(out or session.folder.export(to))
        images = session.data.test.batches(session.config.test_batch_size)
        written = exports.export(session.model, to, path, images, session.masks)
    console.exported(written)


@app.command()
def bench(
    quick: Annotated[
        bool,
        typer.Option("--quick", metavar=SWITCH, help="End within a minute: fewer turns of smaller jobs."),
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the numbers to this file.")
    ] = None,
) -> None:
    """Time the pruning step, training and start-up beside the usual way of doing each, on this machine."""
    import torch

    from pruning.measure.bench import bench as sections
    from pruning.training.machine import environment

    console = Console()
    done = []
    for section in sections(quick=quick, tell=console.note):
        console.timings(section)
        done.append(asdict(section))
    if json_file is not None:
        record = {"environment": environment(torch.device("cpu")), "quick": quick, "sections": done}
        write_bytes(json_file, json.dumps(record, indent=2).encode())


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="YAML file of the grid (see configs/).")],
    plan: Annotated[
        bool, typer.Option("--plan", metavar=SWITCH, help="Only say what there is to do.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(help="Runs at once on the processor, whose cores they divide (default: one a core)."),
    ] = None,
    gpus: Annotated[
        str | None, typer.Option(metavar="0,1", help="GPUs to use (default: all, if there are any).")
    ] = None,
    jobs_per_gpu: Annotated[int | None, typer.Option(help="Runs at once on each GPU (default: 1).")] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="3/10", help="Do only this part of the grid, in a job array, say.")
    ] = None,
    retry: Annotated[
        bool, typer.Option("--retry", metavar=SWITCH, help="Do again what failed before.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="An option for all runs (may be repeated)."),
    ] = None,
    runs_dir: Annotated[
        Path, typer.Option("--runs-dir", metavar="DIR", help="Folder that holds the records.")
    ] = Path("runs"),
) -> int:
    """Do every run of a grid, each as a process; stopped and started again it goes on. Exit code 1 if a run failed.

    python main.py sweep configs/quick.yaml
    """
    from pruning import sweep as sweeps
    from pruning.cli.sweep_console import SweepConsole

    with Signals() as signals, contextlib.closing(SweepConsole(signals)) as console:
        whole, slots = sweeps.plan_sweep(
            file, settings or (), runs_dir, jobs=jobs, gpus=gpus, jobs_per_gpu=jobs_per_gpu
        )
        part = whole if shard is None else whole.shard(*sweeps.parse_shard(shard))
        console.show_plan(file, part, slots, whole)
        if plan:
            return 0
        state = sweeps.run_sweep(part, slots, console, retry=retry)
        console.show_summary(state)
    return 1 if state.failed else 0


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders that hold complete runs, at any depth.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the report.")] = Path(
        "report"
    ),
) -> None:
    """Write a report on complete runs: one HTML page, figures, CSV and JSON, tables for papers."""
    from pruning import report as reports

    console = Console()
    written = reports.write_report(folders, out)
    for warning in written.warnings:
        console.warning(warning)
    runs, points = pluralize(written.runs, "run"), pluralize(written.points, "point")
    console.note(f"{runs} at {points}: {written.page}")


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A method, a folder of runs, or a pattern of names.")],
    b: Annotated[str, typer.Argument(metavar="B", help="What to compare it with.")],
    runs_dir: Annotated[
        Path, typer.Option("--runs-dir", metavar="DIR", help="Folder that holds the records.")
    ] = Path("runs"),
) -> None:
    """Tell whether A is better than B by more than the noise between seeds. Paired by seed, everything else equal."""
    from pruning import report as reports

    console = Console()
    comparison = reports.compare(reports.select_runs(a, runs_dir), reports.select_runs(b, runs_dir))
    console.table(*reports.comparison_table(comparison))
    for warning in comparison.warnings:
        console.warning(warning)
    for note in reports.comparison_notes(comparison):
        console.note(note)


def _run_command() -> Callable[..., None]:
    """The callback of the bare command: one parameter for each field of RunConfig, handed to `run` as given."""

    def command(context: typer.Context, **given: Any) -> None:
        own = {name: given.pop(name) for name in ("config_file", "resume", "fresh")}
        options = {name: value for name, value in given.items() if value not in (None, [])}
        run(context, options=options, **own)

    panel = "This call"
    own = {
        "config_file": Annotated[
            Path | None,
            typer.Option("--config", help="YAML file with options of the same names.", rich_help_panel=panel),
        ],
        "resume": Annotated[
            Path | None,
            typer.Option("--resume", help="Continue the run in this folder.", rich_help_panel=panel),
        ],
        "fresh": Annotated[
            bool,
            typer.Option(
                "--fresh", metavar=SWITCH, help="Run anew, dense training included.", rich_help_panel=panel
            ),
        ],
    }
    hints: dict[str, Any] = {"context": typer.Context}
    hints |= {
        name: _annotation(name, field, part.__doc__ or "")
        for part in GROUPS
        for name, field in part.model_fields.items()
    }
    hints |= own
    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY if name != "context" else inspect.Parameter.POSITIONAL_OR_KEYWORD,
            annotation=hint,
            default=inspect.Parameter.empty if name == "context" else (False if name == "fresh" else None),
        )
        for name, hint in hints.items()
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = hints
    command.__doc__ = run.__doc__
    return command


def _annotation(name: str, field: FieldInfo, panel: str) -> Any:
    """A field as Typer wants it: its type, None when it is not given, and the help."""
    kind = _plain_type(field.annotation)
    switch = (f"{flag(name)}/--no-{name.replace('_', '-')}",)
    spelling = SPELLINGS.get(name) or (switch if kind is bool else (flag(name),))
    # Numbers arrive as text: RunConfig reads them, and so all wrong values are refused in the same words.
    given = kind if kind in (bool, Path, list[str]) else str
    shown = "" if field.default in (None, ()) or kind is bool else f" (default: {field.default})"
    return Annotated[
        given | None,
        typer.Option(
            *spelling,
            metavar=METAVARS[kind],
            help=f"{(field.description or '').rstrip('.')}{shown}.",
            show_default=False,
            rich_help_panel=panel,
        ),
    ]


def _plain_type(annotation: Any) -> Any:
    """int for `int | None`, str for a Literal, list[str] for a tuple of strings."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        annotation = next(kind for kind in typing.get_args(annotation) if kind is not type(None))
    if typing.get_origin(annotation) is typing.Literal:
        return str
    return list[str] if typing.get_origin(annotation) is tuple else annotation


app.callback()(_run_command())
