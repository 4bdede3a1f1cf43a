"""Filters that are masked, taken out: a smaller dense network of the same function.

A channel may be taken out if everything that reads it reads zero, whatever the image. Which channels
those are is found by sending positive numbers through a copy of the network in which every weight that is
not zero is positive (and every mean to subtract negative): nothing cancels and no ReLU closes, so a
channel that still is zero everywhere is zero by structure. A batch norm with a shift other than zero, or
a sigmoid on the way, opens the channel again, and it is left in.

Which layers share a channel (a residual stream, a concatenation, a flattened image) is found by torch-
pruning's dependency graph (Fang et al., arXiv 2301.12900), the extra `shrink`. Where its graph can't be
relied upon (channels that are padded as in option A shortcuts, attention, shuffled or split channels,
grouped convolutions) the channels are left as they are and the reason is reported. The outputs are
compared before a shrunk network is given out.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from pruning.core.layers import input_width
from pruning.errors import PruningError
from pruning.measure.evaluation import eval_mode
from pruning.training.loop import lies_channels_last
from pruning.utils import files

FORMAT = {"format": "pruning shrunk network", "version": "1"}
TOLERANCE = 1e-4
NOT_FOLLOWED = ("SwinTransformer", "MaxVit")  # torch-pruning's search does not end in reasonable time
SPATIAL = (2, 3)
# Operations that treat every channel alike and keep it in its place; torch-pruning takes any other for
# one, too.
CHANNEL_BY_CHANNEL = frozenset(
    (
        *("Add", "Sub", "Mul", "Div", "Neg", "Pow", "Exp", "Clamp", "Mean", "Addmm", "T"),
        *("Relu", "LeakyRelu", "Elu", "Gelu", "Silu", "Mish", "Softplus", "Sigmoid", "Tanh"),
        *("Hardtanh", "Hardswish", "Hardsigmoid", "NativeDropout"),
        *("MaxPool2DWithIndices", "AvgPool2D", "AdaptiveAvgPool2D", "AdaptiveMaxPool2D"),
        *("UpsampleNearest2D", "UpsampleBilinear2D"),
        *("Transpose", "Permute", "Clone", "Squeeze", "Unsqueeze", "UnsafeView", "Alias"),
    )
)


@dataclass(frozen=True)
class Shrunk:
    """A network without its empty channels.

    `widths`: layer name -> output channels (before, now), for the layers that lost any. `left`: layer
    name -> why channels that are masked there are still there. `difference`: largest absolute difference
    of the outputs.
    """

    model: nn.Module
    widths: dict[str, tuple[int, int]]
    left: dict[str, str]
    difference: float


@dataclass(frozen=True)
class Coupled:
    """Channels that only go together: layer name -> its channel for each of the group's `channels`."""

    channels: int
    members: dict[str, tuple[int, ...]]


def shrink(model: nn.Module, images: Tensor) -> Shrunk:
    """A smaller copy of `model` without the channels that its masks emptied; `model` itself is left as it is.

    images: (N, channels, H, W), like those that the network is for; the outputs for them must agree to
    1e-4 (of the largest output, if that is above 1). A layer of which nothing is left keeps one channel.
    Raises PruningError if torch-pruning is missing, can't follow this network, or the outputs do not
    agree.
    """
    small = _to_follow(model)
    before = _out_widths(small)
    empty = _channels_read_as_zero(model, images)
    obstacles: dict[str, str] = {}
    with _followed(model):
        for group in _groups(small, images):
            obstacle = group.obstacle()
            if obstacle is None:
                group.prune(group.removable(empty)[: group.channels - 1], empty)
            else:
                obstacles |= dict.fromkeys(group.coupled().members, obstacle)
    left = {name: obstacles.get(name, reason) for name, reason in _still_empty(small).items()}
    widths = {
        name: (width, now) for name, now in _out_widths(small).items() if (width := before[name]) != now
    }
    if lies_channels_last(model):
        small.to(memory_format=torch.channels_last)
    return Shrunk(small, widths, left, _agree(model, small, images))


def coupled(model: nn.Module, images: Tensor) -> list[Coupled]:
    """The groups of channels that `shrink` can take out together, with all layers and norms that make them.

    A structured method that removes whole groups (`remove`) gets all of it back in speed; one that
    removes filters layer by layer gets back what happens to fall together.
    """
    return channels(model, images)[0]


def channels(model: nn.Module, images: Tensor) -> tuple[list[Coupled], dict[str, str]]:
    """The groups of `coupled`, and for the layers of all other groups the reason why their channels must stay."""
    removable: list[Coupled] = []
    obstacles: dict[str, str] = {}
    with _followed(model):
        for group in _groups(_to_follow(model), images):
            obstacle = group.obstacle()
            if obstacle is None:
                removable.append(group.coupled())
            else:
                obstacles |= dict.fromkeys(group.coupled().members, obstacle)
    return removable, obstacles


def remove(model: nn.Module, group: Coupled, channels: list[int]) -> None:
    """Set the filters of these channels of a group to zero, with their biases and normalisation, in place."""
    modules = dict(model.named_modules())
    for name, own in group.members.items():
        module: Any = modules[name]
        rows = [own[channel] for channel in channels]
        dimension = 1 if getattr(module, "transposed", False) else 0
        with torch.no_grad():
            if module.weight is not None:  # a norm may have neither
                module.weight.index_fill_(dimension, torch.tensor(rows, device=module.weight.device), 0)
            if module.bias is not None:
                module.bias[rows] = 0


def save(model: nn.Module, path: Path) -> None:
    """Write a shrunk network: plain tensors, whose shapes are its widths."""
    files.write_tensors(path, model.state_dict(), FORMAT)


def load(model: nn.Module, path: Path) -> nn.Module:
    """The network of a file written by `save`: a copy of `model`, the same architecture in full width,
    made to fit.

    Raises PruningError if the file can't be read, or is of another architecture.
    """
    try:
        tensors = files.read_tensors(path)
    except (OSError, ValueError) as error:
        raise PruningError(f"{path} can't be read as a shrunk network: {error}.") from error
    small = copy.deepcopy(model)
    names, expected = set(tensors), set(small.state_dict())
    if names != expected:
        odd = sorted(names ^ expected)[0]
        raise PruningError(f"{path} is of another architecture: the tensor {odd} is in only one of the two.")
    for name, module in small.named_modules():
        for own, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            stored = tensors[f"{name}.{own}" if name else own]
            _fit(path, f"{name}.{own}", module, own, tensor, stored)
        _set_widths(module)
    return small


def _fit(path: Path, name: str, module: nn.Module, own: str, tensor: Tensor, stored: Tensor) -> None:
    free = 2 if own == "weight" and isinstance(module, _ConvNd | nn.Linear) else 1
    same_rest = tensor.dim() == stored.dim() and tensor.shape[free:] == stored.shape[free:]
    if not same_rest or any(now > full for now, full in zip(stored.shape, tensor.shape, strict=True)):
        raise PruningError(
            f"{path} is of another architecture: {name} is {tuple(stored.shape)} there, and at most "
            f"{tuple(tensor.shape)} in this network."
        )
    fitting = stored.to(tensor)
    setattr(
        module,
        own,
        nn.Parameter(fitting, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fitting,
    )


def _set_widths(module: nn.Module) -> None:
    """Make a layer's own record of its widths agree with its tensors."""
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


class _Group:
    """One of torch-pruning's groups: the only place that knows its items, node types and index mappings."""

    def __init__(self, graph: Any, items: Any, names: dict[nn.Module, str]) -> None:
        self._graph, self._items, self._names = graph, items, names
        self._root = items[0].dep.target.module
        self.channels = len(items[0].idxs)

    def obstacle(self) -> str | None:
        """Why these channels must stay whatever their weights, or None."""
        if not any(True for _ in self._readers()):
            return "these channels are the network's output"
        return next((reason for item in self._items if (reason := self._unreliable(item.dep.target))), None)

    def _unreliable(self, node: Any) -> str | None:
        kind, module = node.type.name, node.module
        if kind == "ELEMENTWISE":
            return _unreliable_operation(node)
        if kind == "SLICE" and node.grad_fn._saved_dim in SPATIAL:
            return None
        if kind == "CONV" and module.groups > 1:
            return f"{self._names[module]} is a grouped convolution"
        if not node.outputs and kind not in ("CONV", "LINEAR"):
            return "these channels reach the network's output"
        if kind in ("CONV", "DEPTHWISE_CONV", "LINEAR", "BN", "PRELU", "CONCAT", "RESHAPE"):
            return None
        return f"they meet {self._names.get(module) or kind.lower()}, which mixes or moves channels"

    def _readers(self) -> Iterator[tuple[str, Any]]:
        """Layers that multiply these channels: (name, item)."""
        for item in self._items:
            module, kind = item.dep.target.module, item.dep.target.type.name
            pruner = self._graph.get_pruner_of_module(module)
            if kind in ("CONV", "LINEAR") and item.dep.handler == pruner.prune_in_channels:
                yield self._names[module], item

    def removable(self, empty: dict[str, Tensor]) -> list[int]:
        """The channels that every reader reads as zero."""
        read: set[int] = set()
        for name, item in self._readers():
            zero = empty[name].tolist()
            read |= {root for index, root in zip(item.idxs, item.root_idxs, strict=True) if not zero[index]}
        return [channel for channel in range(self.channels) if channel not in read]

    def prune(self, channels: list[int], empty: dict[str, Tensor]) -> None:
        """Take channels out, here and in the record of what each reader reads as zero."""
        if not channels:
            return
        gone = set(channels)
        for name, item in self._readers():
            out = [index for index, root in zip(item.idxs, item.root_idxs, strict=True) if root in gone]
            keep = torch.ones(len(empty[name]), dtype=torch.bool)
            keep[out] = False
            empty[name] = empty[name][keep]
        pruner = self._graph.get_pruner_of_module(self._root)
        self._graph.get_pruning_group(self._root, pruner.prune_out_channels, channels).prune()

    def coupled(self) -> Coupled:
        members = {}
        for item in self._items:
            module, kind = item.dep.target.module, item.dep.target.type.name
            produces = kind in ("BN", "DEPTHWISE_CONV") or item.dep.handler == (
                self._graph.get_pruner_of_module(module).prune_out_channels
            )
            own = dict(zip(item.root_idxs, item.idxs, strict=True))
            one_to_one = len(item.idxs) == len(own) == self.channels
            if kind in ("CONV", "LINEAR", "BN", "DEPTHWISE_CONV") and produces and one_to_one:
                members[self._names[module]] = tuple(own[channel] for channel in range(self.channels))
        return Coupled(self.channels, members)


def _unreliable_operation(node: Any) -> str | None:
    operation = node.grad_fn.name().partition("Backward")[0].removeprefix("Unknown")
    if operation == "ConstantPadNd":
        # torch pads from the last dimension on, with two numbers for each; the third is that of the channels.
        channels_padded = any(node.grad_fn._saved_pad[4:])
        return "they are padded with zeros (an option A shortcut)" if channels_padded else None
    if operation in CHANNEL_BY_CHANNEL:
        return None
    return f"they pass through {operation}, which may mix channels"


def _to_follow(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode that lies channels first: flattening channels-last maps is traced as restriding."""
    return copy.deepcopy(model).eval().to(memory_format=torch.contiguous_format)


def _groups(model: nn.Module, images: Tensor) -> Iterator[_Group]:
    tp = _torch_pruning()
    names = {module: name for name, module in model.named_modules()}
    image = images[:1].clone(memory_format=torch.contiguous_format).requires_grad_()
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # of parameters outside of layers: what meets them is left
        # A tuple: of a bare tensor torch-pruning tries the first image without its batch dimension before all of it.
        graph = tp.DependencyGraph().build_dependency(model, (image,), verbose=False)
    for items in graph.get_all_groups():
        yield _Group(graph, items, names)


@contextmanager
def _followed(model: nn.Module) -> Iterator[None]:
    """Whatever torch-pruning raises of its own, as a PruningError that names the network."""
    kind = type(model).__name__
    if kind in NOT_FOLLOWED:
        raise PruningError(f"{kind} can't be shrunk: torch-pruning can't follow its windows of attention.")
    try:
        yield
    except PruningError:
        raise
    except Exception as error:  # torch-pruning raises whatever its tracing ran into
        raise PruningError(
            f"torch-pruning can't follow the channels of {kind} ({type(error).__name__} in its tracing), so that "
            "no filter can be removed with all that goes with it, or taken out; remove single weights or blocks."
        ) from error


def _torch_pruning() -> ModuleType:
    try:
        import torch_pruning
    except ImportError as error:
        raise PruningError("Shrinking needs torch-pruning: pip install 'pruning[shrink]'.") from error
    return torch_pruning


def _channels_read_as_zero(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """For every convolution and linear layer, which of its input channels are zero whatever the image."""
    probe = copy.deepcopy(model).float()
    seen: dict[str, Tensor] = {}

    def look(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            dimension = inputs[0].dim() - 1 if isinstance(module, nn.Linear) else 1
            others = [other for other in range(inputs[0].dim()) if other != dimension]
            zero = ~(inputs[0] != 0).sum(others).bool().cpu()
            seen[name] = seen[name] & zero if name in seen else zero

        return hook

    readers = {
        name: module for name, module in probe.named_modules() if isinstance(module, _ConvNd | nn.Linear)
    }
    for name, reader in readers.items():
        reader.register_forward_pre_hook(look(name))
    generator = torch.Generator().manual_seed(0)
    with eval_mode(probe):
        for _ in range(2):
            for module in probe.modules():
                _make_positive(module, model, generator)
            probe(_positive(torch.ones_like(images[:2], dtype=torch.float32), generator))
    return {
        name: seen.get(name, torch.zeros(input_width(module), dtype=torch.bool))
        for name, module in readers.items()
    }


def _make_positive(module: nn.Module, model: nn.Module, generator: torch.Generator) -> None:
    for parameter in module.parameters(recurse=False):
        parameter.copy_(_positive(parameter, generator))
        if parameter.dim() > 1:  # an average of its inputs, so that no depth overflows
            rows = (parameter != 0).flatten(1).sum(1).clamp(min=1)
            parameter.div_(rows.view(-1, *[1] * (parameter.dim() - 1)))
    if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None:
        module.running_mean.copy_(-_positive(module.running_mean, generator))
        module.running_var.fill_(1)


def _positive(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Numbers from 0.5 to 1.5 where `tensor` is not zero."""
    return (tensor != 0) * (0.5 + torch.rand(tensor.shape, generator=generator).to(tensor.device))


def _out_widths(model: nn.Module) -> dict[str, int]:
    widths = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            widths[name] = module.out_features
        elif isinstance(module, _ConvNd):
            widths[name] = module.out_channels
    return widths


def _still_empty(model: nn.Module) -> dict[str, str]:
    """Layers in which filters of zeros remain, in words."""
    left = {}
    for name, module in model.named_modules():
        if isinstance(module, _ConvNd | nn.Linear) and not getattr(module, "transposed", False):
            zero = int((module.weight.detach().flatten(1) == 0).all(1).sum())
            if zero:
                left[name] = (
                    f"{zero} filters of zeros share their channels with others, or their output is not zero"
                )
    return left


def _agree(model: nn.Module, small: nn.Module, images: Tensor) -> float:
    try:
        with eval_mode(model, small):
            expected, found = model(images), small(images)
    except RuntimeError as error:
        raise PruningError(
            f"{type(model).__name__} can't be shrunk: the smaller network does not run ({error})."
        ) from error
    if expected.shape != found.shape:
        raise PruningError(f"{type(model).__name__} can't be shrunk: its outputs would shrink, too.")
    difference = float((expected - found).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise PruningError(
            f"{type(model).__name__} can't be shrunk: "
            f"the outputs of the smaller network differ by {difference:.2g}."
        )
    return difference
