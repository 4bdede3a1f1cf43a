"""How many runs at once, and on what.

On the processor, small networks gain nothing from a second thread (their loops are shorter than the time to wake it),
so by default there are as many runs at once as there are cores, each with one thread. `--jobs` asks for fewer or more,
and the cores are divided among them. How many threads a run has is part of what determines its numbers, because sums
are added up in another order; it is therefore written into every run's configuration, and a grid that says `threads`
gives the same numbers whatever the machine and `--jobs`.

On a GPU server a run takes one GPU (or shares it with `--jobs-per-gpu` others), which it sees as its only one. The
processor only feeds it: one thread.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from pruning.config import RunConfig
from pruning.errors import PruningError


@dataclass(frozen=True)
class Slots:
    """Room for runs: one entry of `gpus` for each that can run at once, None where it is the processor's.

    `threads` is what a run computes with if it does not say so itself.
    """

    gpus: tuple[str | None, ...]
    threads: int

    def __len__(self) -> int:
        return len(self.gpus)


def choose(
    configs: Sequence[RunConfig],
    *,
    jobs: int | None,
    gpus: str | None,
    jobs_per_gpu: int | None,
    visible: Sequence[str],
) -> Slots:
    """The slots for these runs; `visible` names the GPUs of this machine. PruningError for what contradicts itself."""
    for name, number in (("--jobs", jobs), ("--jobs-per-gpu", jobs_per_gpu)):
        if number is not None and number < 1:
            raise PruningError(f"{name} {number} lets nothing run; give at least 1.")
    on_gpus = any(config.device in ("auto", "cuda") for config in configs) and bool(gpus or visible)
    if gpus is not None and not on_gpus:
        raise PruningError(
            f"--gpus {gpus}: these runs take no GPU; leave it out, or set device in the grid to cuda."
        )
    if jobs is not None and on_gpus:
        raise PruningError(
            f"--jobs {jobs} is for the processor, but these runs would take a GPU; "
            "give --gpus and --jobs-per-gpu, or set device in the grid to cpu."
        )
    if jobs_per_gpu is not None and not on_gpus:
        raise PruningError(f"--jobs-per-gpu {jobs_per_gpu}: there is no GPU for these runs; give --jobs.")
    if on_gpus:
        chosen = _named(gpus) if gpus is not None else list(visible)
        return Slots(tuple(chosen) * (jobs_per_gpu or 1), 1)
    asked = max((config.threads or 0 for config in configs), default=0)
    at_once = jobs or max(1, cores() // max(asked, 1))
    return Slots((None,) * at_once, max(1, cores() // at_once))


def cores() -> int:
    """The cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # not there on macOS
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The GPUs that PyTorch would see in this process, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    count = torch.cuda.device_count()
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


def _named(gpus: str) -> list[str]:
    names = [name.strip() for name in gpus.split(",")]
    if not all(names) or len(set(names)) != len(names):
        raise PruningError(f"--gpus {gpus}: name each GPU once, with commas between them, such as 0,1.")
    return names
