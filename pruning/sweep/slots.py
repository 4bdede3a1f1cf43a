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

from pruning.config.run_config import RunConfig
from pruning.errors import PruningError


@dataclass(frozen=True)
class Slots:
    """Room for runs: one entry of `gpus` for each that can run at once, None where no GPU has to be named.

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
    visible: Sequence[str | None],
) -> Slots:
    """The slots for these runs; `visible` names the GPUs of this machine. PruningError for what contradicts itself."""
    for name, number in (("--jobs", jobs), ("--jobs-per-gpu", jobs_per_gpu)):
        if number is not None and number < 1:
            raise PruningError(f"{name} {number} lets nothing run; give at least 1.")
    devices = {config.device for config in configs}
    numbered = sorted(device for device in devices if ":" in device)
    if numbered:
        raise PruningError(
            f"device {numbered[0]}: a sweep hands out the GPUs; set device to cuda, and use --gpus."
        )
    if "cuda" in devices and not visible:
        raise PruningError("device cuda: PyTorch sees no GPU here; set device to auto or cpu.")
    on_gpus = bool(devices & {"auto", "cuda", "mps"}) and bool(visible)
    if jobs is not None and on_gpus:
        raise PruningError(
            f"--jobs {jobs} is for the processor, but these runs would take a GPU; "
            "give --gpus and --jobs-per-gpu, or set device in the grid to cpu."
        )
    for name, given in (("--gpus", gpus), ("--jobs-per-gpu", jobs_per_gpu)):
        if given is not None and not on_gpus:
            raise PruningError(
                f"{name} {given}: there is no GPU for these runs; leave it out, or give --jobs."
            )
    if on_gpus:
        chosen = list(visible) if gpus is None else _named(gpus, visible)
        return Slots(tuple(chosen) * (jobs_per_gpu or 1), 1)
    asked = max((config.threads or 0 for config in configs), default=0)
    at_once = jobs or max(1, cores() // max(asked, 1))
    return Slots((None,) * at_once, max(1, cores() // at_once))


def cores() -> int:
    """The cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # not there on macOS
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def visible_gpus() -> list[str | None]:
    """The GPUs that PyTorch sees in this process, as CUDA_VISIBLE_DEVICES names them; Apple's one has no name."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    count = torch.cuda.device_count()
    if not count and torch.backends.mps.is_available():
        return [None]
    return list(named.split(",")[:count]) if named else [str(number) for number in range(count)]


def _named(gpus: str, visible: Sequence[str | None]) -> list[str | None]:
    names = [name.strip() for name in gpus.split(",")]
    if not set(names) <= set(visible) or len(set(names)) != len(names):
        raise PruningError(
            f"--gpus {gpus}: name GPUs once each, with commas between them; here are {','.join(map(str, visible))}."
        )
    return list(names)
