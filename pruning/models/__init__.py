"""Architectures by name: those of this package (one per file), torchvision's classifiers, timm's, the user's own.

Importing this package imports neither torch nor torchvision, so that `names` and `check_known` return at once.
To add an architecture, add a file with one decorated function::

    @ARCHITECTURES.register("my", input="1x28x28")
    def my(num_classes: int, in_channels: int) -> nn.Module:
        \"\"\"Summary for `list architectures`.\"\"\"
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING

from pruning.errors import PruningError
from pruning.models import custom, from_timm, from_torchvision
from pruning.registry import ARCHITECTURES, unknown

if TYPE_CHECKING:
    from torch import nn


def names() -> list[str]:
    """Return the registered architectures, then torchvision's classifiers."""
    registered = ARCHITECTURES.names()
    return [*registered, *(name for name in from_torchvision.NAMES if name not in registered)]


def check_known(arch: str) -> None:
    """Raise PruningError unless `arch` is a name, `timm:NAME`, `file.py:factory` or `package.module:factory`.

    The file or module must exist, but it is not run: `build` does that.
    """
    if from_timm.matches(arch):
        return
    if custom.matches(arch):
        custom.find(arch)
    elif arch not in names():
        raise unknown("architecture", arch, names())


def source_files(arch: str) -> set[Path]:
    """Return the files that define the network; none for torchvision and timm.

    For a user's own network that was built already, the files that its file imports from are included.
    """
    check_known(arch)
    if custom.matches(arch) and not from_timm.matches(arch):
        return custom.source_files(arch)
    return {Path(inspect.getfile(ARCHITECTURES.get(arch)))} if arch in ARCHITECTURES.names() else set()


def check_pretrained(arch: str) -> None:
    """Raise PruningError unless --pretrained is possible: torchvision and timm publish weights."""
    if from_timm.matches(arch) or _is_torchvision(arch):
        return
    raise PruningError(
        f"--pretrained conflicts with --arch {arch}: no weights are published for it. "
        "Remove --pretrained, or give a file with --weights.",
        options=("pretrained", "arch"),
    )


def build(
    arch: str,
    *,
    classes: int,
    shape: tuple[int, int, int],
    pretrained: bool = False,
    weights: Path | None = None,
) -> nn.Module:
    """Build the network `arch` on the CPU.

    Args:
        classes: number of logits.
        shape: channels, height and width of the images.
        pretrained: start from the published weights.
        weights: start from the weights in this file (see `weights_file.load`).
            Without either, weights are initialised from torch's global random generator.

    Raises:
        PruningError: for an unknown architecture or one whose code fails, for weights that do not fit, and for
            a network that cannot process the images (see `shape_check.check`).
    """
    from pruning.models import shape_check, weights_file

    check_known(arch)
    if pretrained and weights is not None:
        raise PruningError(
            f"--pretrained conflicts with --weights {weights}. Remove one of them.",
            options=("pretrained", "weights"),
        )
    model = _build(arch, classes, shape[0], pretrained)
    shape_check.check(model, shape, classes, arch)
    if weights is not None:
        weights_file.load(model, weights, arch)
    return model


def _build(arch: str, num_classes: int, in_channels: int, pretrained: bool) -> nn.Module:
    if from_timm.matches(arch):
        return from_timm.build(arch, num_classes, in_channels, pretrained)
    if _is_torchvision(arch):
        return from_torchvision.build(arch, num_classes, in_channels, pretrained)
    if pretrained:
        check_pretrained(arch)
    if custom.matches(arch):
        return custom.build(arch, num_classes, in_channels)
    model: nn.Module = ARCHITECTURES.get(arch)(num_classes, in_channels)
    return model


def _is_torchvision(arch: str) -> bool:
    return arch in from_torchvision.NAMES and arch not in ARCHITECTURES.names()
