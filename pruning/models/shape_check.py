"""Check that a network can process the data's images, before anything is trained."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pruning.errors import PruningError, first_line
from pruning.models.meta_model import on_meta_device
from pruning.registry import ARCHITECTURES
from pruning.utils.modules import zero_images
from pruning.utils.text import format_shape, pluralize

Shape = tuple[int, int, int]


def check(model: nn.Module, shape: Shape, classes: int, arch: str | None = None) -> None:
    """Raise PruningError unless `model` returns `classes` logits per image of `shape` (channels, height, width).

    Runs a batch of two zero images in evaluation mode; modes, buffers and random state are restored. `arch`
    names the network in errors (default: its class). The error lists the architectures that accept the shape.
    """
    name = arch or type(model).__name__
    try:
        logits = _forward(model, shape, 2, training=False)
    except Exception as error:  # a user's network can raise anything
        raise PruningError(
            f"{name} cannot process {format_shape(shape)} images ({_short(error)}). "
            f"{_alternatives(shape, classes)}"
        ) from error
    if not isinstance(logits, Tensor):
        raise PruningError(
            f"{name} returns a {type(logits).__name__}, not one tensor with {classes} logits per image."
        )
    if logits.shape != (2, classes):
        raise PruningError(
            f"{name} returns a tensor of shape {format_shape(logits.shape)} for 2 images of {classes} classes, "
            f"not 2x{classes}. A factory with a parameter num_classes is called with {classes}."
        )


def check_training(model: nn.Module, shape: Shape, batch_size: int, arch: str) -> None:
    """Raise PruningError unless `model` can process a batch of this size in training mode; it is not changed.

    Batch normalisation of vectors, or of 1x1 feature maps, cannot process a single image.
    """
    try:
        _forward(model, shape, batch_size, training=True)
    except Exception as error:  # a user's network can raise anything
        raise PruningError(
            f"{arch} cannot be trained on a batch of {pluralize(batch_size, 'image')} ({_short(error)})"
        ) from error


def fits(arch: str, shape: Shape, classes: int) -> bool:
    """Whether the registered architecture `arch` accepts images of `shape` (channels, height, width)."""
    try:
        model = on_meta_device(lambda: ARCHITECTURES.get(arch)(classes, shape[0]))
        return bool(model(torch.empty(2, *shape, device="meta")).shape == (2, classes))
    except Exception:  # layers, reshaping and a plugin's own checks raise different types
        return False


def _forward(model: nn.Module, shape: Shape, batch_size: int, *, training: bool) -> object:
    images = zero_images(model, batch_size, shape)
    gpus = [images.device] if images.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=gpus), _in_mode(model, training):
        return model(images)


@contextlib.contextmanager
def _in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Set training or evaluation mode; restore modes and buffers on exit."""
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


def _alternatives(shape: Shape, classes: int) -> str:
    fitting = [arch for arch in ARCHITECTURES.names() if fits(arch, shape, classes)]
    if not fitting:
        return "No registered architecture can."
    return f"Architectures that can: {', '.join(fitting)}."


def _short(error: Exception) -> str:
    return first_line(error)[:200].rstrip(".")
