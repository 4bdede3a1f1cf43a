"""Benchmark: the pruning step, training, a shrunk network and start-up, each against the usual alternatives.

timing.py          timing harness: contenders in turns, medians, quartiles, ratios
worker.py          contenders in processes of their own (python -m pruning.measure.bench.worker)
pruning_step.py    global magnitude masks: this program, NumPy, torch.nn.utils.prune
training.py        a fine-tuning step; an epoch from memory and from a DataLoader
shrunk_network.py  inference: dense, masked, shrunk
startup.py         whole processes: import torch, --help, list, the first batch of a run
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator

import torch

from pruning.measure.bench.pruning_step import time_pruning_step
from pruning.measure.bench.shrunk_network import time_shrunk_network
from pruning.measure.bench.startup import time_startup
from pruning.measure.bench.timing import Section
from pruning.measure.bench.training import EPOCH_IMAGES, time_epoch, time_finetuning_step
from pruning.training.device import configure_process

__all__ = ["Section", "run_benchmarks"]


def run_benchmarks(*, quick: bool, note: Callable[[str], None]) -> Iterator[Section]:
    """Yield all sections one by one.

    Args:
        quick: Fewer turns and smaller jobs, without memory: about one minute.
        note: Called with a line of text before each section.
    """
    configure_process(torch.device("cpu"), None, False)
    for arch, turns in (("resnet18", 2),) if quick else (("resnet50", 11), ("vit_b_16", 3)):
        note(f"timing the pruning step of {arch}")
        yield time_pruning_step(arch, turns, memory=not quick)
    for arch, shape, turns in (("my", (1, 28, 28), 100), ("resnet20", (3, 32, 32), 8)):
        note(f"timing a fine-tuning step of {arch}")
        yield time_finetuning_step(arch, shape, turns if quick else 5 * turns)
    note("timing an epoch of my")
    yield time_epoch(EPOCH_IMAGES // 20, 2) if quick else time_epoch(EPOCH_IMAGES, 5)
    if importlib.util.find_spec("torch_pruning") is not None:
        note("timing a shrunk resnet18")
        yield time_shrunk_network("resnet18", 2 if quick else 20)
    else:
        note("skipping the shrunk network, which needs torch-pruning: pip install 'pruning[shrink]'")
    note("timing start-up")
    yield time_startup(2 if quick else 9)
