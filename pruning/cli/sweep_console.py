"""Terminal output of a sweep: the plan, a live table, a line for every run that ends, a summary.

In a file, the same as plain lines without the live table.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pruning.cli.result_tables import BAR_WIDTH
from pruning.cli.signals import Signals
from pruning.cli.terminal import Terminal
from pruning.sweep.grid import distinguishing_options
from pruning.sweep.plan import (
    PlannedRun,
    SweepPlan,
    cost_with_sharing,
    cost_without_sharing,
    count_trajectories,
    epochs_per_run,
)
from pruning.sweep.progress import estimate_seconds_left
from pruning.sweep.runner import Failure, SweepState
from pruning.sweep.slots import Slots
from pruning.sweep.summary import summary_table
from pruning.utils.text import format_duration, pluralize

REFRESH_INTERVAL = 0.5  # seconds, of the live table
MAX_LOGS = 5  # failures shown with the end of their log
MAX_ROWS = 20  # running runs in the live table


class SweepConsole(Terminal):
    """Shows a sweep; the observer of `sweep.runner.run_sweep`."""

    def __init__(self, signals: Signals) -> None:
        super().__init__()
        self._signals = signals
        self._live: Live | None = None
        self._columns: list[str] = []
        self._last_refresh = 0.0

    # --- before the first run ---------------------------------------------------------------------------------------

    def show_plan(self, file: Path, plan: SweepPlan, slots: Slots, whole: SweepPlan) -> None:
        """Show the runs and their cost. `whole` is the plan that `plan` is a shard of, or `plan` itself."""
        runs, failed = plan.runs, len(plan.failed())
        shard = "" if whole is plan else f" (a shard of {len(whole.runs):,})"
        finished = f"{len(plan.records)} finished" + (f", {failed} failed before" if failed else "")
        lines = [("sweep", f"{file}: {pluralize(len(runs), 'run')}{shard}; {finished}")]
        if runs:
            lines += [("records", str(runs[0].config.runs_dir)), ("at once", _describe_slots(slots, runs))]
        for name, text in lines:
            self._out.print(Text.assemble((f"{name:<10}", "bold"), text), soft_wrap=True)
        self._out.print()
        self._out.print(_cost_table(plan))
        trajectories = pluralize(count_trajectories(runs), "trajectory", "trajectories")
        self.note(f"{trajectories}; {_time_left(plan, slots)}\n")

    # --- while runs are computed ------------------------------------------------------------------------------------

    def check_stop(self) -> None:
        self._signals.check_stop()

    def on_forced_exit(self, action: Callable[[], None]) -> None:
        def close_and_act() -> None:
            self.close()
            action()

        self._signals.at_once = close_and_act

    def update(self, state: SweepState) -> None:
        now = time.monotonic()
        if not self._out.is_terminal or now - self._last_refresh < REFRESH_INTERVAL:
            return
        self._last_refresh = now
        if self._live is None:
            self._columns = distinguishing_options([run.choices for run in state.plan.runs])
            self._live = Live(console=self._out, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(
            Group("", _overall_progress(state), "", _running_table(state, self._columns)), refresh=True
        )

    def run_ended(self, state: SweepState, run: PlannedRun) -> None:
        ended, total = len(state.done) + len(state.failed), len(state.plan.runs)
        count = f"{ended:>{len(str(total))}}/{total}"
        seconds = state.seconds.get(run.name)
        duration = " (by another process)" if seconds is None else f", {format_duration(seconds)}"
        if run.name in state.done:
            final = state.done[run.name]["final"]
            ratio = final["compression_ratio"]
            at_ratio = "" if ratio is None else f" at {ratio:.2f}x"
            self._line(f"{count}  {run.label}: top-1 {final['top1']:.2f} %{at_ratio}{duration}")
        elif run.name in state.failed:
            reason = _describe_exit(state.failed[run.name])
            self._line(f"{count}  {run.label}: failed ({reason})", style="red")
        else:
            self._line(f"{'':{len(count)}}  {run.label}: another process computes it", style="yellow")

    def stopping(self, running: int) -> None:
        self.close()
        if running:
            self._line(f"stopping: {pluralize(running, 'run')} saving", style="yellow")

    def close(self) -> None:
        super().close()
        if self._live is not None:
            self._live.stop()
            self._live = None

    # --- after the last run -----------------------------------------------------------------------------------------

    def show_summary(self, state: SweepState) -> None:
        """Show top-1 over seeds, the failed runs with the end of their logs, and the command for a report."""
        self.close()
        runs = state.plan.runs
        has_results = bool(state.done) and not any(run.config.dry_run for run in runs)
        if has_results:
            self._out.print()
            self._show_accuracies(state)
        if state.failed:
            self._show_failures(state)
        now = f", {len(state.seconds)} of them now, in {format_duration(state.elapsed)}"
        self.note(f"\n{len(state.done)} of {pluralize(len(runs), 'run')} done{now if state.seconds else ''}")
        if has_results:
            self.note(f"report: python main.py report {runs[0].config.runs_dir} --out report")

    def _show_accuracies(self, state: SweepState) -> None:
        summary = summary_table(state.plan.runs, state.done)
        table = Table(
            title=summary.title, title_justify="left", box=None, pad_edge=False, header_style="bold"
        )
        for number, column in enumerate(summary.columns):
            table.add_column(column, justify="left" if number < summary.label_columns else "right")
        for row in summary.rows:
            table.add_row(*(Text(cell) for cell in row))
        self._out.print(table)

    def _show_failures(self, state: SweepState) -> None:
        by_name = {run.name: run for run in state.plan.runs}
        self._out.print(Text(f"\n{pluralize(len(state.failed), 'run')} failed", "bold red"))
        for number, (name, failure) in enumerate(state.failed.items()):
            run = by_name[name]
            self._line(f"{run.label}: {_describe_exit(failure)}; {run.files.log}", style="bold")
            if number < MAX_LOGS:
                for line in failure.log_lines:
                    self._line(f"    {line}", style="dim")
        self.note("Compute them again with --retry.")


def _cost_table(plan: SweepPlan) -> Table:
    costs = (
        cost_without_sharing(plan.runs),
        cost_with_sharing(plan.runs),
        cost_with_sharing(plan.unfinished, plan.finished),
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("to compute", "without sharing", "with sharing", "left"):
        table.add_column(column, justify="left" if column == "to compute" else "right")
    for name in ("runs", "dense_trainings", "rounds", "epochs"):
        table.add_row(name.replace("_", " "), *(f"{getattr(cost, name):,}" for cost in costs))
    return table


def _time_left(plan: SweepPlan, slots: Slots) -> str:
    epochs = epochs_per_run(plan.runs)
    endings = {run.name: run.files.read_ending() for run in plan.finished}
    timed = [(epochs[name], end["seconds"]) for name, end in endings.items() if end and end["code"] == 0]
    unfinished = [(epochs[run.name], 1.0) for run in plan.unfinished]
    if not unfinished:
        return "all runs are finished"
    seconds = estimate_seconds_left(timed, unfinished, len(slots))
    if seconds is None:
        return "time unknown before the first run is finished"
    return f"about {format_duration(seconds)} left, estimated from {pluralize(len(timed), 'run')}"


def _overall_progress(state: SweepState) -> Table:
    ended, total = len(state.done) + len(state.failed), len(state.plan.runs)
    elsewhere = f" ({len(state.elsewhere)} in other processes)" if state.elsewhere else ""
    counts = Text.assemble(
        (f"{len(state.done)} done", "green"),
        f", {len(state.running)} running, {len(state.waiting)} waiting{elsewhere}, ",
        (f"{len(state.failed)} failed", "red" if state.failed else ""),
    )
    left = state.seconds_left()
    time_left = "" if left is None else f"about {format_duration(left)} left"
    row = Table.grid(padding=(0, 2))
    row.add_row(ProgressBar(total, ended, width=BAR_WIDTH), f"{100 * ended // total} %", counts, time_left)
    return row


def _running_table(state: SweepState, options: list[str]) -> Group:
    """The running runs with a progress bar each; `options` are the columns that distinguish them."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in options:
        table.add_column(name, overflow="ellipsis", no_wrap=True)
    for name in ("", "running", "left"):
        table.add_column(name, justify="right" if name == "left" else "left", no_wrap=True)
    processes = list(state.running.values())
    for process in processes[:MAX_ROWS]:
        bar = ProgressBar(1.0, process.progress.fraction, width=BAR_WIDTH)
        choices = [str(process.run.choices.get(name, "")) for name in options]
        left = process.seconds_left
        table.add_row(*choices, bar, process.progress.stage, "" if left is None else format_duration(left))
    more = len(processes) - MAX_ROWS
    return Group(table, *([f"and {more} more"] if more > 0 else []))


def _describe_exit(failure: Failure) -> str:
    if failure.exit_code < 0:
        return f"killed by {signal.Signals(-failure.exit_code).name}"
    return f"exit code {failure.exit_code}"


def _describe_slots(slots: Slots, runs: tuple[PlannedRun, ...]) -> str:
    threads = sorted({run.config.threads or slots.threads for run in runs})
    with_threads = "/".join(map(str, threads)) + (" threads" if threads != [1] else " thread")
    gpus = [gpu for gpu in slots.gpus if gpu is not None]
    on_gpus = f" on GPU {', '.join(sorted(set(gpus)))}" if gpus else ""
    # The number of threads is shown because it changes the last digits of a run's results.
    return (
        f"{pluralize(len(slots), 'run')}{on_gpus}, {with_threads} each (affects the last digits of results)"
    )
