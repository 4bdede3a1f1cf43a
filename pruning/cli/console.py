"""Everything the terminal shows. On a terminal with colours and a progress bar, into a file the same as plain lines.

`Console` is told what happens as events (see `session.Session.emit`) and has one method for each kind it shows.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any, cast

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from pruning.utils.text import pluralize

if TYPE_CHECKING:
    from pruning.experiment.events import Event
    from pruning.measure.bench import Section
    from pruning.measure.export import Exported

BAR_WIDTH = 24
FILE_WIDTH = 160  # columns of tables in a file, where nothing would be gained by cutting names short


class Output:
    """A standard stream that goes on into nowhere once its terminal is closed, so that nothing fails by that."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._leave_terminal(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._leave_terminal(error)

    def _leave_terminal(self, error: OSError) -> None:
        if error.errno != errno.EIO:
            raise error
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


class Console:
    """Shows a run. `quiet` leaves warnings only; colours follow NO_COLOR and whether the output is a terminal."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._out = RichConsole(highlight=False, quiet=quiet, file=cast(IO[str], Output(sys.stdout)))
        if not self._out.is_terminal:
            self._out.width = FILE_WIDTH
        self._err = RichConsole(highlight=False, stderr=True, file=cast(IO[str], Output(sys.stderr)))
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._shown_reading = ""
        self._warned: set[str] = set()

    # --- what a run tells -----------------------------------------------------------------------------------------

    def event(self, event: Event) -> None:
        """Show an event; kinds that have no method here are for the log only."""
        show = getattr(self, f"_show_{event.kind}", None)
        if show is not None:
            show(event.to_json())

    def progress(self, done: int, total: int) -> None:
        """Move the bar over the whole experiment; there is none where the output is no terminal."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _show_reading(self, event: Mapping[str, Any]) -> None:
        # Once per kind of thing read, and every quarter of it: enough for a log, and no flood.
        quarter = f"{event['what']} {4 * event['done'] // max(event['total'], 1)}"
        if quarter != self._shown_reading:
            self._shown_reading = quarter
            self._line(f"reading {event['what']}: {event['done']:,} of {event['total']:,}", style="dim")

    def _show_start(self, event: Mapping[str, Any]) -> None:
        for name, text in _header(event):
            self._out.print(Text.assemble((f"{name:<10}", "bold"), text), soft_wrap=True)
        self._out.print()
        if self._out.is_terminal and not self._out.quiet:
            self._bar = _bar(self._out)
            self._bar.start()
            self._task = self._bar.add_task("", total=event["batches"])

    def _show_waiting(self, event: Mapping[str, Any]) -> None:
        self._line(event["message"], style="yellow")

    def _show_resumed(self, event: Mapping[str, Any]) -> None:
        self._line(f"resumed after {event['rounds']} complete rounds", style="yellow")

    def _show_shared(self, event: Mapping[str, Any]) -> None:
        rounds = "round 1" if event["rounds"] == 1 else f"rounds 1 to {event['rounds']}"
        self._line(f"{rounds}: taken from a run that began with the same", style="dim")

    def _show_dense(self, event: Mapping[str, Any]) -> None:
        if event["cached"]:
            self._line(
                "dense network: taken from the cache, trained before with the same options", style="dim"
            )

    def _show_batch(self, event: Mapping[str, Any]) -> None:
        self._line(
            f"{_phase(event):<12} epoch {event['epoch']:>3}  batch {event['batch']:>5}/{event['batches']}  "
            f"loss {event['loss']:.4f}  accuracy {event['accuracy']:5.1f} %  lr {event['lr']:.4g}",
            style="dim",
        )

    def _show_evaluation(self, event: Mapping[str, Any]) -> None:
        if event["what"] == "training":
            self._line(
                f"{_phase(event):<12} epoch {event['epoch']:>3}  validation   "
                f"loss {event['loss']:.4f}  accuracy {event['top1']:5.1f} %"
            )
        elif event["what"] == "dense" and event["split"] == "test":
            self._line(
                f"dense        test: top-1 {event['top1']:.2f} %, top-5 {event['top5']:.2f} %, "
                f"loss {event['loss']:.4f}",
                style="bold",
            )

    def _show_pruning(self, event: Mapping[str, Any]) -> None:
        if "batch" in event:  # the others are in the line of their round
            self._line(
                f"{_phase(event):<12} after {event['batch']} batches  sparsity {_percent(event['sparsity'])}",
                style="dim",
            )

    def _show_round(self, event: Mapping[str, Any]) -> None:
        self._line(
            f"round {event['round']}      sparsity {_percent(event['sparsity'])} "
            f"(target {_percent(event['target_sparsity'])})  compression {_times(event['compression_ratio'])}  "
            f"theoretical speedup {_times(event['theoretical_speedup'])}  "
            f"top-1 {event['top1_before_finetune']:.2f} -> {_top1(event, 'top1')}"
            + (f"  validation {_top1(event, 'validation_top1')}, {_held(event)}" if "held" in event else ""),
            style="bold green" if event.get("held", True) else "bold yellow",
        )

    def _show_warning(self, event: Mapping[str, Any]) -> None:
        self.warning(event["message"])

    # --- what the commands say --------------------------------------------------------------------------------------

    def warning(self, message: str) -> None:
        """Say a warning once."""
        if message not in self._warned:
            self._warned.add(message)
            self._say("warning", message, "yellow")

    def error(self, message: str) -> None:
        self.close()
        self._say("error", message, "red")

    def note(self, message: str) -> None:
        """A line that is no error, such as how to go on."""
        self.close()
        self._out.print(Text(message), soft_wrap=True)

    def result(self, result: Mapping[str, Any], path: str) -> None:
        """The record of a complete run: rounds, dense against pruned, layers, and where it lies."""
        self.close()
        for table in (_rounds_table(result), _comparison_table(result)):
            self._out.print()
            self._out.print(table)
        for note in _comparison_notes(result):
            self._line(note, style="dim")
        self._out.print()
        self._out.print(self._layers_table(result))
        for message in result["warnings"]:
            self.warning(message)
        timing = result["timing"]
        stages = ", ".join(
            f"{stage.replace('_', ' ').replace('finetuning', 'fine-tuning')} {timing[stage]:.1f}"
            for stage in timing
            if stage != "total"
        )
        self._out.print(f"\nseconds: {stages}; in all {timing['total']:.1f}", soft_wrap=True)
        self._out.print(Text.assemble("record: ", (f"{path}/result.json", "bold")), soft_wrap=True)

    def table(self, title: str, columns: list[str], rows: list[list[str]]) -> None:
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
        for index, column in enumerate(columns):
            table.add_column(column, overflow="fold", no_wrap=index == 0)  # a name stays in one piece
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self._out.print(table)

    def latencies(self, measured: Mapping[str, Any]) -> None:
        """What `measure.latency.compare` found: every network at every batch size."""
        rows = [
            [
                str(batch["batch_size"]),
                name,
                f"{network['median_ms']:.4g} ms",
                f"{network['lower_quartile_ms']:.4g} to {network['upper_quartile_ms']:.4g} ms",
                f"{network['images_per_second']:,.0f}",
                _times(network["measured_speedup"]),
                f"{network['peak_memory_bytes'] / 2**20:.3g} MiB",
            ]
            for batch in measured["batches"]
            for name, network in batch["networks"].items()
        ]
        self.table(
            f"latency on {measured['device_name']}, {pluralize(measured['threads'], 'thread')}, {measured['dtype']}",
            ["batch", "network", "median", "quartiles", "images/s", "measured speedup", "memory"],
            rows,
        )

    def exported(self, export: Exported) -> None:
        """What was written, and how it compares with the network."""
        self.note(
            f"{export.path}: {export.bytes:,} bytes, read back and compared on {export.images:,} images: "
            f"top-1 {export.top1_of_file:.2f} % (network {export.top1:.2f} %), "
            f"outputs differ by at most {export.difference:.2g}"
        )
        details = dict(export.details)
        measured, layers, widths = (details.pop(name, None) for name in ("measured", "layers", "widths"))
        left = details.pop("left", {})
        for name, value in details.items():
            self.note(
                f"{name.replace('_', ' ')}: {value:,}" if isinstance(value, int) else f"{name}: {value}"
            )
        if widths:
            rows = [[name, *map(str, pair)] for name, pair in widths.items()]
            self.table("channels taken out", ["layer", "before", "now"], rows)
        elif widths is not None:
            self.note("No channel could be taken out: the network is as large as before.")
        for name, reason in left.items():
            self.note(f"{name}: {reason}")
        if layers:
            self.table(
                "linear layers at batch 1, each in its faster form",
                ["layer", "chosen", "dense", "sparse", "measured speedup"],
                [
                    [
                        name,
                        layer["form"],
                        *(_milliseconds(layer.get(time)) for time in ("dense_ms", "sparse_ms")),
                        _times(layer["measured_speedup"]),
                    ]
                    for name, layer in layers.items()
                ],
            )
        if measured:
            self.latencies(measured)
            self.note(_gain(*measured["batches"][0]["networks"].values()))
        elif layers is not None:
            self.note(
                "There is no linear layer, and convolutions do not run from their non-zero weights: no gain in speed."
            )

    def timings(self, section: Section) -> None:
        """A section of `bench`: who took how long, beside the first."""
        rows = [
            [
                timing.name,
                _seconds(timing.median),
                f"{_seconds(timing.lower)} to {_seconds(timing.upper)}",
                f"{timing.ratio:.3g}",
                "" if timing.extra_bytes is None else f"{timing.extra_bytes / 2**20:,.0f} MiB",
            ]
            for timing in section.timings
        ]
        self.table(
            f"\n{section.title}, {section.timings[0].turns} turns",
            ["", "median", "quartiles", "times the first", "extra memory"],
            rows,
        )

    def _layers_table(self, result: Mapping[str, Any]) -> Table:
        full, empty = ("█", "░") if self._can_show("█░") else ("#", ".")
        table = Table(title="layers", title_justify="left", box=None, pad_edge=False, header_style="bold")
        table.add_column("layer", overflow="fold")
        table.add_column("shape", justify="right")
        table.add_column("weights", justify="right")
        table.add_column("sparsity", justify="right")
        table.add_column("", no_wrap=True)
        for layer in result["layers"]:
            filled = round(BAR_WIDTH * layer["sparsity"])
            bar = full * filled + empty * (BAR_WIDTH - filled)
            table.add_row(
                layer["name"],
                "x".join(str(length) for length in layer["shape"]),
                f"{layer['weights']:,}",
                _percent(layer["sparsity"]),
                Text(bar if layer["pruned"] else "kept", "green" if layer["pruned"] else "dim"),
            )
        return table

    def _can_show(self, characters: str) -> bool:
        try:
            characters.encode(self._out.encoding)
        except UnicodeEncodeError:
            return False
        return True

    def _say(self, kind: str, message: str, style: str) -> None:
        self._err.print(Text.assemble((f"{kind}: ", f"bold {style}"), message), soft_wrap=True)

    def _line(self, text: str, style: str = "") -> None:
        self._out.print(Text(text, style), soft_wrap=True)


def _bar(console: RichConsole) -> Progress:
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


def _phase(event: Mapping[str, Any]) -> str:
    return f"finetune {event['round']}" if event.get("round") else str(event.get("phase", ""))


def _header(event: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What will be run, as name and text of a few lines."""
    config, images = event["config"], event["images"]
    peak = config["max_lr"] or config["lr"]
    shape = "x".join(str(length) for length in images["shape"])
    rounds = pluralize(config["rounds"], "round")
    rate = config["finetune_lr"]
    finetuning = (
        f"{config['finetune']}, {pluralize(config['finetune_epochs'], 'epoch')} a round, learning rate "
    )
    finetuning += f"from epoch {config['rewind_epoch']} on as above" if rate is None else f"up to {rate:g}"
    return [
        (
            "data",
            f"{config['dataset']}: {images['train']:,} training, {images['validation']:,} validation, "
            f"{images['test']:,} test images, {shape}, {images['classes']} classes",
        ),
        (
            "network",
            f"{config['arch']}: {event['parameters']:,} parameters, {event['macs'] / 1e6:.4g} M multiply-adds; "
            f"{event['prunable']:,} weights in {event['layers']} layers are prunable",
        ),
        (
            "training",
            f"{pluralize(config['epochs'], 'epoch')}, learning rate up to {peak:g}, "
            f"weight decay {config['weight_decay']:g}, batch {config['batch_size']}, seed {config['seed']}",
        ),
        ("pruning", f"{config['method']}, {rounds} ({config['schedule']}): {_how_far(event)}"),
        ("fine-tune", "none" if config["finetune"] == "none" else finetuning),
        ("machine", f"{event['device']}, {pluralize(event['threads'], 'thread')}, {config['precision']}"),
        ("record", event["path"]),
    ]


def _how_far(event: Mapping[str, Any]) -> str:
    max_drop = event["config"]["max_drop"]
    if max_drop is not None:
        return f"as far as validation top-1 falls by no more than {max_drop:g} points"
    sparsities = "sparsity " + ", ".join(_percent(sparsity) for sparsity in event["sparsities"])
    within = event["prunings"] > len(event["sparsities"])
    return sparsities + (f", in {event['prunings']} prunings inside the fine-tuning" if within else "")


def _held(entry: Mapping[str, Any]) -> str:
    if entry["held"]:
        return "held"
    return "too far, taken back" if "top1" in entry else "diverged, taken back"


def _top1(entry: Mapping[str, Any], name: str) -> str:
    """A top-1 of a round; one whose training diverged has none."""
    return f"{entry[name]:.2f} %" if name in entry else "-"


def _rounds_table(result: Mapping[str, Any]) -> Table:
    searched = any("held" in entry for entry in result["rounds"])
    table = Table(title="rounds", title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in (
        "round",
        "target",
        "sparsity",
        "compression",
        "speedup*",
        "top-1 before",
        "top-1 fine-tuned",
        *(("validation", "") if searched else ()),
    ):
        table.add_column(column, justify="right")
    for entry in result["rounds"]:
        table.add_row(
            str(entry["round"]),
            _percent(entry["target_sparsity"]),
            _percent(entry["sparsity"]),
            _times(entry["compression_ratio"]),
            _times(entry["theoretical_speedup"]),
            f"{entry['top1_before_finetune']:.2f} %",
            _top1(entry, "top1"),
            *((_top1(entry, "validation_top1"), _held(entry)) if searched else ()),
        )
    return table


def _comparison_table(result: Mapping[str, Any]) -> Table:
    """Dense against pruned and, where removed filters were taken out, the network that is truly smaller."""
    shrunk = result.get("shrunk", {})
    accuracies = [result["dense"], result["final"]]  # the shrunk network's outputs are the pruned one's
    entries = [*accuracies, *([shrunk] if shrunk else [])]
    table = Table(
        title="dense against pruned", title_justify="left", box=None, pad_edge=False, header_style="bold"
    )
    table.add_column("")
    for name in ("dense", "pruned", "shrunk")[: len(entries)]:
        table.add_column(name, justify="right")
    rows = [
        ("top-1", *(f"{entry['top1']:.2f} %" for entry in accuracies)),
        ("top-5", *(f"{entry['top5']:.2f} %" for entry in accuracies)),
        ("loss", *(f"{entry['loss']:.4f}" for entry in accuracies)),
        ("sparsity", *(_percent(entry["sparsity"]) for entry in accuracies)),
        ("compression ratio", *(_times(entry["compression_ratio"]) for entry in entries)),
        ("theoretical speedup*", *(_times(entry["theoretical_speedup"]) for entry in entries)),
        ("non-zero parameters", *(f"{entry['nonzero_parameters']:,}" for entry in entries)),
        ("multiply-adds", *(f"{entry['nonzero_macs']:,}" for entry in entries)),
    ]
    if "validation_top1" in result["dense"]:
        rows.insert(1, ("validation top-1", *(f"{entry['validation_top1']:.2f} %" for entry in accuracies)))
    for batch in result.get("measured", {}).get("batches", []):
        networks, number = batch["networks"].values(), batch["batch_size"]
        rows += [
            (f"measured speedup, batch {number}", *(_times(one["measured_speedup"]) for one in networks)),
            (f"latency, batch {number}", *(f"{one['median_ms']:.3g} ms" for one in networks)),
        ]
    stored = [result["bytes"]["dense_bytes"], result["bytes"]["stored_bytes"]]
    if shrunk:
        stored.append(shrunk["stored_bytes"])
    rows.append(("bytes stored", *(f"{number:,}" for number in stored)))
    for row in rows:
        table.add_row(*row)
    return table


def _comparison_notes(result: Mapping[str, Any]) -> list[str]:
    """What the words of the table mean; below it, so that it is read in whole on any width."""
    notes = ["* multiply-adds that remain, on paper: zeros alone make no network faster"]
    if "shrunk" in result:
        notes.append("shrunk: the pruned network without its removed filters, its outputs the same")
    return notes


def _gain(dense: Mapping[str, float], sparse: Mapping[str, float]) -> str:
    """Whether a network is faster than another one, by more than the spread of the times."""
    if sparse["upper_quartile_ms"] < dense["lower_quartile_ms"]:
        return f"At batch 1 this network is {sparse['measured_speedup']:.2f} times as fast as with dense tensors here."
    return "At batch 1 there is no gain in speed here beyond the spread of the times: what is saved is bytes."


def _milliseconds(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"{milliseconds:.3g} ms"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}x"
