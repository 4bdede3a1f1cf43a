"""Grid files for the tests of sweeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pruning.sweep.grid import GridRun, expand_grid, read_grid
from pruning.sweep.plan import SweepPlan, make_plan

RUNS_DIR = Path("runs")
CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
GRIDS = [file for file in CONFIGS if "grid" in yaml.safe_load(file.read_text())]
SEEDS = {"seed": [0, 1]}
# 2 methods x 2 seeds are 4 trajectories of up to 3 rounds, each with a run that ends after 1, 2 and 3 rounds.
TRAJECTORIES = {
    "options": {"epochs": 2, "finetune_epochs": 3, "prune_classifier": True},
    "grid": {
        "method": ["global_mag", "random"],
        "compression": [{"compression": 2**rounds, "rounds": rounds} for rounds in (3, 2, 1)],
        "seed": [0, 1],
    },
}

Values = Mapping[str, Any] | str


def write_grid(folder: Path, values: Values) -> Path:
    file = folder / "grid.yaml"
    file.write_text(values if isinstance(values, str) else yaml.safe_dump(values, sort_keys=False))
    return file


def expanded(folder: Path, values: Values, *settings: str) -> list[GridRun]:
    return expand_grid(read_grid(write_grid(folder, values), settings), RUNS_DIR)


def planned(folder: Path, values: Values) -> SweepPlan:
    return make_plan(expanded(folder, values))
