"""The networks of the timm library, as `timm:NAME`; needs the extra `timm`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pruning.errors import PruningError
from pruning.registry import unknown

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
        raise unknown("architecture of timm", name, timm.list_models())
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=classes, in_chans=channels)
    except Exception as error:
        raise PruningError(
            f"timm cannot make {name} for {classes} classes and {channels} channels "
            f"({type(error).__name__}: {error})."
        ) from error
