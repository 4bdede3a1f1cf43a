"""Terminal output of `measure`, `export` and `bench`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pruning.cli.result_tables import format_ratio
from pruning.cli.terminal import Terminal
from pruning.utils.text import pluralize

if TYPE_CHECKING:
    from pruning.measure.bench import Section
    from pruning.measure.export import ExportResult


def show_latencies(terminal: Terminal, measured: Mapping[str, Any]) -> None:
    """Print the result of `measure.latency.compare`: every network at every batch size."""
    rows = [
        [
            str(batch["batch_size"]),
            name,
            f"{network['median_ms']:.4g} ms",
            f"{network['lower_quartile_ms']:.4g} to {network['upper_quartile_ms']:.4g} ms",
            f"{network['images_per_second']:,.0f}",
            format_ratio(network["measured_speedup"]),
            f"{network['peak_memory_bytes'] / 2**20:.3g} MiB",
        ]
        for batch in measured["batches"]
        for name, network in batch["networks"].items()
    ]
    threads = pluralize(measured["threads"], "thread")
    terminal.table(
        f"latency on {measured['device_name']}, {threads}, {measured['dtype']}",
        ["batch", "network", "median", "quartiles", "images/s", "measured speedup", "memory"],
        rows,
    )


def show_export(terminal: Terminal, export: ExportResult) -> None:
    """Print the exported file, its size and its accuracy against the network."""
    terminal.note(
        f"{export.path}: {export.bytes:,} bytes, read back and compared on {export.images:,} images: "
        f"top-1 {export.file_top1:.2f} % (network {export.top1:.2f} %), "
        f"outputs differ by at most {export.difference:.2g}"
    )
    details = dict(export.details)
    measured, layers, widths = (details.pop(name, None) for name in ("measured", "layers", "widths"))
    remaining = details.pop("remaining_zero_filters", {})
    for name, value in details.items():
        shown = f"{name.replace('_', ' ')}: {value:,}" if isinstance(value, int) else f"{name}: {value}"
        terminal.note(shown)
    if widths:
        rows = [[name, *map(str, pair)] for name, pair in widths.items()]
        terminal.table("removed channels", ["layer", "before", "now"], rows)
    elif widths is not None:
        terminal.note("No channel could be removed: the network has its original size.")
    for name, reason in remaining.items():
        terminal.note(f"{name}: {reason}")
    if layers:
        _show_sparse_layers(terminal, layers)
    if measured:
        show_latencies(terminal, measured)
        terminal.note(_describe_speedup(*measured["batches"][0]["networks"].values()))
    elif layers is not None:
        terminal.note("No linear layer, and convolutions have no sparse form: no speedup.")


def show_timings(terminal: Terminal, section: Section) -> None:
    """Print a section of `bench`: the seconds of each way, and their ratio to the first."""
    rows = [
        [
            timing.name,
            _format_seconds(timing.median),
            f"{_format_seconds(timing.lower)} to {_format_seconds(timing.upper)}",
            f"{timing.ratio:.3g}",
            "" if timing.extra_bytes is None else f"{timing.extra_bytes / 2**20:,.0f} MiB",
        ]
        for timing in section.timings
    ]
    terminal.table(
        f"\n{section.title}, {section.timings[0].turns} turns",
        ["", "median", "quartiles", "times the first", "extra memory"],
        rows,
    )


def _show_sparse_layers(terminal: Terminal, layers: Mapping[str, Mapping[str, Any]]) -> None:
    rows = [
        [
            name,
            layer["form"],
            *(_format_milliseconds(layer.get(time)) for time in ("dense_ms", "sparse_ms")),
            format_ratio(layer["measured_speedup"]),
        ]
        for name, layer in layers.items()
    ]
    terminal.table(
        "linear layers at batch 1, each in its faster form",
        ["layer", "chosen", "dense", "sparse", "measured speedup"],
        rows,
    )


def _describe_speedup(dense: Mapping[str, float], sparse: Mapping[str, float]) -> str:
    """Whether the sparse network is faster than the dense one by more than the spread of the times."""
    if sparse["upper_quartile_ms"] < dense["lower_quartile_ms"]:
        return f"At batch 1 this network is {sparse['measured_speedup']:.2f} times as fast as with dense tensors here."
    return (
        "At batch 1 there is no speedup beyond the spread of the times on this machine; only bytes are saved."
    )


def _format_milliseconds(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"{milliseconds:.3g} ms"


def _format_seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
