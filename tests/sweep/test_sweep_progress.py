"""Progress of a run from its log, time left from finished runs, and the table of finished runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sweep_files import TRAJECTORIES, planned

from pruning.config.resolution import resolve
from pruning.sweep.progress import estimate_seconds_left, read_progress
from pruning.sweep.summary import summary_table

BATCH = {"event": "batch", "epoch": 3, "batch": 5, "batches": 10}  # 2.5 epochs done
FOUR_PLUS_TWICE_THREE = {"epochs": 4, "rounds": 2, "finetune_epochs": 3}
REPLAYS_THREE = {"epochs": 4, "rounds": 2, "finetune": "rewind_lr"}  # each round replays epochs 2 to 4
NO_FINETUNING = {"epochs": 4, "rounds": 2, "finetune": "none"}  # a round counts as one epoch


@pytest.mark.parametrize(
    ("options", "events", "fraction"),
    [
        (FOUR_PLUS_TWICE_THREE, [], 0),
        (
            FOUR_PLUS_TWICE_THREE,
            [{"event": "start"}, {**BATCH, "phase": "dense"}, {"event": "warning"}],
            0.25,
        ),
        (FOUR_PLUS_TWICE_THREE, [{"event": "dense", "cached": True}], 0.4),
        (FOUR_PLUS_TWICE_THREE, [{"event": "round", "round": 1}], 0.7),
        (FOUR_PLUS_TWICE_THREE, [{"event": "shared", "rounds": 1}], 0.7),
        (FOUR_PLUS_TWICE_THREE, [{**BATCH, "phase": "finetune", "round": 2}], 0.95),
        (FOUR_PLUS_TWICE_THREE, [{"event": "result"}], 1),
        (REPLAYS_THREE, [{**BATCH, "phase": "finetune", "round": 1}], (4 + 1.5) / 10),
        (REPLAYS_THREE, [{"event": "scoring", "round": 2}], (4 + 3) / 10),
        (NO_FINETUNING, [{"event": "round", "round": 1}], (4 + 1) / 6),
    ],
)
def test_the_latest_event_gives_the_fraction_of_epochs_done(
    options: dict[str, Any], events: list[Mapping[str, Any]], fraction: float
) -> None:
    assert read_progress(resolve(options), events).fraction == pytest.approx(fraction)


@pytest.mark.parametrize(
    ("finished", "unfinished", "slots", "seconds"),
    [
        ([], [(1, 1.0)], 2, None),
        ([(0, 5.0), (10, 25.0)], [(4, 1.0), (4, 0.5)], 1, 13 + 6.5),  # 5 s, and 2 s per epoch
        ([(0, 5.0), (10, 25.0)], [(4, 1.0), (4, 1.0)], 4, 13),
        ([(3, 7.0), (3, 9.0)], [(3, 1.0)], 1, 8),
    ],
)
def test_the_time_left_is_a_line_through_the_finished_runs(
    finished: list[tuple[int, float]],
    unfinished: list[tuple[int, float]],
    slots: int,
    seconds: float | None,
) -> None:
    assert estimate_seconds_left(finished, unfinished, slots) == pytest.approx(seconds)


def test_the_summary_has_mean_and_sample_deviation_over_seeds(tmp_path: Path) -> None:
    runs = planned(tmp_path, TRAJECTORIES).runs
    records = {
        run.name: {"final": {"top1": 80.0 + run.config.seed}, "dense": {"top1": 90.0}}
        for run in runs
        if run.config.rounds < 3 and run.config.method == "random"
    }
    table = summary_table(runs, records)
    assert "compression" in table.title
    assert table.columns == ["method", "dense", "2", "4"]
    assert table.rows == [["random", "90.00 ± 0.00", "80.50 ± 0.71", "80.50 ± 0.71"]]


def test_a_run_without_a_target_is_summarised_under_the_default_target(tmp_path: Path) -> None:
    policies = [
        {"finetune": "continue", "sparsity": 0.5},
        {"finetune": "continue", "sparsity": 0.9},
        {"finetune": "none"},
    ]
    runs = planned(tmp_path, {"grid": {"finetune": policies}}).runs
    records = {run.name: {"final": {"top1": 80.0}, "dense": {"top1": 90.0}} for run in runs}
    assert sorted(summary_table(runs, records).rows) == [
        ["continue", "90.00", "80.00", "80.00"],
        ["none", "90.00", "", "80.00"],
    ]
