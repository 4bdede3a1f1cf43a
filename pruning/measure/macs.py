"""How many multiply-adds a network needs for one image, and how many remain after pruning.

Counted are convolutions and products of matrices, padding included, as torch's own flop counter counts them
(one multiply-add is two of its FLOPs; loading `torch.utils.flop_counter` takes longer than many a training).
Each multiplication is credited to the weight that it reads, found by the memory it lies in, so that functional
uses, fused projections and shared modules land where they belong. In one multiplication every weight is used
the same number of times (its positions), so what remains is exactly positions x non-zero weights. Products of
activations (attention) have no weights and remain in full.

The positions do not change when weights are removed: `trace_macs` runs the network once, `MacsTrace.remaining` only
counts. An experiment traces its network once and counts every round.
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


class LayerCompute(NamedTuple):
    """One layer: its class name, its multiply-adds for one image, and those with a non-zero weight."""

    type: str
    macs: int
    nonzero_macs: int


@dataclass(frozen=True)
class Compute:
    """Multiply-adds for one image; `layers` by name, in the order of `model.named_modules()`."""

    layers: dict[str, LayerCompute]

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers.values())

    @property
    def nonzero_macs(self) -> int:
        return sum(layer.nonzero_macs for layer in self.layers.values())

    @property
    def theoretical_speedup(self) -> float | None:
        """Multiply-adds of the dense network / multiply-adds that remain; None if none remain."""
        return self.macs / self.nonzero_macs if self.nonzero_macs else None


@dataclass(frozen=True)
class View:
    """The part of a parameter that a multiplication reads; `offset` is from the parameter's first element."""

    parameter: str
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    def nonzero(self, parameter: Tensor) -> int:
        start = parameter.storage_offset() + self.offset
        return int(torch.count_nonzero(parameter.detach().as_strided(self.size, self.stride, start)))


@dataclass(frozen=True)
class MacsTrace:
    """One image's way through a network: how often each weight is used, and products that read no weight.

    All by layer name: class, multiply-adds, positions of each weight, multiply-adds without a weight.
    """

    types: dict[str, str]
    macs: dict[str, int]
    positions: dict[str, dict[View, int]]
    weightless: dict[str, int]

    def remaining(self, model: nn.Module) -> Compute:
        """The multiply-adds of `model` as its weights stand now: the network that was traced, or a copy."""
        parameters = dict(model.named_parameters())
        layers = {}
        for name, macs in self.macs.items():
            views = self.positions.get(name, {})
            nonzero = sum(times * view.nonzero(parameters[view.parameter]) for view, times in views.items())
            layers[name] = LayerCompute(self.types[name], macs, nonzero + self.weightless.get(name, 0))
        return Compute(layers)


def count_macs(model: nn.Module, shape: tuple[int, int, int]) -> Compute:
    """Multiply-adds of `model` for one image of `shape` (channels, height, width), dense and remaining.

    Raises PruningError if the network cannot take such an image.
    """
    return trace_macs(model, shape).remaining(model)


def trace_macs(model: nn.Module, shape: tuple[int, int, int]) -> MacsTrace:
    """Run one image of zeros through `model`, in evaluation mode on its device, and see each weight's use.

    The model is left as it was found: mode, gradients, batch-norm statistics and random state.
    Raises PruningError if the network cannot take an image of `shape` (channels, height, width).
    """
    recorder = _Recorder(model)
    with _undisturbed(model), recorder.modules, recorder:
        try:
            model(zero_images(model, 1, shape))
        except (RuntimeError, ValueError, IndexError) as error:
            size = "x".join(str(length) for length in shape)
            raise PruningError(
                f"The network cannot take one image of shape {size}: {first_line(error)}"
            ) from error
    return recorder.trace()


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; kernels that fuse several products into one are off meanwhile."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    gpus = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with eval_mode(model), sdpa_kernel(SDPBackend.MATH), torch.random.fork_rng(devices=list(gpus)):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _product(left: Tensor, right: Tensor) -> int:
    """Multiply-adds of (..., m, k) x (k, n) or (..., k, n)."""
    return left.numel() * right.shape[-1]


def _convolution(result: Tensor, images: Tensor, weight: Tensor, *settings: Any) -> int:
    """Every weight (out, in / groups, ...) is used at every output position; transposed, at every input position."""
    transposed = settings[4]  # after bias, stride, padding and dilation
    positions = images if transposed else result
    return positions.shape[0] * positions.shape[2:].numel() * weight.numel()


def _attention(_: Any, query: Tensor, key: Tensor, value: Tensor, *__: Any) -> int:
    """Both products of softmax(QK')V, for (..., length, width); a mask saves nothing."""
    return query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])


# Multiply-adds by what an operation gives and takes.
_MULTIPLY_ADDS: dict[Any, Callable[..., int]] = {
    torch.ops.aten.mm: lambda result, left, right: _product(left, right),
    torch.ops.aten.bmm: lambda result, left, right: _product(left, right),
    torch.ops.aten.addmm: lambda result, added, left, right: _product(left, right),
    torch.ops.aten.baddbmm: lambda result, added, left, right: _product(left, right),
    torch.ops.aten.convolution: _convolution,
    # Attention on Apple GPUs is an operation of its own.
    torch.ops.aten._scaled_dot_product_attention_math_for_mps: _attention,
}


class _Recorder(EagerDispatchMode):
    """Sees every operation, and notes its multiply-adds and which weight it read."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.modules = ModuleTracker()
        self._types = {name: type(module).__name__ for name, module in model.named_modules()}
        self._weights: dict[Any, list[tuple[str, Tensor]]] = defaultdict(list)
        for name, parameter in model.named_parameters():
            self._weights[_storage(parameter)].append((name, parameter))
        self._macs: dict[str, int] = defaultdict(int)
        self._positions: dict[str, dict[View, int]] = defaultdict(lambda: defaultdict(int))
        self._weightless: dict[str, int] = defaultdict(int)

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        multiply_adds = _MULTIPLY_ADDS.get(operation.overloadpacket)
        if multiply_adds is None:
            with self:  # what is made of other operations (within torch.inference_mode) is seen as those
                result = operation.decompose(*args, **kwargs)
            return operation(*args, **kwargs) if result is NotImplemented else result
        result = operation(*args, **kwargs)
        operands = [leaf for leaf in tree_leaves(args) if _is_matrix(leaf)]
        self._note(multiply_adds(result, *args), operands)
        return result

    def _note(self, macs: int, operands: list[Tensor]) -> None:
        views = [view for operand in operands if (view := self._view(operand))]
        if views:
            weight = views[
                -1
            ]  # a parameter can be the input as well (a learned query); the weight comes last
            layer = weight.parameter.rpartition(".")[0]
            self._positions[layer][weight] += macs // prod(weight.size)
        else:
            layer = self._running_module()
            self._weightless[layer] += macs
        self._macs[layer] += macs

    def _view(self, operand: Tensor) -> View | None:
        """Which parameter, or part of one, lies where `operand` lies; None for an activation."""
        for name, parameter in self._weights.get(_storage(operand), ()):
            offset = operand.storage_offset() - parameter.storage_offset()
            if 0 <= offset < parameter.numel():
                return View(name, tuple(operand.shape), operand.stride(), int(offset))
        return None

    def _running_module(self) -> str:
        # The tracker calls the running modules "ClassOfTheModel.path"; the innermost has the longest path.
        innermost = max(self.modules.parents - {"Global"}, key=len, default="")
        return innermost.partition(".")[2]

    def trace(self) -> MacsTrace:
        macs = {name: self._macs[name] for name in self._types if name in self._macs}
        return MacsTrace(self._types, macs, dict(self._positions), dict(self._weightless))


def _is_matrix(value: Any) -> bool:
    """Whether `value` can be a factor of a multiplication: a bias, which has one dimension, is only added."""
    return isinstance(value, Tensor) and value.dim() >= 2


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
