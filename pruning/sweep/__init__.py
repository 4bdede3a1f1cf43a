"""Many runs from one file: a grid of options, each combination a run, each run a process.

The rooms, in the order in which a sweep passes through them::

    grid          the file: options, lists, exclusions, overrides -> the runs, each resolved and validated
    slots         how many runs at once, and on what: threads of the processor, or GPUs
    plan          what the runs share (dense trainings, rounds), which waits for which, what there is to compute
    progress      how far a run is, from its log
    work          starting processes, watching them, stopping them; two sweeps at once share the work
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pruning.errors import PruningError
from pruning.sweep import grid, plan, slots
from pruning.sweep.plan import Plan, read_shard
from pruning.sweep.slots import Slots
from pruning.sweep.work import SweepState, work
from pruning.utils import files
from pruning.utils.extras import require_extra

__all__ = ["Plan", "Slots", "SweepState", "prepare", "read_shard", "work"]


def prepare(
    file: Path,
    settings: Sequence[str],
    runs_dir: Path,
    *,
    jobs: int | None = None,
    gpus: str | None = None,
    jobs_per_gpu: int | None = None,
) -> tuple[Plan, Slots]:
    """The plan of the sweep in a file, validated whole, and the slots to do it on. Writes nothing.

    `settings` are `NAME=VALUE`, options for all runs. PruningError for whatever is wrong with any of the runs.
    """
    files.check_writable(runs_dir, "--runs-dir")
    chosen = grid.runs(grid.read(file, settings), runs_dir)
    if any(one.config.tensorboard for one in chosen):
        require_extra("--tensorboard", "tensorboard", "tensorboard")
    room = slots.choose(
        [one.config for one in chosen],
        jobs=jobs,
        gpus=gpus,
        jobs_per_gpu=jobs_per_gpu,
        visible=slots.visible_gpus(),
    )
    chosen = [
        one
        if one.config.threads
        else replace(one, config=one.config.model_copy(update={"threads": room.threads}))
        for one in chosen
    ]
    try:
        return plan.make(chosen), room
    except PruningError as error:
        raise PruningError(f"{file}: {error}") from None
