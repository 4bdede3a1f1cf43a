"""Neural-network pruning: `prune` removes weights from a model and returns `Masks`, which keep them removed.

`accumulate` sums statistics during training, for methods whose scores need them (movement).
Importing this package does not import torch; the first use of these names does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pruning.errors import PruningError

if TYPE_CHECKING:
    from pruning.core.accumulation import accumulate
    from pruning.core.masks import Masks
    from pruning.core.prune import prune

__all__ = ["Masks", "PruningError", "accumulate", "prune"]

_HOMES = {
    "prune": "pruning.core.prune",
    "Masks": "pruning.core.masks",
    "accumulate": "pruning.core.accumulation",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
