"""timm's networks, as `timm:NAME`; they need the extra `timm`."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from pruning.errors import PruningError

if TYPE_CHECKING:
    from torch import nn

PREFIX = "timm:"


def matches(arch: str) -> bool:
    """Whether `arch` has the prefix of timm's networks."""
    return arch.startswith(PREFIX)


def build(arch: str, num_classes: int, in_channels: int, pretrained: bool) -> nn.Module:
    """Build the network `timm:NAME`.

    Raises:
        PruningError: if timm is not installed, has no such network, or cannot build it.
    """
    name = arch.removeprefix(PREFIX)
    try:
        import timm
    except ModuleNotFoundError:
        raise PruningError(f"--arch {arch} needs timm. Install it: pip install 'pruning[timm]'.") from None
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else " timm.list_models() returns all names."
        raise PruningError(f"timm has no network {name!r}.{hint}")
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=num_classes, in_chans=in_channels)
    except Exception as error:  # networks refuse their arguments in different ways
        raise PruningError(
            f"timm cannot build {name} for {num_classes} classes and {in_channels} channels "
            f"({type(error).__name__}: {' '.join(str(error).split())})."
        ) from error
