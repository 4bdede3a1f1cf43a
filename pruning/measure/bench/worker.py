"""One benchmark job in a separate process, which `processes` starts and requests one repetition at a time.

    python -m pruning.measure.bench.worker mask resnet50 pruning
    python -m pruning.measure.bench.worker epoch 60000
    python -m pruning.measure.bench.worker loader 60000 2
    python -m pruning.measure.bench.worker memory resnet50 pruning

A worker runs its job once for every line of its input and answers with the seconds that it took; `memory` runs once
and answers with the extra bytes, or "unknown". Workers have the default settings of PyTorch and the allocator, but
`epoch` has those of a run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch

from pruning.measure.bench import pruning_step, training
from pruning.measure.bench.memory import release_free_memory
from pruning.measure.bench.processes import UNKNOWN
from pruning.measure.bench.timing import Action, timed
from pruning.training.device import configure_process


def main(job: str, *arguments: str) -> None:
    """Run one job; see the module's docstring."""
    if job == "mask":
        arch, method = arguments
        action = pruning_step.MASK_MAKERS[method](pruning_step.random_weights(arch))
        _answer_requests(action, before=release_free_memory)
    elif job == "epoch":
        configure_process(torch.device("cpu"), None, False)
        _answer_requests(training.epoch_from_memory(training.repeated_dataset(int(arguments[0]))))
    elif job == "loader":
        images, workers = map(int, arguments)
        _answer_requests(training.epoch_from_loader(training.repeated_dataset(images).train, workers))
    elif job == "memory":
        arch, method = arguments
        extra = pruning_step.measure_extra_memory(arch, method)
        sys.stdout.write(UNKNOWN if extra is None else str(extra))
    else:
        raise ValueError(f"unknown job {job!r}")


def _answer_requests(action: Action, before: Callable[[], None] = lambda: None) -> None:
    contender = timed(action)
    for _ in sys.stdin:
        before()
        sys.stdout.write(f"{contender()}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
