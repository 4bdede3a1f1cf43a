"""The same function of many items in worker processes, results in order."""

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

_MOST_WORKERS = 8


def in_workers(
    function: Callable[[Item], Result], items: Sequence[Item], *, pin_memory: bool = False
) -> Iterator[Result]:
    """`function` of every item, in the order of `items`, computed ahead in up to 8 processes.

    A single item is not worth a process. A PruningError is raised when its item's turn comes.
    """
    loader = DataLoader(
        _Mapped(function),
        sampler=items,
        batch_size=None,
        num_workers=min(_MOST_WORKERS, len(items), _processors()) if len(items) > 1 else 0,
        pin_memory=pin_memory,
        worker_init_fn=_leave_signals_to_parent,
        generator=torch.Generator(),  # else it would draw from the run's random state
    )
    for result in loader:
        if isinstance(result, PruningError):
            raise result
        yield result


class _Mapped(Dataset[Result | PruningError], Generic[Item, Result]):
    """A function as the data set that DataLoader wants.

    An error is handed back: raised in a worker, it would arrive with a traceback as its message.
    """

    def __init__(self, function: Callable[[Item], Result]) -> None:
        self.function = function

    def __getitem__(self, item: Item) -> Result | PruningError:
        try:
            return self.function(item)
        except PruningError as error:
            return error


def _processors() -> int:
    """Those this process may use, where the system tells them from those it has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _leave_signals_to_parent(worker: int) -> None:
    # Ctrl-C and a batch system's SIGTERM reach every process; the run finishes its batch first, and needs us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
