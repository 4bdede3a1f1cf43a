"""Linear layers run from their non-zero weights, where a measurement on this machine says that it is faster.

On the CPU a layer is tried as a compressed sparse row matrix; on CUDA GPUs with sparse tensor cores
(compute capability 8.0 and up), weights of 16 bits with at most two non-zeros in every four are tried in
that form. A layer is changed only if the slower quarter of its sparse times still beats the faster
quarter of its dense ones. Which is faster depends on the machine and the batch: the choice is measured
anew where the network is to run, and not stored.
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
from pruning.measure.latency import take_turns
from pruning.utils.modules import eval_mode

SPARSE_TENSOR_CORES = (8, 0)


@dataclass(frozen=True)
class Choice:
    """How one layer is run: `form` is "dense", "csr" or "2:4"; medians in milliseconds, both measured.

    `tried` is the sparse form that was timed against the dense one, None (as its time is) if none applies.
    """

    form: str
    dense_ms: float
    tried: str | None
    sparse_ms: float | None

    @property
    def measured_speedup(self) -> float:
        """Dense time / time of the form that was chosen."""
        return self.dense_ms / self.sparse_ms if self.form != "dense" and self.sparse_ms else 1.0


@dataclass(frozen=True)
class SpedUp:
    """A network for inference with some of its layers sparse, and what was chosen for every linear layer."""

    model: nn.Module
    layers: dict[str, Choice]


class SparseLinear(nn.Module):
    """y = W x + b with W (outputs, inputs) as a compressed sparse row matrix; for inference only."""

    weight: Tensor
    bias: Tensor

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__()
        weight = dense.weight.detach()
        self.out_features, self.in_features = weight.shape
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls its sparse row matrices a beta
            self.register_buffer("weight", weight.to_sparse_csr())
        bias = weight.new_zeros(len(weight)) if dense.bias is None else dense.bias.detach()
        self.register_buffer("bias", bias.clone())

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        rows = inputs.reshape(-1, self.in_features)
        if len(rows) == 1:  # a product with a vector is the faster one, and the one of a single image
            outputs = torch.addmv(self.bias, self.weight, rows[0])
        else:
            outputs = torch.addmm(self.bias.unsqueeze(1), self.weight, rows.t()).t()
        return outputs.reshape(*inputs.shape[:-1], self.out_features)


def speed_up(model: nn.Module, images: Tensor, seconds: float = 0.2) -> SpedUp:
    """A copy of `model` in evaluation mode whose linear layers run sparse where that is faster for such
    `images`.

    images: (N, channels, H, W), on the model's device; N is the batch size it is chosen for. `seconds` is
    spent on each layer. Raises PruningError if there is no linear layer, or sparse layers change the
    outputs.
    """
    fast = copy.deepcopy(model).eval()
    inputs = _inputs_of_linear_layers(fast, images)
    if not inputs:
        raise PruningError(f"{type(model).__name__} has no linear layer that could run sparse.")
    layers = {}
    for name, given in inputs.items():
        dense = fast.get_submodule(name)
        assert isinstance(dense, nn.Linear)
        choice, chosen = _choose(dense, given, seconds)
        layers[name] = choice
        if chosen is not dense:
            fast.set_submodule(name, chosen)
    _check(model, fast, images)
    return SpedUp(fast, layers)


def _inputs_of_linear_layers(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    given: dict[str, Tensor] = {}

    def look(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            given.setdefault(name, inputs[0].detach())

        return hook

    # Exactly Linear: a subclass, like the projection inside an attention layer, is used in ways of its own.
    hooks = [
        module.register_forward_pre_hook(look(name))
        for name, module in model.named_modules()
        if type(module) is nn.Linear and name
    ]
    with eval_mode(model):
        model(images)
    for hook in hooks:
        hook.remove()
    return given


def _choose(dense: nn.Linear, inputs: Tensor, seconds: float) -> tuple[Choice, nn.Module]:
    form, sparse = _sparse_form(dense)
    networks = {"dense": dense, **({form: sparse} if form and sparse else {})}
    with torch.inference_mode():
        taken = take_turns(
            {name: partial(network, inputs) for name, network in networks.items()},
            inputs.device,
            seconds,
        )
    dense_ms = 1000 * statistics.median(taken["dense"])
    if form is None or sparse is None:
        return Choice("dense", dense_ms, None, None), dense
    sparse_ms = 1000 * statistics.median(taken[form])
    faster = _quartile(taken[form], 3) < _quartile(taken["dense"], 1)
    return Choice(form if faster else "dense", dense_ms, form, sparse_ms), sparse if faster else dense


def _quartile(taken: list[float], which: int) -> float:
    return statistics.quantiles(taken, n=4, method="inclusive")[which - 1]


def _sparse_form(dense: nn.Linear) -> tuple[str | None, nn.Module | None]:
    """The sparse form that this layer can take on its device, if any."""
    weight = dense.weight.detach()
    if weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.float64):
        return "csr", SparseLinear(dense)
    if weight.device.type == "cuda" and _takes_two_of_four(weight):
        layer = copy.deepcopy(dense)
        layer.weight = nn.Parameter(torch.sparse.to_sparse_semi_structured(weight), requires_grad=False)
        return "2:4", layer
    return None, None


def _takes_two_of_four(weight: Tensor) -> bool:
    capable = torch.cuda.get_device_capability(weight.device) >= SPARSE_TENSOR_CORES
    fits = weight.shape[0] % 32 == 0 and weight.shape[1] % 64 == 0
    if not capable or not fits or weight.dtype not in (torch.float16, torch.bfloat16):
        return False
    return bool(((weight.view(-1, 4) != 0).sum(1) <= 2).all())


def _check(model: nn.Module, fast: nn.Module, images: Tensor) -> None:
    with eval_mode(model, fast):
        expected, found = model(images), fast(images)
    tolerance = 1e-4 if expected.dtype in (torch.float32, torch.float64) else 1e-2
    difference = float((expected - found).abs().max())
    if not difference <= tolerance * max(1.0, float(expected.abs().max())):
        raise PruningError(f"Sparse layers change the outputs of {type(model).__name__} by {difference:.2g}.")
