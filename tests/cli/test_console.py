"""Terminal output for a run's events and its result."""

from __future__ import annotations

import dataclasses
import os
import pty
import sys
from typing import Any

import pytest

from pruning.cli import result_tables
from pruning.cli.console import Console
from pruning.cli.terminal import Terminal
from pruning.config.resolution import resolve
from pruning.experiment import events

ENTRY: dict[str, Any] = {
    "round": 2,
    "target_sparsity": 0.5,
    "sparsity": 0.5,
    "compression_ratio": 1.98,
    "theoretical_speedup": None,
    "top1_before_finetune": 70.0,
    "top1": 80.0,
    "validation_top1": 81.0,
}


def shown(capsys: pytest.CaptureFixture[str], *received: events.Event) -> list[str]:
    console = Console()
    for event in received:
        console.event(event)
    return capsys.readouterr().out.splitlines()


def started(**options: Any) -> events.RunStarted:
    return events.RunStarted(
        name="run", path="runs/run", config=resolve(options).to_dict(),
        images={"shape": [1, 28, 28], "classes": 10, "train": 900, "validation": 100, "test": 200},
        parameters=61_706, macs=281_640, prunable=58_998, layers=4, sparsities=[0.5, 0.9], pruning_steps=2,
        device="cpu", threads=1, batches=100,
    )  # fmt: skip


def test_the_header_shows_the_options_that_define_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    text = "\n".join(shown(capsys, started(method="layer_grad", seed=3)))
    for words in ("fashion_mini", "61,706 parameters", "layer_grad", "seed 3", "sparsity 50.00 %, 90.00 %"):
        assert words in text


def test_the_header_of_a_search_shows_its_limit(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = (line for line in shown(capsys, started(max_drop=1.5)) if line.startswith("pruning"))
    assert "1.5 points" in line
    assert "50.00 %" not in line


def test_reading_is_shown_once_per_quarter(capsys: pytest.CaptureFixture[str]) -> None:
    reading = [events.DataReading(what="images", done=done, total=1000) for done in range(0, 1000, 10)]
    assert len(shown(capsys, *reading)) == 4


@pytest.mark.parametrize(
    ("changes", "reproducible_result"),
    [
        ({}, None),
        ({"held": True}, "accepted"),
        ({"held": False}, "too far, rolled back"),
    ],
)
def test_a_round_is_one_line_with_the_outcome_of_a_search(
    changes: dict[str, Any], reproducible_result: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = {**ENTRY, **changes}
    (line,) = shown(capsys, events.RoundFinished(entry=entry))
    assert "top-1 70.00 -> 80.00 %" in line
    assert line.endswith(reproducible_result or "80.00 %")


def test_a_round_that_diverged_has_no_accuracy(capsys: pytest.CaptureFixture[str]) -> None:
    entry = {name: value for name, value in ENTRY.items() if name not in ("top1", "validation_top1")}
    (line,) = shown(capsys, events.RoundFinished(entry={**entry, "held": False}))
    assert "top-1 70.00 -> -" in line
    assert line.endswith("diverged, rolled back")


def test_only_pruning_steps_during_finetuning_have_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    pruned = events.Pruned(round=1, target_sparsity=0.5, sparsity=0.5, removed=5, prunable=10)
    assert shown(capsys, pruned) == []
    (line,) = shown(capsys, dataclasses.replace(pruned, batch=40))
    assert "40 batches" in line


def test_an_event_without_a_line_is_ignored(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, events.LogOpened(name="run", resumed=False), events.Event()) == []


def test_a_warning_is_shown_once_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(quiet=True)
    for _ in range(2):
        console.event(events.WarningIssued(message="conv1 is empty"))
    assert capsys.readouterr() == ("", "warning: conv1 is empty\n")


def test_sparsity_bars_are_ascii_where_the_encoding_has_no_blocks() -> None:
    layer = {"name": "fc1", "shape": [2, 2], "weights": 4, "sparsity": 0.5, "pruned": True}
    bars = []
    for encoding in ("utf-8", "ascii"):
        table = result_tables.layers({"layers": [layer]}, encoding)
        bars += [str(cell) for cell in list(table.columns)[-1].cells]
    assert bars == ["█" * 12 + "░" * 12, "#" * 12 + "." * 12]


def test_output_to_a_closed_terminal_is_discarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that was closed fails every write with EIO, which must not end the run."""
    controller, terminal = pty.openpty()
    monkeypatch.setattr(sys, "stdout", os.fdopen(terminal, "w"))
    os.close(controller)
    Terminal().note("first")
    Terminal().note("second")
