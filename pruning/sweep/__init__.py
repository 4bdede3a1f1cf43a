"""Sweeps: every combination of a grid of options is a run, and every run is a process.

Read in this order::

    grid          the YAML file -> validated configurations
    slots         how many runs at once, on which GPUs or CPU threads
    plan          what runs share, which run depends on which, what it costs
    progress      progress of a run, from its event log
    runner        start processes, watch them, stop them; two sweeps at once divide the work
    summary       the table of top-1 over seeds
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pruning.errors import PruningError
from pruning.sweep.grid import expand_grid, read_grid
from pruning.sweep.plan import SweepPlan, make_plan, parse_shard
from pruning.sweep.runner import SweepState, run_sweep
from pruning.sweep.slots import Slots, make_slots, visible_gpus
from pruning.utils import files
from pruning.utils.extras import require_extra

__all__ = ["Slots", "SweepPlan", "SweepState", "parse_shard", "plan_sweep", "run_sweep"]


def plan_sweep(
    file: Path,
    settings: Sequence[str],
    runs_dir: Path,
    *,
    jobs: int | None = None,
    gpus: str | None = None,
    jobs_per_gpu: int | None = None,
) -> tuple[SweepPlan, Slots]:
    """Read and check the sweep in a file. Writes nothing.

    Args:
        file: the YAML file of the grid.
        settings: `NAME=VALUE` of --set, options for all runs.
        runs_dir: the folder for the records.
        jobs, gpus, jobs_per_gpu: see `make_slots`.

    Returns:
        The plan and the slots for its runs.

    Raises:
        PruningError: any of the runs is invalid, or the options conflict.
    """
    files.check_folder_writable(runs_dir, "--runs-dir")
    runs = expand_grid(read_grid(file, settings), runs_dir)
    configs = [run.config for run in runs]
    if any(config.tensorboard for config in configs):
        require_extra("--tensorboard", "tensorboard", "tensorboard")
    slots = make_slots(configs, jobs=jobs, gpus=gpus, jobs_per_gpu=jobs_per_gpu, visible=visible_gpus())
    with_threads = [
        run
        if run.config.threads
        else replace(run, config=run.config.model_copy(update={"threads": slots.threads}))
        for run in runs
    ]
    try:
        return make_plan(with_threads), slots
    except PruningError as error:
        raise PruningError(f"{file}: {error}") from None
