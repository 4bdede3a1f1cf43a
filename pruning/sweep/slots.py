"""Decide how many runs to compute at once, and on which devices.

CPU: small networks gain nothing from a second thread, because their loops are shorter than the time to wake it. So the
default is one run per core, with one thread each. --jobs sets another number, and the runs divide the cores. The number
of threads changes a run's last digits (sums are added in another order), so it is part of the run's configuration. A
grid that sets `threads` gives the same numbers on every machine and with every --jobs.

GPU: a run takes one GPU, which it sees as its only one, or shares it (--jobs-per-gpu). It gets one CPU thread, which
only feeds the GPU.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from pruning.config.run_config import RunConfig
from pruning.errors import PruningError


@dataclass(frozen=True)
class Slots:
    """Places for runs that are computed at once.

    Attributes:
        gpus: the GPU of each slot as CUDA_VISIBLE_DEVICES names it; None for a slot without a named GPU.
        threads: CPU threads of a run that does not set `threads`.
    """

    gpus: tuple[str | None, ...]
    threads: int

    def __len__(self) -> int:
        return len(self.gpus)


def make_slots(
    configs: Sequence[RunConfig],
    *,
    jobs: int | None,
    gpus: str | None,
    jobs_per_gpu: int | None,
    visible: Sequence[str | None],
) -> Slots:
    """Return the slots for these runs.

    Args:
        configs: the runs of the sweep.
        jobs: value of --jobs, runs at once on the CPU.
        gpus: value of --gpus, names with commas between them.
        jobs_per_gpu: value of --jobs-per-gpu.
        visible: the GPUs of this machine.

    Raises:
        PruningError: the options conflict with each other, with the devices of the runs or with the machine.
    """
    for option, number in (("--jobs", jobs), ("--jobs-per-gpu", jobs_per_gpu)):
        if number is not None and number < 1:
            raise PruningError(f"{option} {number} is too low. Give 1 or more.")
    on_gpus = _use_gpus({config.device for config in configs}, visible)
    if jobs is not None and on_gpus:
        raise PruningError(
            f"--jobs {jobs} is for runs on the CPU, but these runs use a GPU. "
            "Use --gpus and --jobs-per-gpu, or set device to cpu in the grid."
        )
    for option, value in (("--gpus", gpus), ("--jobs-per-gpu", jobs_per_gpu)):
        if value is not None and not on_gpus:
            raise PruningError(f"{option} {value}: these runs use no GPU. Remove {option} or use --jobs.")
    if on_gpus:
        chosen = list(visible) if gpus is None else _parse_gpus(gpus, visible)
        return Slots(tuple(chosen) * (jobs_per_gpu or 1), 1)
    threads = max((config.threads or 0 for config in configs), default=0)
    count = jobs or max(1, available_cores() // max(threads, 1))
    return Slots((None,) * count, max(1, available_cores() // count))


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # macOS lacks it
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def visible_gpus() -> list[str | None]:
    """Return the GPUs that PyTorch sees, as CUDA_VISIBLE_DEVICES names them; Apple's single GPU is None."""
    import torch

    names = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    count = torch.cuda.device_count()
    if not count and torch.backends.mps.is_available():
        return [None]
    return list(names.split(",")[:count]) if names else [str(number) for number in range(count)]


def _use_gpus(devices: set[str], visible: Sequence[str | None]) -> bool:
    """Return whether runs on these devices use a GPU. PruningError for a device that a sweep cannot use."""
    numbered = sorted(device for device in devices if ":" in device)
    if numbered:
        raise PruningError(
            f"device {numbered[0]}: a sweep assigns the GPUs itself. Set device to cuda, and choose GPUs with --gpus."
        )
    if "cuda" in devices and not visible:
        raise PruningError("device cuda: PyTorch finds no GPU. Set device to auto or cpu.")
    return bool(devices & {"auto", "cuda", "mps"}) and bool(visible)


def _parse_gpus(text: str, visible: Sequence[str | None]) -> list[str | None]:
    names = [name.strip() for name in text.split(",")]
    if not set(names) <= set(visible) or len(set(names)) != len(names):
        raise PruningError(
            f"--gpus {text}: list GPUs of this machine ({','.join(map(str, visible))}), each once, with commas."
        )
    return list(names)
