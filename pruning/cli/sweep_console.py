"""What the terminal shows of a sweep: the plan, a live table, a line for every run that ends, a summary.

Into a file the same as plain lines, without the live table.
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

from pruning.cli.console import BAR_WIDTH, Console
from pruning.cli.signals import Signals
from pruning.sweep import plan as plans
from pruning.sweep import progress, summary
from pruning.sweep.grid import distinguishing_options
from pruning.sweep.plan import Plan, Run
from pruning.sweep.slots import Slots
from pruning.sweep.summary import Table as SummaryTable
from pruning.sweep.work import Failure, SweepState
from pruning.utils.text import format_duration, pluralize

REFRESH = 0.5  # seconds between two pictures of the live table
FAILURES_SHOWN = 5  # with the end of their log; of the others only which they are
ROWS_SHOWN = 20  # of running runs


class SweepConsole(Console):
    """Shows a sweep; it is what watches `sweep.work.work`."""

    def __init__(self, signals: Signals) -> None:
        super().__init__()
        self._signals = signals
        self._live: Live | None = None
        self._columns: list[str] = []
        self._shown = 0.0

    # --- before -----------------------------------------------------------------------------------------------------

    def plan(self, file: Path, plan: Plan, slots: Slots, whole: Plan) -> None:
        """What there is to do; `whole` is the plan of which this is a shard, or the same."""
        runs, failed = plan.runs, len(plan.failed())
        part = "" if whole is plan else f" (of {len(whole.runs):,}: a shard)"
        finished = f"{len(plan.finished)} finished" + (f", {failed} failed before" if failed else "")
        lines = [("sweep", f"{file}: {pluralize(len(runs), 'run')}{part}; {finished}")]
        if runs:
            lines += [("records", str(runs[0].config.runs_dir)), ("at once", _slots(slots, runs))]
        for name, text in lines:
            self._out.print(Text.assemble((f"{name:<10}", "bold"), text), soft_wrap=True)
        self._out.print()
        each, shared = plans.costs_alone(runs), plans.costs_shared(runs)
        still = plans.costs_shared(plan.unfinished, plan.done)
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("to compute", "each run alone", "shared", "still to do"):
            table.add_column(column, justify="left" if column == "to compute" else "right")
        for name in ("runs", "dense_trainings", "rounds", "epochs"):
            numbers = (f"{getattr(costs, name):,}" for costs in (each, shared, still))
            table.add_row(name.replace("_", " "), *numbers)
        self._out.print(table)
        self.note(
            f"{pluralize(plans.trajectories(runs), 'trajectory', 'trajectories')}; {self._time(plan, slots)}\n"
        )

    def _time(self, plan: Plan, slots: Slots) -> str:
        epochs = plans.epochs_each(plan.runs)
        endings = {run.name: run.files.read_ending() for run in plan.runs if run.name in plan.finished}
        timed = [(epochs[name], end["seconds"]) for name, end in endings.items() if end and end["code"] == 0]
        waiting = [(epochs[run.name], 1.0) for run in plan.unfinished]
        if not waiting:
            return "nothing left to do"
        seconds = progress.seconds_left(timed, waiting, len(slots))
        if seconds is None:
            return "no run of these was timed yet, so how long it takes is not known"
        return f"about {format_duration(seconds)} left, by the {pluralize(len(timed), 'run')} timed so far"

    # --- meanwhile --------------------------------------------------------------------------------------------------

    def check_stop(self) -> None:
        self._signals.check_stop()

    def when_forced(self, action: Callable[[], None]) -> None:
        def close_and_act() -> None:
            self.close()
            action()

        self._signals.at_once = close_and_act

    def show(self, board: SweepState) -> None:
        now = time.monotonic()
        if not self._out.is_terminal or now - self._shown < REFRESH:
            return
        self._shown = now
        if self._live is None:
            self._columns = distinguishing_options([run.choices for run in board.plan.runs])
            self._live = Live(console=self._out, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(self._picture(board), refresh=True)

    def ended(self, board: SweepState, run: Run) -> None:
        ended, total = len(board.done) + len(board.failed), len(board.plan.runs)
        count = f"{ended:>{len(str(total))}}/{total}"
        seconds = board.seconds.get(run.name)
        took = "" if seconds is None else f", {format_duration(seconds)}"
        if run.name in board.done:
            final = board.done[run.name]["final"]
            where = "" if seconds is not None else " (by another process)"
            ratio = final["compression_ratio"]
            at = "" if ratio is None else f" at {ratio:.2f}x"
            self._line(f"{count}  {run.words}: top-1 {final['top1']:.2f} %{at}{took}{where}")
        elif run.name in board.failed:
            self._line(f"{count}  {run.words}: failed ({_why(board.failed[run.name])})", style="red")
        else:
            self._line(f"{'':{len(count)}}  {run.words}: another process is at it", style="yellow")

    def stopping(self, running: int) -> None:
        self.close()
        if running:
            self._line(f"stopping: {pluralize(running, 'run')} saving", style="yellow")

    def close(self) -> None:
        super().close()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _picture(self, board: SweepState) -> Group:
        ended, total = len(board.done) + len(board.failed), len(board.plan.runs)
        elsewhere = f" ({len(board.elsewhere)} of them with other processes)" if board.elsewhere else ""
        counts = Text.assemble(
            (f"{len(board.done)} done", "green"),
            f", {len(board.running)} running, {len(board.waiting)} waiting{elsewhere}, ",
            (f"{len(board.failed)} failed", "red" if board.failed else ""),
        )
        left = board.seconds_left()
        time_left = "" if left is None else f"about {format_duration(left)} left"
        whole = Table.grid(padding=(0, 2))
        whole.add_row(
            ProgressBar(total, ended, width=BAR_WIDTH), f"{100 * ended // total} %", counts, time_left
        )
        running = Table(box=None, pad_edge=False, header_style="bold")
        for name in self._columns:
            running.add_column(name, overflow="ellipsis", no_wrap=True)
        for name in ("", "running", "left"):
            running.add_column(name, justify="right" if name == "left" else "left", no_wrap=True)
        processes = list(board.running.values())
        for process in processes[:ROWS_SHOWN]:
            bar = ProgressBar(1.0, process.position.fraction, width=BAR_WIDTH)
            chosen = [str(process.run.choices.get(name, "")) for name in self._columns]
            left = process.left
            running.add_row(
                *chosen, bar, process.position.stage, "" if left is None else format_duration(left)
            )
        more = len(processes) - ROWS_SHOWN
        return Group("", whole, "", running, *([f"and {more} more"] if more > 0 else []))

    # --- afterwards -------------------------------------------------------------------------------------------------

    def summary(self, board: SweepState) -> None:
        """What became of the sweep: top-1 over seeds, what failed and why, and what to look at next."""
        self.close()
        runs = board.plan.runs
        if board.done and not any(run.config.dry_run for run in runs):
            self._out.print()
            self._summary_table(summary.table(runs, board.done))
        if board.failed:
            self._failures(board)
        now = f", {len(board.seconds)} of them now, in {format_duration(board.elapsed)}"
        self.note(f"\n{len(board.done)} of {pluralize(len(runs), 'run')} done{now if board.seconds else ''}")
        if board.done and not any(run.config.dry_run for run in runs):
            self.note(f"report: python main.py report {runs[0].config.runs_dir} --out report")

    def _summary_table(self, found: SummaryTable) -> None:
        table = Table(title=found.title, title_justify="left", box=None, pad_edge=False, header_style="bold")
        for number, column in enumerate(found.columns):
            table.add_column(column, justify="left" if number < found.words else "right")
        for row in found.rows:
            table.add_row(*(Text(cell) for cell in row))
        self._out.print(table)

    def _failures(self, board: SweepState) -> None:
        by_name = {run.name: run for run in board.plan.runs}
        self._out.print(Text(f"\n{pluralize(len(board.failed), 'run')} failed", "bold red"))
        for number, (name, failure) in enumerate(board.failed.items()):
            run = by_name[name]
            self._line(f"{run.words}: {_why(failure)}; {run.files.log}", style="bold")
            if number < FAILURES_SHOWN:
                for line in failure.said:
                    self._line(f"    {line}", style="dim")
        self.note("--retry does them again.")


def _why(failure: Failure) -> str:
    if failure.code < 0:
        return f"killed by {signal.Signals(-failure.code).name}"
    return f"exit code {failure.code}"


def _slots(slots: Slots, runs: tuple[Run, ...]) -> str:
    threads = sorted({run.config.threads or slots.threads for run in runs})
    with_threads = "/".join(map(str, threads)) + (" threads" if threads != [1] else " thread")
    gpus = [gpu for gpu in slots.gpus if gpu is not None]
    where = f" on GPU {', '.join(sorted(set(gpus)))}" if gpus else ""
    return f"{pluralize(len(slots), 'run')}{where}, {with_threads} each (part of what determines a run's numbers)"
