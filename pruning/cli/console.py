"""Terminal output of a run: its header, a line per event, a progress bar, and the tables of its result."""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatchmethod
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from pruning.cli import result_tables
from pruning.cli.result_tables import describe_acceptance, format_percent, format_ratio, format_top1
from pruning.cli.terminal import Terminal
from pruning.experiment import events
from pruning.utils.text import pluralize


class Console(Terminal):
    """Terminal output of a run. Each event type has one overload of `event`; other events are only logged."""

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._last_reading = ""

    def progress(self, done: int, total: int) -> None:
        """Set the progress bar of the whole run. There is none if the output is not a terminal."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)

    def close(self) -> None:
        """Remove the progress bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def result(self, result: Mapping[str, Any], path: Path) -> None:
        """Print the record at `path` of a complete run: rounds, dense against pruned, layers, timing."""
        self.close()
        for table in (result_tables.rounds(result), result_tables.dense_against_pruned(result)):
            self._out.print()
            self._out.print(table)
        for note in result_tables.notes(result):
            self._line(note, style="dim")
        self._out.print()
        self._out.print(result_tables.layers(result, self._out.encoding))
        for message in result["warnings"]:
            self.warning(message)
        self._out.print(f"\n{result_tables.timing(result)}", soft_wrap=True)
        self._out.print(Text.assemble("record: ", (str(path), "bold")), soft_wrap=True)

    # --- events -------------------------------------------------------------------------------------------------

    @singledispatchmethod
    def event(self, event: events.Event) -> None:
        """Show an event of a run."""

    @event.register
    def _(self, event: events.RunStarted) -> None:
        for name, text in header(event):
            self._out.print(Text.assemble((f"{name:<10}", "bold"), text), soft_wrap=True)
        self._out.print()
        if self._out.is_terminal and not self._out.quiet:
            self._bar = progress_bar(self._out)
            self._bar.start()
            self._task = self._bar.add_task("", total=event.batches)

    @event.register
    def _(self, event: events.DataReading) -> None:
        # Four lines per kind of file at most, so that the output stays short.
        quarter = f"{event.what} {4 * event.done // max(event.total, 1)}"
        if quarter != self._last_reading:
            self._last_reading = quarter
            self._line(f"{event.what}: {event.done:,} of {event.total:,}", style="dim")

    @event.register
    def _(self, event: events.DenseWaiting) -> None:
        self._line(event.message, style="yellow")

    @event.register
    def _(self, event: events.Resumed) -> None:
        self._line(f"resumed after {pluralize(event.rounds, 'complete round')}", style="yellow")

    @event.register
    def _(self, event: events.RoundsShared) -> None:
        rounds = "round 1" if event.rounds == 1 else f"rounds 1 to {event.rounds}"
        self._line(f"{rounds}: read from the shared rounds of another run", style="dim")

    @event.register
    def _(self, event: events.DenseReady) -> None:
        if event.cached:
            self._line(
                "dense network: read from the cache (trained before with the same options)", style="dim"
            )

    @event.register
    def _(self, event: events.BatchLogged) -> None:
        self._line(
            f"{training_label(event):<12} epoch {event.epoch:>3}  batch {event.batch:>5}/{event.batches}  "
            f"loss {event.loss:.4f}  accuracy {event.accuracy:5.1f} %  lr {event.lr:.4g}",
            style="dim",
        )

    @event.register
    def _(self, event: events.Evaluated) -> None:
        if event.what == "training":
            self._line(
                f"{training_label(event):<12} epoch {event.epoch:>3}  validation   "
                f"loss {event.loss:.4f}  accuracy {event.top1:5.1f} %"
            )
        elif event.what == "dense" and event.split == "test":
            self._line(
                f"dense        test: top-1 {event.top1:.2f} %, top-5 {event.top5:.2f} %, loss {event.loss:.4f}",
                style="bold",
            )

    @event.register
    def _(self, event: events.Pruned) -> None:
        if event.batch is not None:  # a pruning step at the start of a round is in the line of its round
            self._line(
                f"{training_label(event):<12} after {event.batch} batches  "
                f"sparsity {format_percent(event.sparsity)}",
                style="dim",
            )

    @event.register
    def _(self, event: events.RoundFinished) -> None:
        entry = event.entry
        search = ""
        if "held" in entry:
            search = f"  validation {format_top1(entry, 'validation_top1')}, {describe_acceptance(entry)}"
        self._line(
            f"round {entry['round']}      sparsity {format_percent(entry['sparsity'])} "
            f"(target {format_percent(entry['target_sparsity'])})  "
            f"compression {format_ratio(entry['compression_ratio'])}  "
            f"theoretical speedup {format_ratio(entry['theoretical_speedup'])}  "
            f"top-1 {entry['top1_before_finetune']:.2f} -> {format_top1(entry, 'top1')}{search}",
            style="bold green" if entry.get("held", True) else "bold yellow",
        )

    @event.register
    def _(self, event: events.WarningIssued) -> None:
        self.warning(event.message)


def progress_bar(console: RichConsole) -> Progress:
    return Progress(
        TextColumn("whole run"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def training_label(event: events.BatchLogged | events.Evaluated | events.Pruned) -> str:
    """`finetune 2` for the fine-tuning of round 2, else the phase of the dense training."""
    if event.round:
        return f"finetune {event.round}"
    return "" if isinstance(event, events.Pruned) else event.phase or ""


def header(event: events.RunStarted) -> list[tuple[str, str]]:
    """Names and texts of the lines that describe a run before its first step."""
    config, images = event.config, event.images
    peak = config["max_lr"] or config["lr"]
    shape = "x".join(str(length) for length in images["shape"])
    rounds = pluralize(config["rounds"], "round")
    rate = config["finetune_lr"]
    finetuning = (
        f"{config['finetune']}, {pluralize(config['finetune_epochs'], 'epoch')} per round, learning rate "
    )
    finetuning += (
        f"of the dense training from epoch {config['rewind_epoch']}" if rate is None else f"up to {rate:g}"
    )
    return [
        (
            "data",
            f"{config['dataset']}: {images['train']:,} training, {images['validation']:,} validation, "
            f"{images['test']:,} test images, {shape}, {images['classes']} classes",
        ),
        (
            "network",
            f"{config['arch']}: {event.parameters:,} parameters, {event.macs / 1e6:.4g} M multiply-adds (MACs); "
            f"{event.prunable:,} weights in {event.layers} layers are prunable",
        ),
        (
            "training",
            f"{pluralize(config['epochs'], 'epoch')}, learning rate up to {peak:g}, "
            f"weight decay {config['weight_decay']:g}, batch {config['batch_size']}, seed {config['seed']}",
        ),
        ("pruning", f"{config['method']}, {rounds} ({config['schedule']}): {describe_target(event)}"),
        ("fine-tune", "none" if config["finetune"] == "none" else finetuning),
        ("machine", f"{event.device}, {pluralize(event.threads, 'thread')}, {config['precision']}"),
        ("record", event.path),
    ]


def describe_target(event: events.RunStarted) -> str:
    """How far the run prunes: the sparsity of each round, or the limit of a search."""
    max_drop = event.config["max_drop"]
    if max_drop is not None:
        return f"largest sparsity at which validation top-1 drops by at most {max_drop:g} points"
    sparsities = "sparsity " + ", ".join(format_percent(sparsity) for sparsity in event.sparsities)
    if event.pruning_steps > len(event.sparsities):
        return f"{sparsities}, in {event.pruning_steps} steps during fine-tuning"
    return sparsities
