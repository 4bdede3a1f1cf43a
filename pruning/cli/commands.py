"""The commands besides the bare one. A function's parameters are its command's options, so `sweep` has nine."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pruning.cli import catalogue
from pruning.cli.console import Console
from pruning.cli.measurement_tables import show_export, show_latencies, show_timings
from pruning.cli.observer import observe
from pruning.cli.run_options import NO_VALUE
from pruning.cli.signals import Signals
from pruning.cli.startup import without_garbage_collection
from pruning.cli.terminal import Terminal
from pruning.config import plugins
from pruning.experiment import records
from pruning.utils.files import write_bytes_atomic
from pruning.utils.text import pluralize

RunFolder = Annotated[Path, typer.Argument(help="Folder of a complete run.")]
RunsDir = Annotated[Path, typer.Option("--runs-dir", metavar="DIR", help="Folder of all runs.")]
DEFAULT_RUNS_DIR = Path("runs")


def list_choices(
    what: Annotated[str | None, typer.Argument(help=f"One of: {', '.join(catalogue.TABLES)}.")] = None,
    plugin: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Python file that registers your own choices.")
    ] = None,
) -> None:
    """List the choices of an option: methods, architectures, data sets, schedules, ..."""
    if plugin is not None:
        plugins.load(plugin)
    terminal = Terminal()
    for name in catalogue.TABLES if what is None else [what]:
        terminal.table(name, *catalogue.table(name))


def verify(run: RunFolder) -> int:
    """Check a run: reload its network and masks, count and evaluate again, compare. Exit code 1 on a difference."""
    with without_garbage_collection():
        from pruning.experiment.verification import verify as verify_run

    console = Console()
    with observe(console) as observer:
        checks = verify_run(records.folder_at(run), observer)
    rows = [
        [check.what, check.recorded, check.found, "ok" if check.agrees else "DIFFERS"] for check in checks
    ]
    console.table(str(run), ["", "recorded", "found", ""], rows)
    failed = sum(not check.agrees for check in checks)
    console.note(f"{failed} of {len(checks)} checks failed" if failed else f"all {len(checks)} checks passed")
    return 1 if failed else 0


def measure(
    run: RunFolder,
    batch_size: Annotated[
        list[int] | None,
        typer.Option(
            "--batch-size", metavar="N", help="Images per batch (may be repeated; default: 1 and 64)."
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.01, max=3600, help="Seconds per batch size.")
    ] = 2.0,
) -> None:
    """Measure the latency of a run's dense, pruned and, if filters were removed, shrunk network on this machine."""
    with without_garbage_collection():
        from pruning.experiment.networks import networks_to_time
        from pruning.experiment.reopen import reopen
        from pruning.measure import latency

    console = Console()
    with observe(console) as observer:
        session, _ = reopen(records.folder_at(run), observer)
        measured = latency.compare(
            networks_to_time(session), session.data.shape, batch_size or (1, 64), seconds
        )
        show_latencies(console, measured)


def export(
    run: RunFolder,
    to: Annotated[
        str, typer.Option("--to", metavar="FORMAT", help="dense, sparse, shrunk, torch-export or onnx.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="File (default: in the run's folder).")
    ] = None,
) -> None:
    """Write a run's network to a file, read it back and compare it with the run's network on all test images."""
    with without_garbage_collection():
        from pruning.experiment.reopen import reopen
        from pruning.measure import export as exports

    console = Console()
    with observe(console) as observer:
        session, _ = reopen(records.folder_at(run), observer)
        path = session.folder.keeps_from(out or session.folder.export(to))
        images = session.data.test.batches(session.config.test_batch_size)
        exported = exports.export(session.model, to, path, images, session.masks)
    show_export(console, exported)


def bench(
    quick: Annotated[
        bool, typer.Option("--quick", metavar=NO_VALUE, help="Fewer repetitions of smaller jobs: one minute.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the numbers to this file.")
    ] = None,
) -> None:
    """Benchmark the pruning step, training, a shrunk network and start-up against NumPy, PyTorch and DataLoader
    baselines.
    """
    import torch

    from pruning.measure.bench import run_benchmarks
    from pruning.measure.environment import environment

    terminal = Terminal()
    done = []
    for section in run_benchmarks(quick=quick, note=terminal.note):
        show_timings(terminal, section)
        done.append(asdict(section))
    if json_file is not None:
        record = {"environment": environment(torch.device("cpu")), "quick": quick, "sections": done}
        write_bytes_atomic(json_file, json.dumps(record, indent=2).encode())


def sweep(
    file: Annotated[Path, typer.Argument(help="YAML file of the grid (see configs/).")],
    plan: Annotated[
        bool, typer.Option("--plan", metavar=NO_VALUE, help="Only show the runs and their cost.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Parallel runs on the CPU, which share its cores (default: one per core)."
        ),
    ] = None,
    gpus: Annotated[str | None, typer.Option(metavar="0,1", help="GPUs to use (default: all).")] = None,
    jobs_per_gpu: Annotated[
        int | None, typer.Option(metavar="N", help="Parallel runs on each GPU (default: 1).")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="3/10", help="Compute this part of the grid only, for job arrays.")
    ] = None,
    retry: Annotated[
        bool, typer.Option("--retry", metavar=NO_VALUE, help="Repeat runs that failed before.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="An option for all runs (may be repeated)."),
    ] = None,
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
) -> int:
    """Run every combination of a grid, each in its own process. Exit code 1 if a run failed.

    python main.py sweep configs/quick.yaml

    Run the same command again to resume.
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


def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders that hold complete runs, at any depth.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the report.")] = Path(
        "report"
    ),
) -> None:
    """Write a report on complete runs: an HTML page, figures, CSV, JSON and LaTeX tables."""
    from pruning import report as reports

    terminal = Terminal()
    written = reports.write_report(folders, out)
    for warning in written.warnings:
        terminal.warning(warning)
    runs, points = pluralize(written.runs, "run"), pluralize(written.points, "point")
    terminal.note(f"{runs} at {points}: {written.page}")


def compare(
    a: Annotated[
        str, typer.Argument(metavar="A", help="A method, a folder of runs, or a pattern of run names.")
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="The method, folder or pattern to compare A with.")],
    runs_dir: RunsDir = DEFAULT_RUNS_DIR,
) -> None:
    """Compare two methods or sets of runs with a paired t-interval over seeds."""
    from pruning import report as reports

    terminal = Terminal()
    comparison = reports.compare(reports.select_runs(a, runs_dir), reports.select_runs(b, runs_dir))
    terminal.table(*reports.comparison_table(comparison))
    for warning in comparison.warnings:
        terminal.warning(warning)
    for note in reports.comparison_notes(comparison):
        terminal.note(note)
