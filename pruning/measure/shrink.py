"""Build a smaller dense network from a filter-pruned one, without its dead channels.

A channel is dead if its values are zero in every consumer for every input. Dead channels are found with a copy of the
network and positive inputs. In the copy, every nonzero weight is positive and every running mean negative. Values then
never cancel, and no ReLU returns zero for a nonzero channel. A channel that is still zero is zero for every input. A
nonzero batch-norm shift or a sigmoid makes the values nonzero, so such a channel is kept.

`pruning.core.channel_groups` finds which layers share a channel. Channels that it cannot trace are kept, and the
reason is reported. The outputs of both networks are compared before the smaller one is returned.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from pruning.core.channel_groups import copy_for_tracing, dependency_groups, tracing_errors_explained
from pruning.core.layers import input_width
from pruning.errors import PruningError
from pruning.utils import files
from pruning.utils.modules import eval_mode, is_channels_last

FORMAT = {"format": "pruning shrunk network", "version": "1"}
TOLERANCE = 1e-4


@dataclass(frozen=True)
class ShrunkNetwork:
    """A network without its dead channels.

    Attributes:
        model: The smaller network.
        widths: Layer name -> output channels (before, after), for the layers that lost any.
        remaining_zero_filters: Layer name -> why the layer still has filters of zeros.
        difference: Largest absolute difference between the outputs of both networks.
    """

    model: nn.Module
    widths: dict[str, tuple[int, int]]
    remaining_zero_filters: dict[str, str]
    difference: float


def shrink(model: nn.Module, images: Tensor) -> ShrunkNetwork:
    """Return a smaller copy of `model` without its dead channels.

    A layer whose channels are all dead keeps one.

    Args:
        model: A filter-pruned network; it is not changed.
        images: (N, channels, H, W) inputs like those of the network, on its device. Both networks' outputs for them
            must agree to 1e-4 (times the largest output, if that is above 1).

    Raises:
        PruningError: torch-pruning is missing or cannot trace this network, or the outputs do not agree.
    """
    small = copy_for_tracing(model)
    before = _output_widths(small)
    zero_inputs = _find_zero_inputs(model, images)
    obstacles: dict[str, str] = {}
    with tracing_errors_explained(model):
        for group in dependency_groups(small, images):
            obstacle = group.obstacle()
            if obstacle is None:
                group.remove(group.dead_channels(zero_inputs)[: group.channels - 1], zero_inputs)
            else:
                obstacles |= dict.fromkeys(group.channel_group().members, obstacle)
    remaining = {name: obstacles.get(name, reason) for name, reason in _remaining_zero_filters(small).items()}
    widths = {
        name: (width, now) for name, now in _output_widths(small).items() if (width := before[name]) != now
    }
    if is_channels_last(model):
        small.to(memory_format=torch.channels_last)
    return ShrunkNetwork(small, widths, remaining, _check_outputs(model, small, images))


def save(model: nn.Module, path: Path) -> None:
    """Write a shrunk network as a safetensors file; the shapes of its tensors are its widths."""
    files.write_tensors_atomic(path, model.state_dict(), FORMAT)


def load(model: nn.Module, path: Path) -> nn.Module:
    """Return a copy of `model` (the same architecture in full width) with the widths and tensors of a saved file.

    Raises:
        PruningError: The file cannot be read, or has another architecture.
    """
    try:
        tensors = files.read_tensors(path)
    except (OSError, ValueError) as error:
        raise PruningError(f"{path} cannot be read as a shrunk network: {error}.") from error
    small = copy.deepcopy(model)
    names, expected = set(tensors), set(small.state_dict())
    if names != expected:
        unmatched = sorted(names ^ expected)[0]
        raise PruningError(
            f"{path} has another architecture than {type(model).__name__}: the tensor {unmatched} is only in "
            f"{'the file' if unmatched in names else type(model).__name__}."
        )
    for name, module in small.named_modules():
        for own, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            stored = tensors[f"{name}.{own}" if name else own]
            if not _fits(module, own, tensor, stored):
                raise PruningError(
                    f"{path} has another architecture than {type(model).__name__}: {name}.{own} has shape "
                    f"{tuple(stored.shape)} in the file, and at most {tuple(tensor.shape)} in {type(model).__name__}."
                )
            _replace_tensor(module, own, tensor, stored)
        _set_widths(module)
    return small


def _fits(module: nn.Module, own: str, tensor: Tensor, stored: Tensor) -> bool:
    """Whether `stored` can be `module.own` in a narrower copy: only the channel dimensions may be smaller."""
    channel_dimensions = 2 if own == "weight" and isinstance(module, _ConvNd | nn.Linear) else 1
    same_rest = (
        tensor.dim() == stored.dim()
        and tensor.shape[channel_dimensions:] == stored.shape[channel_dimensions:]
    )
    return same_rest and all(now <= full for now, full in zip(stored.shape, tensor.shape, strict=True))


def _replace_tensor(module: nn.Module, own: str, tensor: Tensor, stored: Tensor) -> None:
    fitting = stored.to(tensor)
    is_parameter = isinstance(tensor, nn.Parameter)
    setattr(module, own, nn.Parameter(fitting, tensor.requires_grad) if is_parameter else fitting)


def _set_widths(module: nn.Module) -> None:
    """Set the width attributes of a layer to the shapes of its tensors."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _BatchNorm) and module.running_mean is not None:
        module.num_features = len(module.running_mean)
    elif isinstance(module, _ConvNd):
        first, second = module.weight.shape[:2]
        if _is_depthwise(module):
            module.groups = module.in_channels = module.out_channels = first
        elif module.transposed:
            module.in_channels, module.out_channels = first, second * module.groups
        else:
            module.out_channels, module.in_channels = first, second * module.groups


def _is_depthwise(module: _ConvNd) -> bool:
    return module.groups == module.in_channels == module.out_channels and module.groups > 1


def _find_zero_inputs(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return layer name -> bool (input channels,), True where the input is zero for every image."""
    probe = copy.deepcopy(model).float()
    seen: dict[str, Tensor] = {}

    def record(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            dimension = inputs[0].dim() - 1 if isinstance(module, nn.Linear) else 1
            others = [other for other in range(inputs[0].dim()) if other != dimension]
            zero = ~(inputs[0] != 0).sum(others).bool().cpu()
            seen[name] = seen[name] & zero if name in seen else zero

        return hook

    consumers = {
        name: module for name, module in probe.named_modules() if isinstance(module, _ConvNd | nn.Linear)
    }
    for name, consumer in consumers.items():
        consumer.register_forward_pre_hook(record(name))
    generator = torch.Generator().manual_seed(0)
    with eval_mode(probe):
        for _ in range(2):
            for module in probe.modules():
                _make_positive(module, generator)
            probe(_positive(torch.ones_like(images[:2], dtype=torch.float32), generator))
    return {
        name: seen.get(name, torch.zeros(input_width(module), dtype=torch.bool))
        for name, module in consumers.items()
    }


def _make_positive(module: nn.Module, generator: torch.Generator) -> None:
    """Replace every nonzero parameter by a positive number, and running means by negative ones, in place."""
    for parameter in module.parameters(recurse=False):
        parameter.copy_(_positive(parameter, generator))
        if parameter.dim() > 1:  # outputs average the inputs, so that deep networks do not overflow
            rows = (parameter != 0).flatten(1).sum(1).clamp(min=1)
            parameter.div_(rows.view(-1, *[1] * (parameter.dim() - 1)))
    if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None:
        module.running_mean.copy_(-_positive(module.running_mean, generator))
        module.running_var.fill_(1)


def _positive(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Random numbers from 0.5 to 1.5 where `tensor` is nonzero."""
    return (tensor != 0) * (0.5 + torch.rand(tensor.shape, generator=generator).to(tensor.device))


def _output_widths(model: nn.Module) -> dict[str, int]:
    widths = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            widths[name] = module.out_features
        elif isinstance(module, _ConvNd):
            widths[name] = module.out_channels
    return widths


def _remaining_zero_filters(model: nn.Module) -> dict[str, str]:
    """Return layer name -> a sentence with the number of filters of zeros that the layer still has."""
    remaining = {}
    for name, module in model.named_modules():
        if isinstance(module, _ConvNd | nn.Linear) and not getattr(module, "transposed", False):
            zero = int((module.weight.detach().flatten(1) == 0).all(1).sum())
            if zero:
                remaining[name] = (
                    f"{zero} filters of zeros share their channels with others, or have nonzero outputs"
                )
    return remaining


def _check_outputs(model: nn.Module, small: nn.Module, images: Tensor) -> float:
    """Return the largest absolute difference of the outputs of both networks.

    Raises:
        PruningError: The smaller network fails, or its outputs have another shape or differ by more than 1e-4 (times
            the largest output, if that is above 1).
    """
    try:
        with eval_mode(model, small):
            expected, found = model(images), small(images)
    except RuntimeError as error:
        raise PruningError(
            f"{type(model).__name__} cannot be shrunk: the smaller network does not run ({error})."
        ) from error
    if expected.shape != found.shape:
        raise PruningError(
            f"{type(model).__name__} cannot be shrunk: the outputs of the smaller network would have "
            f"shape {tuple(found.shape)} instead of {tuple(expected.shape)}."
        )
    difference = float((expected - found).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise PruningError(
            f"{type(model).__name__} cannot be shrunk: "
            f"the outputs of the smaller network differ from those of the pruned network by {difference:.2g}."
        )
    return difference
