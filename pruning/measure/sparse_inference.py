"""Sparse inference: linear layers with sparse weights, where that is measured to be faster on this machine.

On the CPU a layer is tried in compressed sparse row (CSR) format; on CUDA GPUs with sparse tensor cores (compute
capability 8.0 and up), 16-bit weights with at most two nonzeros in every four are tried in 2:4 format. A layer becomes
sparse only if the upper quartile of its sparse times is below the lower quartile of its dense times. The result depends
on the machine and the batch size, so it is measured wherever the network runs, and never stored.
"""

from __future__ import annotations

import copy
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from pruning.errors import PruningError
from pruning.measure.latency import time_in_turns
from pruning.utils.modules import eval_mode

SPARSE_TENSOR_CORES = (8, 0)


@dataclass(frozen=True)
class FormatChoice:
    """The chosen format of one linear layer, with the measured median milliseconds.

    Attributes:
        form: Chosen format: "dense", "csr" or "2:4".
        tried: Sparse format that was timed; None, like its time, if none applies.
    """

    form: str
    dense_ms: float
    tried: str | None
    sparse_ms: float | None

    @property
    def measured_speedup(self) -> float:
        """Dense time / time of the chosen format."""
        return self.dense_ms / self.sparse_ms if self.form != "dense" and self.sparse_ms else 1.0


@dataclass(frozen=True)
class SparseModel:
    """A network for inference with some sparse layers, and the choice for every linear layer."""

    model: nn.Module
    layers: dict[str, FormatChoice]


class SparseLinear(nn.Module):
    """A linear layer for inference with its weight (outputs, inputs) as a compressed sparse row matrix."""

    weight: Tensor
    bias: Tensor

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__()
        weight = dense.weight.detach()
        self.out_features, self.in_features = weight.shape
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that its CSR support is in beta
            self.register_buffer("weight", weight.to_sparse_csr())
        bias = weight.new_zeros(len(weight)) if dense.bias is None else dense.bias.detach()
        self.register_buffer("bias", bias.clone())

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        rows = inputs.reshape(-1, self.in_features)
        if len(rows) == 1:  # one image: a matrix-vector product is faster
            outputs = torch.addmv(self.bias, self.weight, rows[0])
        else:
            outputs = torch.addmm(self.bias.unsqueeze(1), self.weight, rows.t()).t()
        return outputs.reshape(*inputs.shape[:-1], self.out_features)


def use_sparse_layers(model: nn.Module, images: Tensor, seconds: float = 0.2) -> SparseModel:
    """Return a copy of `model` in evaluation mode, with sparse linear layers where they are faster.

    Args:
        images: (N, channels, H, W), on the model's device; the choice holds for batches of N.
        seconds: Time to measure each layer.

    Raises:
        PruningError: The model has no linear layer, or sparse layers change its outputs.
    """
    fast = copy.deepcopy(model).eval()
    inputs = _inputs_of_linear_layers(fast, images)
    if not inputs:
        raise PruningError(
            f"{type(model).__name__} has no linear layer, and only linear layers can be sparse."
        )
    layers = {}
    for name, given in inputs.items():
        dense = fast.get_submodule(name)
        assert isinstance(dense, nn.Linear)
        choice, chosen = _choose(dense, given, seconds)
        layers[name] = choice
        if chosen is not dense:
            fast.set_submodule(name, chosen)
    _check_outputs(model, fast, images)
    return SparseModel(fast, layers)


def _inputs_of_linear_layers(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    given: dict[str, Tensor] = {}

    def record(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            given.setdefault(name, inputs[0].detach())

        return hook

    # Not subclasses of Linear: attention, for one, reads the weight of its projection without calling it.
    hooks = [
        module.register_forward_pre_hook(record(name))
        for name, module in model.named_modules()
        if type(module) is nn.Linear and name
    ]
    with eval_mode(model):
        model(images)
    for hook in hooks:
        hook.remove()
    return given


def _choose(dense: nn.Linear, inputs: Tensor, seconds: float) -> tuple[FormatChoice, nn.Module]:
    """Time both formats; return the choice and the chosen layer."""
    form, sparse = _to_sparse(dense)
    networks = {"dense": dense, **({form: sparse} if form and sparse else {})}
    with torch.inference_mode():
        taken = time_in_turns(
            {name: partial(network, inputs) for name, network in networks.items()},
            inputs.device,
            seconds,
        )
    dense_ms = 1000 * statistics.median(taken["dense"])
    if form is None or sparse is None:
        return FormatChoice("dense", dense_ms, None, None), dense
    sparse_ms = 1000 * statistics.median(taken[form])
    faster = _quartile(taken[form], 3) < _quartile(taken["dense"], 1)
    return FormatChoice(form if faster else "dense", dense_ms, form, sparse_ms), sparse if faster else dense


def _quartile(taken: list[float], which: int) -> float:
    return statistics.quantiles(taken, n=4, method="inclusive")[which - 1]


def _to_sparse(dense: nn.Linear) -> tuple[str | None, nn.Module | None]:
    """Return the name of a sparse format for this layer on its device, and the sparse layer; None without one."""
    weight = dense.weight.detach()
    if weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.float64):
        return "csr", SparseLinear(dense)
    if weight.device.type == "cuda" and _fits_two_of_four(weight):
        layer = copy.deepcopy(dense)
        layer.weight = nn.Parameter(torch.sparse.to_sparse_semi_structured(weight), requires_grad=False)
        return "2:4", layer
    return None, None


def _fits_two_of_four(weight: Tensor) -> bool:
    capable = torch.cuda.get_device_capability(weight.device) >= SPARSE_TENSOR_CORES
    fits = weight.shape[0] % 32 == 0 and weight.shape[1] % 64 == 0
    if not capable or not fits or weight.dtype not in (torch.float16, torch.bfloat16):
        return False
    return bool(((weight.view(-1, 4) != 0).sum(1) <= 2).all())


def _check_outputs(model: nn.Module, fast: nn.Module, images: Tensor) -> None:
    with eval_mode(model, fast):
        expected, found = model(images), fast(images)
    tolerance = 1e-4 if expected.dtype in (torch.float32, torch.float64) else 1e-2
    difference = float((expected - found).abs().max())
    if not difference <= tolerance * max(1.0, float(expected.abs().max())):
        raise PruningError(
            f"Sparse layers change the outputs of {type(model).__name__} by {difference:.2g}. Export it as dense."
        )
