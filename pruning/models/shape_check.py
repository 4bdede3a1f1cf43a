"""Does a network take the data's images? Tried on blank ones before anything is trained."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pruning.errors import PruningError, first_line
from pruning.models.meta_model import unallocated
from pruning.registry import ARCHITECTURES

Shape = tuple[int, int, int]


def check(model: nn.Module, shape: Shape, classes: int, arch: str | None = None) -> None:
    """Raise PruningError unless `model` turns images of `shape` (channels, height, width) into logits.

    Two blank images go through it in evaluation mode without gradients, and must give `classes` logits each;
    modes, buffers and random state are left as they were. `arch` names the network in errors (its class if
    absent). If it cannot take the shape, the error names those of ours that can.
    """
    name = arch or type(model).__name__
    try:
        logits = _tried(model, shape, 2, training=False)
    except Exception as error:  # the network may be anybody's
        raise PruningError(
            f"{name} cannot take {_times(shape)} images ({_short(error)}); {_fitting(shape, classes)}."
        ) from error
    if not isinstance(logits, Tensor):
        raise PruningError(
            f"{name} returns a {type(logits).__name__}, not one tensor with {classes} logits for each image."
        )
    if logits.shape != (2, classes):
        raise PruningError(
            f"{name} returns {_times(logits.shape)} values for 2 images of {classes} classes, "
            f"not 2x{classes}; a factory is told their number if it has a parameter num_classes or classes."
        )


def check_training(model: nn.Module, shape: Shape, batch: int, arch: str) -> None:
    """Raise PruningError unless `model` takes a batch of so many images in training mode; it is left as it was.

    Batch normalisation of vectors, or of maps of one pixel, takes no single image.
    """
    try:
        _tried(model, shape, batch, training=True)
    except Exception as error:  # the network may be anybody's
        images = "1 image" if batch == 1 else f"{batch} images"
        raise PruningError(f"{arch} cannot be trained on a batch of {images} ({_short(error)})") from error


def fits(arch: str, shape: Shape, classes: int) -> bool:
    """Whether our architecture `arch` takes images of `shape` (channels, height, width)."""
    try:
        model = unallocated(lambda: ARCHITECTURES.get(arch)(classes, shape[0]))
        return bool(model(torch.empty(2, *shape, device="meta")).shape == (2, classes))
    except Exception:  # of whatever kind: layers, reshaping and a plugin's own checks raise different ones
        return False


def _tried(model: nn.Module, shape: Shape, batch: int, *, training: bool) -> object:
    parameter = next(model.parameters(), torch.empty(0))
    images = torch.zeros(batch, *shape, device=parameter.device, dtype=parameter.dtype)
    gpus = [parameter.device] if parameter.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=gpus), _in_mode(model, training):
        return model(images)


@contextlib.contextmanager
def _in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Training or evaluation mode within; modes and buffers as they were afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers() if not is_lazy(buffer)]
    model.train(training)
    try:
        yield
    finally:
        for buffer, before in buffers:
            buffer.copy_(before)
        for module, mode in modes:
            module.training = mode


def _fitting(shape: Shape, classes: int) -> str:
    fitting = [arch for arch in ARCHITECTURES.names() if fits(arch, shape, classes)]
    if not fitting:
        return "no architecture of ours takes them"
    return f"architectures that fit: {', '.join(fitting)}"


def _times(shape: Shape | torch.Size) -> str:
    return "x".join(str(size) for size in shape)


def _short(error: Exception) -> str:
    return first_line(error)[:200].rstrip(".")
