"""Does a network take the data's images? Tried on two blank ones before anything is trained."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pruning.errors import PruningError
from pruning.registry import ARCHITECTURES


def check(model: nn.Module, shape: tuple[int, int, int], classes: int, arch: str | None = None) -> None:
    """Raise PruningError unless `model` turns images of `shape` (channels, height, width) into `classes` logits each.

    Two blank images go through it in evaluation mode without gradients; modes, buffers and random state are left as
    they were. `arch` names the network in errors (its class if absent); a network that cannot take the shape is answered
    with those of ours that can.
    """
    name = arch or type(model).__name__
    wanted = (2, classes)
    try:
        got = _tried(model, shape)
    except Exception as error:
        raise PruningError(
            f"{name} cannot take images of {_times(shape)} ({_short(error)}): {_fitting(shape, classes)}."
        ) from error
    if not isinstance(got, Tensor):
        raise PruningError(
            f"{name} returns a {type(got).__name__}, not a tensor with one row of {classes} logits per image."
        )
    if got.shape != wanted:
        raise PruningError(
            f"{name} returns {_times(got.shape)} for 2 images of {classes} classes, not {_times(wanted)}: "
            "a factory is told the number of classes if it names a parameter num_classes or classes."
        )


def fits(arch: str, shape: tuple[int, int, int], classes: int) -> bool:
    """Whether the architecture of ours called `arch` takes images of `shape`; tried without memory or arithmetic."""
    with torch.device("meta"):
        model = ARCHITECTURES.get(arch)(classes, shape[0]).eval()
        try:
            return bool(model(torch.empty(2, *shape)).shape == (2, classes))
        except Exception:
            return False


def _tried(model: nn.Module, shape: tuple[int, int, int]) -> object:
    parameter = next(model.parameters(), torch.empty(0))
    images = torch.zeros(2, *shape, device=parameter.device, dtype=parameter.dtype)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), _evaluating(model):
        return model(images)


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within; modes and buffers as they were afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers() if not is_lazy(buffer)]
    model.eval()
    try:
        yield
    finally:
        for buffer, before in buffers:
            buffer.copy_(before)
        for module, training in modes:
            module.training = training


def _fitting(shape: tuple[int, int, int], classes: int) -> str:
    fitting = [arch for arch in ARCHITECTURES.names() if fits(arch, shape, classes)]
    return f"of our own, {', '.join(fitting)} can" if fitting else "none of our own can either"


def _times(shape: tuple[int, ...] | torch.Size) -> str:
    return "x".join(str(size) for size in shape)


def _short(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")
