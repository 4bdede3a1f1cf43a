"""Tables of a finished run: its rounds, dense against pruned, its layers. They read the contents of result.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from pruning.cli.terminal import plain_table

BAR_WIDTH = 24


def rounds(result: Mapping[str, Any]) -> Table:
    """One row per round; for a search also the validation accuracy and whether the round was accepted."""
    searched = any("held" in entry for entry in result["rounds"])
    table = plain_table("rounds")
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
        search = (format_top1(entry, "validation_top1"), describe_acceptance(entry)) if searched else ()
        table.add_row(
            str(entry["round"]),
            format_percent(entry["target_sparsity"]),
            format_percent(entry["sparsity"]),
            format_ratio(entry["compression_ratio"]),
            format_ratio(entry["theoretical_speedup"]),
            f"{entry['top1_before_finetune']:.2f} %",
            format_top1(entry, "top1"),
            *search,
        )
    return table


def dense_against_pruned(result: Mapping[str, Any]) -> Table:
    """Metrics of the dense and the pruned network, and of the shrunk one if filters were removed."""
    shrunk = result.get("shrunk", {})
    accuracies = [result["dense"], result["final"]]  # the outputs of the shrunk network are the pruned one's
    entries = [*accuracies, *([shrunk] if shrunk else [])]
    table = plain_table("dense against pruned")
    table.add_column("")
    for name in ("dense", "pruned", "shrunk")[: len(entries)]:
        table.add_column(name, justify="right")
    rows = [
        ("top-1", *(f"{entry['top1']:.2f} %" for entry in accuracies)),
        ("top-5", *(f"{entry['top5']:.2f} %" for entry in accuracies)),
        ("loss", *(f"{entry['loss']:.4f}" for entry in accuracies)),
        ("sparsity", *(format_percent(entry["sparsity"]) for entry in accuracies)),
        ("compression ratio", *(format_ratio(entry["compression_ratio"]) for entry in entries)),
        ("theoretical speedup*", *(format_ratio(entry["theoretical_speedup"]) for entry in entries)),
        ("non-zero parameters", *(f"{entry['nonzero_parameters']:,}" for entry in entries)),
        ("MACs", *(f"{entry['nonzero_macs']:,}" for entry in entries)),
    ]
    if "validation_top1" in result["dense"]:
        rows.insert(1, ("validation top-1", *(f"{entry['validation_top1']:.2f} %" for entry in accuracies)))
    for batch in result.get("measured", {}).get("batches", []):
        networks, size = batch["networks"].values(), batch["batch_size"]
        rows += [
            (
                f"measured speedup, batch {size}",
                *(format_ratio(network["measured_speedup"]) for network in networks),
            ),
            (f"latency, batch {size}", *(f"{network['median_ms']:.3g} ms" for network in networks)),
        ]
    stored = [result["bytes"]["dense_bytes"], result["bytes"]["stored_bytes"]]
    if shrunk:
        stored.append(shrunk["stored_bytes"])
    rows.append(("bytes stored", *(f"{number:,}" for number in stored)))
    for row in rows:
        table.add_row(*row)
    return table


def notes(result: Mapping[str, Any]) -> list[str]:
    """Explanations of `dense_against_pruned`, as lines below it."""
    lines = ["* dense MACs / remaining MACs; unstructured zeros rarely reduce latency"]
    if "shrunk" in result:
        lines.append("shrunk: the pruned network without its removed filters; the outputs are equal")
    return lines


def layers(result: Mapping[str, Any], encoding: str) -> Table:
    """One row per layer with a bar of its sparsity, in ASCII where `encoding` has no block characters."""
    full, empty = ("█", "░") if _can_encode("█░", encoding) else ("#", ".")
    table = plain_table("layers")
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
            format_percent(layer["sparsity"]),
            Text(bar if layer["pruned"] else "kept", "green" if layer["pruned"] else "dim"),
        )
    return table


def timing(result: Mapping[str, Any]) -> str:
    """Seconds of each stage and in total."""
    seconds = result["timing"]
    stages = ", ".join(
        f"{stage.replace('_', ' ').replace('finetuning', 'fine-tuning')} {seconds[stage]:.1f}"
        for stage in seconds
        if stage != "total"
    )
    return f"seconds: {stages}; total {seconds['total']:.1f}"


def describe_acceptance(entry: Mapping[str, Any]) -> str:
    """Whether a search accepted a round, and if not, why it was rolled back."""
    if entry["held"]:
        return "accepted"
    return "too far, rolled back" if "top1" in entry else "diverged, rolled back"


def format_top1(entry: Mapping[str, Any], name: str) -> str:
    """A top-1 of a round, `-` if its training diverged."""
    return f"{entry[name]:.2f} %" if name in entry else "-"


def format_percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


def format_ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}x"


def _can_encode(characters: str, encoding: str) -> bool:
    try:
        characters.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
