"""The networks of the timm library, as `timm:NAME`; needs the extra `timm`."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from pruning.errors import PruningError

if TYPE_CHECKING:
    from torch import nn

PREFIX = "timm:"


def matches(arch: str) -> bool:
    """Whether `arch` asks for a network of timm."""
    return arch.startswith(PREFIX)


def make(arch: str, classes: int, channels: int, pretrained: bool) -> nn.Module:
    """The network `timm:NAME`; PruningError if timm is missing, does not know it, or cannot make it so."""
    name = arch.removeprefix(PREFIX)
    try:
        import timm
    except ModuleNotFoundError:
        raise PruningError(f"{arch} needs the library timm: pip install 'pruning[timm]'.") from None
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        meant = f"; did you mean {' or '.join(near)}?" if near else "; timm.list_models() gives all it has."
        raise PruningError(f"timm has no network {name!r}{meant}")
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=classes, in_chans=channels)
    except Exception as error:  # networks refuse what they cannot be in different ways
        raise PruningError(
            f"timm cannot make {name} for {classes} classes and {channels} channels "
            f"({type(error).__name__}: {' '.join(str(error).split())})."
        ) from error
