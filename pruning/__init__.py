"""Neural-network pruning: ``prune`` removes weights from a model, ``Masks`` says which and keeps them removed.

Where a method goes by the training before it, ``accumulate`` adds up what it goes by.
Importing this package imports no torch; the names below bring it along when they are first used.
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
