"""Channel groups: the channels of all layers that can only be removed together.

Layers share channels through residual connections, concatenations and flattened feature maps. torch-pruning's
dependency graph (Fang et al., arXiv 2301.12900; the extra `shrink`) finds them. It is unreliable for padded channels
(option A shortcuts), attention, shuffled or split channels and grouped convolutions: those channels are reported as
not removable, with the reason.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from pruning.errors import PruningError

UNSUPPORTED_MODELS = ("SwinTransformer", "MaxVit")  # torch-pruning's search does not end within minutes
SPATIAL_DIMENSIONS = (2, 3)
# Autograd operations that keep every channel separate and in place. torch-pruning assumes this of all operations.
CHANNELWISE_OPERATIONS = frozenset(
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
class ChannelGroup:
    """Channels of several layers that are removed together.

    Attributes:
        channels: Number of channels in the group.
        members: Name of a layer or normalisation -> its own output channel for each of the group's channels.
    """

    channels: int
    members: dict[str, tuple[int, ...]]


def find_channel_groups(model: nn.Module, images: Tensor) -> tuple[list[ChannelGroup], dict[str, str]]:
    """Return the removable channel groups, and why the channels of all other layers are not removable.

    Args:
        model: Any network; it is copied, not changed.
        images: (N, channels, H, W) example inputs; only the first is used.

    Returns:
        The groups, and layer name -> obstacle for the layers of all other groups.

    Raises:
        PruningError: torch-pruning is missing or cannot trace this network.
    """
    removable: list[ChannelGroup] = []
    obstacles: dict[str, str] = {}
    with tracing_errors_explained(model):
        for group in dependency_groups(copy_for_tracing(model), images):
            obstacle = group.obstacle()
            if obstacle is None:
                removable.append(group.channel_group())
            else:
                obstacles |= dict.fromkeys(group.channel_group().members, obstacle)
    return removable, obstacles


class DependencyGroup:
    """One of torch-pruning's groups. The only class that uses its items, node types and index mappings."""

    def __init__(self, graph: Any, items: Any, names: dict[nn.Module, str]) -> None:
        self._graph, self._items, self._names = graph, items, names
        self._root = items[0].dep.target.module
        self.channels = len(items[0].idxs)

    def obstacle(self) -> str | None:
        """Return why these channels cannot be removed, or None if they can."""
        if not any(True for _ in self._consumers()):
            return "these channels are the network's output"
        return next(
            (reason for item in self._items if (reason := self._node_obstacle(item.dep.target))), None
        )

    def _node_obstacle(self, node: Any) -> str | None:
        kind, module = node.type.name, node.module
        if kind == "ELEMENTWISE":
            return _operation_obstacle(node)
        if kind == "SLICE" and node.grad_fn._saved_dim in SPATIAL_DIMENSIONS:
            return None
        if kind == "CONV" and module.groups > 1:
            return f"{self._names[module]} is a grouped convolution"
        if not node.outputs and kind not in ("CONV", "LINEAR"):
            return "these channels reach the network's output"
        if kind in ("CONV", "DEPTHWISE_CONV", "LINEAR", "BN", "PRELU", "CONCAT", "RESHAPE"):
            return None
        return f"they pass through {self._names.get(module) or kind.lower()}, which mixes or moves channels"

    def _consumers(self) -> Iterator[tuple[str, Any]]:
        """Yield (name, torch-pruning's item) for every layer that has these channels as inputs."""
        for item in self._items:
            module, kind = item.dep.target.module, item.dep.target.type.name
            pruner = self._graph.get_pruner_of_module(module)
            if kind in ("CONV", "LINEAR") and item.dep.handler == pruner.prune_in_channels:
                yield self._names[module], item

    def dead_channels(self, zero_inputs: dict[str, Tensor]) -> list[int]:
        """Return the channels that are zero for every layer that reads them.

        Args:
            zero_inputs: Layer name -> bool (input channels,), True where the input is always zero.
        """
        read: set[int] = set()
        for name, item in self._consumers():
            zero = zero_inputs[name].tolist()
            read |= {root for index, root in zip(item.idxs, item.root_idxs, strict=True) if not zero[index]}
        return [channel for channel in range(self.channels) if channel not in read]

    def remove(self, channels: list[int], zero_inputs: dict[str, Tensor]) -> None:
        """Remove channels from all layers of the group in place, and their entries from `zero_inputs`."""
        if not channels:
            return
        removed = set(channels)
        for name, item in self._consumers():
            out = [index for index, root in zip(item.idxs, item.root_idxs, strict=True) if root in removed]
            keep = torch.ones(len(zero_inputs[name]), dtype=torch.bool)
            keep[out] = False
            zero_inputs[name] = zero_inputs[name][keep]
        pruner = self._graph.get_pruner_of_module(self._root)
        self._graph.get_pruning_group(self._root, pruner.prune_out_channels, channels).prune()

    def channel_group(self) -> ChannelGroup:
        """Return the layers and normalisations that write these channels, one channel for each of the group's."""
        members = {}
        for item in self._items:
            module, kind = item.dep.target.module, item.dep.target.type.name
            writes = kind in ("BN", "DEPTHWISE_CONV") or item.dep.handler == (
                self._graph.get_pruner_of_module(module).prune_out_channels
            )
            own = dict(zip(item.root_idxs, item.idxs, strict=True))
            one_to_one = len(item.idxs) == len(own) == self.channels
            if kind in ("CONV", "LINEAR", "BN", "DEPTHWISE_CONV") and writes and one_to_one:
                members[self._names[module]] = tuple(own[channel] for channel in range(self.channels))
        return ChannelGroup(self.channels, members)


def _operation_obstacle(node: Any) -> str | None:
    operation = node.grad_fn.name().partition("Backward")[0].removeprefix("Unknown")
    if operation == "ConstantPadNd":
        # torch lists two paddings for each dimension, from the last one on; the third pair pads the channels.
        channels_padded = any(node.grad_fn._saved_pad[4:])
        return "they are padded with zeros (an option A shortcut)" if channels_padded else None
    if operation in CHANNELWISE_OPERATIONS:
        return None
    return f"they pass through {operation}, which may mix channels"


def copy_for_tracing(model: nn.Module) -> nn.Module:
    """Return a contiguous copy in evaluation mode: flattened channels-last maps are traced as restriding."""
    return copy.deepcopy(model).eval().to(memory_format=torch.contiguous_format)


def dependency_groups(model: nn.Module, images: Tensor) -> Iterator[DependencyGroup]:
    """Yield all groups of dependent channels of `model`, a result of `copy_for_tracing`."""
    tp = _torch_pruning()
    names = {module: name for name, module in model.named_modules()}
    image = images[:1].clone(memory_format=torch.contiguous_format).requires_grad_()
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # about parameters outside layers, whose channels are not removable
        # A tuple, because torch-pruning first tries a bare tensor without its batch dimension.
        graph = tp.DependencyGraph().build_dependency(model, (image,), verbose=False)
    for items in graph.get_all_groups():
        yield DependencyGroup(graph, items, names)


@contextmanager
def tracing_errors_explained(model: nn.Module) -> Iterator[None]:
    """Turn any error of torch-pruning into a PruningError that names the model's class."""
    kind = type(model).__name__
    if kind in UNSUPPORTED_MODELS:
        raise PruningError(
            f"The channels of {kind} cannot be traced: torch-pruning does not support its windowed attention. "
            "Prune single weights or blocks instead of filters."
        )
    try:
        yield
    except PruningError:
        raise
    except Exception as error:  # tracing runs the model's own code, which may raise any error
        raise PruningError(
            f"The channels of {kind} cannot be traced ({type(error).__name__} in torch-pruning). "
            "Prune single weights or blocks instead of filters."
        ) from error


def _torch_pruning() -> ModuleType:
    try:
        import torch_pruning
    except ImportError as error:
        raise PruningError(
            "Filters need torch-pruning, which is not installed: pip install 'pruning[shrink]'."
        ) from error
    return torch_pruning
