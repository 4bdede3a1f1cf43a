"""Networks by name: ours (one per file of this package), torchvision's classifiers, timm's, the user's own.

Importing this package imports neither torch nor torchvision, so `known` and `names` answer at once; `build`
imports what the architecture needs. A new architecture is a file here with one decorated factory::

    @ARCHITECTURES.register("my", input="1x28x28")
    def my(classes: int, channels: int) -> nn.Module:
        \"\"\"One line that says exactly which network this is.\"\"\"
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
    """Every architecture that is known by its bare name: ours, then torchvision's classifiers."""
    ours = ARCHITECTURES.names()
    return [*ours, *(name for name in from_torchvision.NAMES if name not in ours)]


def known(arch: str) -> None:
    """PruningError unless `arch` is a known name, `file.py:factory`, `package.module:factory`, `timm:NAME`.

    Imports neither torch nor torchvision. What lies behind a path is looked for but not run: `build`
    finds the factory and calls it.
    """
    if from_timm.matches(arch):
        return
    if custom.matches(arch):
        custom.find(arch)
    elif arch not in names():
        raise unknown("architecture", arch, names())


def sources(arch: str) -> set[Path]:
    """The files of the function that makes the network; none for torchvision's and timm's. PruningError if unknown.

    Of a user's own network, once it has been built, also those that its file takes code from.
    """
    known(arch)
    if custom.matches(arch) and not from_timm.matches(arch):
        return custom.sources(arch)
    return {Path(inspect.getfile(ARCHITECTURES.get(arch)))} if arch in ARCHITECTURES.names() else set()


def check_published(arch: str) -> None:
    """PruningError unless `arch` is one of which its makers published weights."""
    if from_timm.matches(arch) or (arch in from_torchvision.NAMES and arch not in ARCHITECTURES.names()):
        return
    raise PruningError(
        f"There are no published weights of {arch} to start from: "
        "leave --pretrained out, or give a file with --weights.",
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
    """The network `arch` for images of `shape` (channels, height, width) and `classes` outputs, on the CPU.

    With `pretrained` it starts from the weights that its makers published, with `weights` from those of a
    file (see `weights_file.load`), else from random ones drawn from torch's global generator: the same seed
    gives the same network. Raises PruningError for an unknown or failing architecture, for weights that do
    not fit, and for a network that cannot take the images (see `trial.check`).
    """
    from pruning.models import shape_check, weights_file

    known(arch)
    if pretrained and weights is not None:
        raise PruningError(f"Both --pretrained and --weights {weights} are given: choose one of them.")
    model = _make(arch, classes, shape[0], pretrained)
    shape_check.check(model, shape, classes, arch)
    if weights is not None:
        weights_file.load(model, weights, arch)
    return model


def _make(arch: str, classes: int, channels: int, pretrained: bool) -> nn.Module:
    if from_timm.matches(arch):
        return from_timm.make(arch, classes, channels, pretrained)
    if arch in from_torchvision.NAMES and arch not in ARCHITECTURES.names():
        return from_torchvision.make(arch, classes, channels, pretrained)
    if pretrained:
        check_published(arch)
    if custom.matches(arch):
        return custom.make(arch, classes, channels)
    model: nn.Module = ARCHITECTURES.get(arch)(classes, channels)
    return model
