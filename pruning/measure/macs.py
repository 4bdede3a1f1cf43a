"""Multiply-adds (MACs) of a network for one image: dense, and with nonzero weights only.

Convolutions and matrix products are counted, padding included, as by torch.utils.flop_counter (one MAC is two of its
FLOPs; importing it takes a second, which is longer than a training step of a small network). Each MAC is credited to
the weight that it reads, identified by its memory address, so that functional calls, fused projections and shared
modules are credited to the right layer. One operation uses each of its weights equally often (its positions), so its
MACs with nonzero weights are exactly positions x nonzero weights. Products of activations (attention) have no weights
and count in full.

Positions do not change when weights are pruned: `trace_macs` runs the network once, `MacsTrace.count` only counts. A
run traces its network once and counts it after every round.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves
from torch.utils.module_tracker import ModuleTracker

from pruning.errors import PruningError, first_line
from pruning.utils.modules import EagerDispatchMode, eval_mode, zero_images


class LayerMacs(NamedTuple):
    """Class name of a layer, its MACs for one image, and those with a nonzero weight."""

    type: str
    macs: int
    nonzero_macs: int


@dataclass(frozen=True)
class MacCounts:
    """MACs for one image; `layers` by name, in the order of `model.named_modules()`."""

    layers: dict[str, LayerMacs]

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers.values())

    @property
    def nonzero_macs(self) -> int:
        return sum(layer.nonzero_macs for layer in self.layers.values())

    @property
    def theoretical_speedup(self) -> float | None:
        """MACs of the dense network / MACs with nonzero weights; None if there are none."""
        return self.macs / self.nonzero_macs if self.nonzero_macs else None


@dataclass(frozen=True)
class WeightView:
    """The part of a parameter that an operation reads; `offset` counts from the parameter's first element."""

    parameter: str
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    def nonzero(self, parameter: Tensor) -> int:
        start = parameter.storage_offset() + self.offset
        return int(torch.count_nonzero(parameter.detach().as_strided(self.size, self.stride, start)))


@dataclass(frozen=True)
class MacsTrace:
    """How often one image uses each weight of a network.

    Attributes:
        types: Layer name -> class name.
        macs: Layer name -> MACs.
        positions: Layer name -> how often each weight is used.
        weightless: Layer name -> MACs of products of activations.
    """

    types: dict[str, str]
    macs: dict[str, int]
    positions: dict[str, dict[WeightView, int]]
    weightless: dict[str, int]

    def count(self, model: nn.Module) -> MacCounts:
        """Count the MACs of `model`: the network that was traced, or a copy with other weights."""
        parameters = dict(model.named_parameters())
        layers = {}
        for name, macs in self.macs.items():
            views = self.positions.get(name, {})
            nonzero = sum(times * view.nonzero(parameters[view.parameter]) for view, times in views.items())
            layers[name] = LayerMacs(self.types[name], macs, nonzero + self.weightless.get(name, 0))
        return MacCounts(layers)


def count_macs(model: nn.Module, shape: tuple[int, int, int]) -> MacCounts:
    """Count the MACs of `model` for one image of `shape` (channels, height, width).

    Raises:
        PruningError: The network does not accept such an image.
    """
    return trace_macs(model, shape).count(model)


def trace_macs(model: nn.Module, shape: tuple[int, int, int]) -> MacsTrace:
    """Trace one image of zeros of `shape` (channels, height, width) through `model`, in evaluation mode.

    Mode, gradients, batch-norm statistics and random state of the model are unchanged.

    Raises:
        PruningError: The network does not accept such an image.
    """
    recorder = _Recorder(model)
    with _unfused_eval_mode(model), recorder.modules, recorder:
        try:
            model(zero_images(model, 1, shape))
        except (RuntimeError, ValueError, IndexError) as error:
            size = "x".join(str(length) for length in shape)
            raise PruningError(
                f"The network does not accept one image of shape {size}: {first_line(error)}"
            ) from error
    return recorder.trace()


@contextmanager
def _unfused_eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients and without kernels that fuse several products into one operation."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    gpus = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with eval_mode(model), sdpa_kernel(SDPBackend.MATH), torch.random.fork_rng(devices=list(gpus)):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _product(left: Tensor, right: Tensor) -> int:
    """MACs of (..., m, k) x (k, n) or (..., k, n)."""
    return left.numel() * right.shape[-1]


def _convolution(result: Tensor, images: Tensor, weight: Tensor, *settings: Any) -> int:
    """Every weight (out, in / groups, ...) is used at every output position; transposed, at every input position."""
    transposed = settings[4]  # after bias, stride, padding and dilation
    positions = images if transposed else result
    return positions.shape[0] * positions.shape[2:].numel() * weight.numel()


def _attention(_: Any, query: Tensor, key: Tensor, value: Tensor, *__: Any) -> int:
    """MACs of both products of softmax(QK')V, for (..., length, width); an attention mask saves none."""
    return query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])


# Operation -> function of (result, *arguments) that returns its MACs.
_MACS_OF: dict[Any, Callable[..., int]] = {
    torch.ops.aten.mm: lambda result, left, right: _product(left, right),
    torch.ops.aten.bmm: lambda result, left, right: _product(left, right),
    torch.ops.aten.addmm: lambda result, added, left, right: _product(left, right),
    torch.ops.aten.baddbmm: lambda result, added, left, right: _product(left, right),
    torch.ops.aten.convolution: _convolution,
    # Attention on Apple GPUs is a single operation.
    torch.ops.aten._scaled_dot_product_attention_math_for_mps: _attention,
}


class _Recorder(EagerDispatchMode):
    """Records the MACs of every operation and the weight that it reads."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.modules = ModuleTracker()
        self._types = {name: type(module).__name__ for name, module in model.named_modules()}
        self._weights: dict[Any, list[tuple[str, Tensor]]] = defaultdict(list)
        for name, parameter in model.named_parameters():
            self._weights[_storage(parameter)].append((name, parameter))
        self._macs: dict[str, int] = defaultdict(int)
        self._positions: dict[str, dict[WeightView, int]] = defaultdict(lambda: defaultdict(int))
        self._weightless: dict[str, int] = defaultdict(int)

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        count_of = _MACS_OF.get(operation.overloadpacket)
        if count_of is None:
            with self:  # composite operations (inside torch.inference_mode) are recorded as their parts
                result = operation.decompose(*args, **kwargs)
            return operation(*args, **kwargs) if result is NotImplemented else result
        result = operation(*args, **kwargs)
        operands = [leaf for leaf in tree_leaves(args) if _is_matrix(leaf)]
        self._record(count_of(result, *args), operands)
        return result

    def _record(self, macs: int, operands: list[Tensor]) -> None:
        views = [view for operand in operands if (view := self._view(operand))]
        if views:
            weight = views[-1]  # the last one, because the input can be a parameter, too (a learned query)
            layer = weight.parameter.rpartition(".")[0]
            self._positions[layer][weight] += macs // prod(weight.size)
        else:
            layer = self._running_module()
            self._weightless[layer] += macs
        self._macs[layer] += macs

    def _view(self, operand: Tensor) -> WeightView | None:
        """Return the parameter, or part of one, with the memory of `operand`; None for an activation."""
        for name, parameter in self._weights.get(_storage(operand), ()):
            offset = operand.storage_offset() - parameter.storage_offset()
            if 0 <= offset < parameter.numel():
                return WeightView(name, tuple(operand.shape), operand.stride(), int(offset))
        return None

    def _running_module(self) -> str:
        # The tracker names the running modules "ClassOfTheModel.path"; the innermost has the longest path.
        innermost = max(self.modules.parents - {"Global"}, key=len, default="")
        return innermost.partition(".")[2]

    def trace(self) -> MacsTrace:
        macs = {name: self._macs[name] for name in self._types if name in self._macs}
        return MacsTrace(self._types, macs, dict(self._positions), dict(self._weightless))


def _is_matrix(value: Any) -> bool:
    """Whether `value` can be a factor of a product; a bias has one dimension and is only added."""
    return isinstance(value, Tensor) and value.dim() >= 2


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
