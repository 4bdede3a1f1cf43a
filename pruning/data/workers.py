"""Map a function over items in worker processes, with results in order."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from pruning.errors import PruningError

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_WORKERS = 8


def map_in_workers(
    function: Callable[[Item], Result], items: Sequence[Item], *, pin_memory: bool = False
) -> Iterator[Result]:
    """Yield `function(item)` in the order of `items`, computed ahead in up to 8 processes.

    A single item is computed in this process. A PruningError is raised at the position of its item.
    """
    loader = DataLoader(
        _MappedDataset(function),
        sampler=items,
        batch_size=None,
        num_workers=min(MAX_WORKERS, len(items), _cpu_count()) if len(items) > 1 else 0,
        pin_memory=pin_memory,
        worker_init_fn=_ignore_stop_signals,
        generator=torch.Generator(),  # the default draws from the global random state
    )
    for result in loader:
        if isinstance(result, PruningError):
            raise result
        yield result


class _MappedDataset(Dataset[Result | PruningError], Generic[Item, Result]):
    """A function as the map-style data set of a DataLoader.

    A PruningError is returned, because DataLoader would put a worker's traceback into its message.
    """

    def __init__(self, function: Callable[[Item], Result]) -> None:
        self.function = function

    def __getitem__(self, item: Item) -> Result | PruningError:
        try:
            return self.function(item)
        except PruningError as error:
            return error


def _cpu_count() -> int:
    """Return the number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _ignore_stop_signals(worker: int) -> None:
    # Ctrl-C and a batch system's SIGTERM reach every process, but the run needs workers to finish its batch.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
