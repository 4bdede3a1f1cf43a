"""What scores need to know besides the weights: collected from batches of data, or from the network alone.

A collector is a function ``(model, layers, batches, loss) -> {layer name: tensor of the layer's shape, float32}``
(another shape for a score of whole layers), entered under its name in `COLLECTORS`; a score names what it `needs`. It
evaluates `model` with the values that `layers` have (those may be copies in which removed weights are zero), on the
layers' device and in their dtype, in evaluation mode: dropout is off and batch normalisation uses its running
statistics, so that what a sample contributes does not depend on the samples beside it.

The model is left as it was found, bit for bit: gradients are those of stand-ins, buffers are copies, and modes and the
random state are put back. Every collector raises PruningError when there is not a single batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from pruning.core.layers import CONVOLUTIONS, Layer, input_width
from pruning.errors import PruningError

BLOCK = 50  # weights in a block of the Fisher matrix (Kurtic et al. 2022)
DAMPING = 1e-3  # on its diagonal; how it was chosen is said in `inverse_fisher`
GRADIENTS_AT_ONCE = 1 << 24  # how many numbers the gradients of single samples may take together
BLOCKS_AT_ONCE = 1 << 12  # how many blocks are inverted together

Batches = Iterable[tuple[Tensor, Tensor]]
Loss = Callable[[Any, Tensor], Tensor]
Collected = dict[str, Tensor]


@dataclass(frozen=True)
class StandIns:
    """A network's tensors by name, none of which is the network's own parameter: `scored` ones require a gradient."""

    scored: dict[str, Tensor]
    fixed: dict[str, Tensor]

    def forward(self, model: nn.Module, inputs: Tensor) -> Any:
        """The outputs of `model` with these tensors in place of its own."""
        return functional_call(model, {**self.scored, **self.fixed}, (inputs,))


def gradients(
    model: nn.Module, layers: Sequence[Layer], batches: Batches, loss: Loss = functional.cross_entropy
) -> Collected:
    """dL/dw, where L is the mean of `loss` over all samples of the batches.

    `loss(outputs, targets)` is the mean over one batch. A layer that the loss does not depend on has gradient zero.
    Each layer's gradient is added up as soon as it is known: beside the sums only one is held at a time.
    """

    def add(total: Tensor, gradient: Tensor, samples: int) -> None:
        total.add_(gradient, alpha=samples)

    return _mean_over_samples(model, layers, batches, loss, add)


def squared_gradients(
    model: nn.Module, layers: Sequence[Layer], batches: Batches, loss: Loss = functional.cross_entropy
) -> Collected:
    """The mean over all samples of (dL_i/dw)^2, L_i being the loss of one sample: the empirical Fisher's diagonal.

    See `_over_samples` for how they are found.
    """
    sums = {layer.name: torch.zeros_like(layer.parameter, dtype=torch.float32) for layer in layers}

    def add(name: str, of_samples: Tensor) -> None:
        sums[name] += of_samples.square_().sum(0)

    seen = _over_samples(model, layers, batches, loss, add)
    return {name: total.div_(seen) for name, total in sums.items()}


def inverse_fisher(
    model: nn.Module, layers: Sequence[Layer], batches: Batches, loss: Loss = functional.cross_entropy
) -> Collected:
    """The inverse of the empirical Fisher matrix, block by block: (blocks, BLOCK, BLOCK) for each layer.

    F = DAMPING I + the mean over all samples of g g^T, g being the gradient of one sample's loss with respect to BLOCK
    weights that follow one another in the layer; the last block is filled up with weights of gradient zero. Singh and
    Alistarh build the inverse up sample by sample; adding up first and inverting once gives the same in a fraction of
    the time. A weight that is zero counts as removed: it has no part in what the others of its block can make up for.

    The more damping, the more the score is magnitude. The papers take 1e-5 and 1e-7, on larger networks. In three
    rounds to 98 % on the bundled data 1e-3 came to 86.6 % of the validation images and 1e-4 to 85.9 % (means of
    three seeds); pruned once without fine-tuning, smaller ones did as well or better. It is not tuned beyond that.

    Takes BLOCK floats for each weight. PruningError if the gradients are not finite.
    """
    sums = {
        layer.name: torch.zeros(ceil(layer.size / BLOCK), BLOCK, BLOCK, device=layer.parameter.device)
        for layer in layers
    }
    there = {layer.name: layer.parameter.detach() != 0 for layer in layers}

    def add(name: str, of_samples: Tensor) -> None:
        blocks = _in_blocks(of_samples.mul_(there[name]).flatten(1)).movedim(1, 0)
        sums[name].baddbmm_(blocks.mT, blocks)

    seen = _over_samples(model, layers, batches, loss, add)
    return {name: _inverse(name, total.div_(seen)) for name, total in sums.items()}


def _in_blocks(rows: Tensor) -> Tensor:
    """Rows of weights (rows, weights) as (rows, blocks, BLOCK), the last block filled up with zeros."""
    return functional.pad(rows, (0, -rows.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))


def _inverse(name: str, fisher: Tensor) -> Tensor:
    """Each block's inverse with damping, in its place."""
    for blocks in fisher.split(BLOCKS_AT_ONCE):
        diagonal = blocks.diagonal(dim1=1, dim2=2)
        # What the sums were rounded by must not make a block singular.
        rounding = 10 * torch.finfo(torch.float32).eps * diagonal.sum(1, keepdim=True)
        diagonal += rounding.clamp_(min=DAMPING)
        factors, failed = torch.linalg.cholesky_ex(blocks)
        if bool(failed.any()) or not bool(factors.isfinite().all()):
            raise PruningError(f"The gradients of {name} are not all finite: the network has diverged.")
        blocks.copy_(torch.cholesky_inverse(factors))
    return fisher


def hessian_gradients(
    model: nn.Module, layers: Sequence[Layer], batches: Batches, loss: Loss = functional.cross_entropy
) -> Collected:
    """H g: the Hessian of L (see `gradients`) with respect to all weights of `layers`, times its gradient.

    Exact: a second pass over the batches differentiates the gradient's product with the mean gradient of the first.
    """
    held = list(batches)
    first = gradients(model, layers, held, loss)
    tensors = _stand_ins(model, layers)
    weights = list(tensors.scored.values())
    sums = {layer.name: torch.zeros_like(layer.parameter, dtype=torch.float32) for layer in layers}
    seen = 0
    # The fused attention kernels cannot be differentiated twice.
    with as_evaluated(model), sdpa_kernel(SDPBackend.MATH):
        for inputs, targets in _on_device(held, layers):
            seen += len(targets)
            value = loss(tensors.forward(model, inputs), targets)
            slopes = torch.autograd.grad(value, weights, create_graph=True, allow_unused=True)
            pairs = zip(slopes, first.values(), strict=True)
            product = sum((slope * mean.to(slope)).sum() for slope, mean in pairs if slope is not None)
            if not isinstance(product, Tensor) or not product.requires_grad:
                continue  # the loss is linear in every weight: no curvature
            curved = torch.autograd.grad(product, weights, allow_unused=True)
            for total, change in zip(sums.values(), curved, strict=True):
                if change is not None:
                    total.add_(change, alpha=len(targets))
    return {name: total.div_(seen) for name, total in sums.items()}


def input_norms(
    model: nn.Module, layers: Sequence[Layer], batches: Batches, loss: Loss = functional.cross_entropy
) -> Collected:
    """For every weight the L2 norm of the input that it multiplies, over all samples (and positions, for images)."""
    sums, _ = _input_sums(model, layers, batches, lambda inputs: inputs.square())
    return {layer.name: _spread(layer, model, sums[layer.name].sqrt()) for layer in layers}


def input_means(
    model: nn.Module, layers: Sequence[Layer], batches: Batches, loss: Loss = functional.cross_entropy
) -> Collected:
    """For every weight the mean of abs(x), x being the input that it multiplies, over all samples and positions."""
    sums, counts = _input_sums(model, layers, batches, lambda inputs: inputs.abs())
    return {
        layer.name: _spread(layer, model, sums[layer.name] / max(counts[layer.name], 1)) for layer in layers
    }


def synaptic_flow(
    model: nn.Module, layers: Sequence[Layer], batches: Batches, loss: Loss = functional.cross_entropy
) -> Collected:
    """dR/d abs(w), R being the sum of the outputs for an image of ones when every parameter is its absolute value.

    Only the shape of the first inputs is looked at. Nothing is added or subtracted on the way (biases and running means
    count as zero), so that R is the sum over all paths of the product of what lies on them (Tanaka et al. 2020,
    equation 2). With biases, a layer behind which they suffice could be emptied. In double precision where the device
    has it, and scaled to a largest value of 1: only the order of the scores matters.
    """
    inputs, _ = next(iter(_on_device(batches, layers)))
    exact = torch.float32 if inputs.device.type == "mps" else torch.float64
    tensors = _stand_ins(model, layers)
    positive = {
        name: value.detach().to(exact).abs().requires_grad_() for name, value in tensors.scored.items()
    }
    fixed = {
        name: value.to(exact).abs().mul_(not _is_added(name)) if value.is_floating_point() else value
        for name, value in tensors.fixed.items()
    }
    with as_evaluated(model):
        ones = torch.ones_like(inputs[:1], dtype=exact if inputs.is_floating_point() else None)
        total = StandIns(positive, fixed).forward(model, ones).sum()
        found = torch.autograd.grad(total, list(positive.values()), allow_unused=True, materialize_grads=True)
    largest = max(float(flow.max()) for flow in found) or 1.0
    return {name: (flow / largest).float() for name, flow in zip(positive, found, strict=True)}


def _is_added(name: str) -> bool:
    """Is this a tensor that a layer adds or subtracts, and does not multiply with?"""
    own = name.rpartition(".")[2]
    return "bias" in own or own == "running_mean"


COLLECTORS: dict[str, Callable[..., Collected]] = {
    "gradient": gradients,
    "squared gradient": squared_gradients,
    "inverse Fisher": inverse_fisher,
    "Hessian-gradient product": hessian_gradients,
    "input norm": input_norms,
    "mean input": input_means,
    "synaptic flow": synaptic_flow,
}


def _stand_ins(model: nn.Module, layers: Sequence[Layer]) -> StandIns:
    """Stand-ins that share the memory of what they stand for; a tied parameter has one, under its layer's name."""
    named = dict(model.named_parameters(remove_duplicate=False))
    scored = {id(named[layer.name]) for layer in layers}
    fixed = {name: value.detach() for name, value in model.named_parameters() if id(value) not in scored}
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    return StandIns(
        {layer.name: layer.parameter.detach().requires_grad_() for layer in layers}, {**fixed, **buffers}
    )


def _mean_over_samples(
    model: nn.Module,
    layers: Sequence[Layer],
    batches: Batches,
    loss: Loss,
    add: Callable[[Tensor, Tensor, int], None],
) -> Collected:
    """Goes backward for each batch; `add(sum, gradient, samples)` adds one layer's contribution as it is found."""
    sums = {layer.name: torch.zeros_like(layer.parameter, dtype=torch.float32) for layer in layers}
    tensors = _stand_ins(model, layers)
    seen = batch_size = 0

    def add_up(name: str) -> Callable[[Tensor], None]:
        def hook(stand_in: Tensor) -> None:
            assert stand_in.grad is not None
            add(sums[name], stand_in.grad, batch_size)
            stand_in.grad = None

        return hook

    for name, stand_in in tensors.scored.items():
        stand_in.register_post_accumulate_grad_hook(add_up(name))
    with as_evaluated(model):
        for inputs, targets in _on_device(batches, layers):
            batch_size = len(targets)
            seen += batch_size
            loss(tensors.forward(model, inputs), targets).backward()
    return {name: total.div_(seen) for name, total in sums.items()}


def _over_samples(
    model: nn.Module,
    layers: Sequence[Layer],
    batches: Batches,
    loss: Loss,
    add: Callable[[str, Tensor], None],
) -> int:
    """`add(layer name, gradients)` for some samples at a time, float32 (samples, *the layer's shape); how many in all.

    They are computed together where the network can be vectorised over samples, else one by one (recurrent layers, for
    one). GRADIENTS_AT_ONCE says how many lie in memory; it is always at least those of one sample.
    """
    tensors = _stand_ins(model, layers)
    scored = {name: value.detach() for name, value in tensors.scored.items()}

    def of_sample(weights: dict[str, Tensor], sample: Tensor, target: Tensor) -> Tensor:
        outputs = StandIns(weights, tensors.fixed).forward(model, sample[None])
        return loss(outputs, target[None])

    def one_by_one(weights: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Collected:
        found = [
            _slopes(of_sample(tensors.scored, *sample), tensors.scored)
            for sample in zip(inputs, targets, strict=True)
        ]
        return {name: torch.stack([one[name] for one in found]) for name in weights}

    together: Callable[[dict[str, Tensor], Tensor, Tensor], Collected] = vmap(
        grad(of_sample), in_dims=(None, 0, 0), randomness="different"
    )
    compute = together
    piece = max(1, GRADIENTS_AT_ONCE // sum(layer.size for layer in layers))
    seen = 0
    with as_evaluated(model):
        for batch in _on_device(batches, layers):
            for inputs, targets in zip(*(part.split(piece) for part in batch), strict=True):
                try:
                    found = compute(scored, inputs, targets)
                except Exception:
                    # What cannot be vectorised says so by errors of many types; a network that fails for another
                    # reason fails again one by one.
                    if compute is not together:
                        raise
                    compute = one_by_one
                    found = compute(scored, inputs, targets)
                for name, gradients_of in found.items():
                    add(name, gradients_of.float())
                seen += len(targets)
    return seen


def _slopes(value: Tensor, tensors: Mapping[str, Tensor]) -> Collected:
    """dvalue/dtensor of each, zero where value does not depend on it."""
    slopes = torch.autograd.grad(value, list(tensors.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(tensors, slopes, strict=True))


def _on_device(batches: Batches, layers: Sequence[Layer]) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches on the model's device, floating-point inputs in its dtype. PruningError if there are none."""
    like = layers[0].parameter
    empty = True
    for inputs, targets in batches:
        empty = False
        dtype = like.dtype if inputs.is_floating_point() else inputs.dtype
        yield inputs.to(like.device, dtype), targets.to(like.device)
    if empty:
        raise PruningError(
            "Scoring needs at least one batch of (inputs, targets); the batches given are empty."
        )


def _input_sums(
    model: nn.Module, layers: Sequence[Layer], batches: Batches, of: Callable[[Tensor], Tensor]
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Per layer the sums of `of(inputs)` for each input feature, and over how many samples and positions."""
    named = dict(model.named_parameters(remove_duplicate=False))
    names = {id(named[layer.name]): layer.name for layer in layers}
    holders = [
        (module, names[id(module.weight)])
        for module in model.modules()
        if isinstance(module, (nn.Linear, *CONVOLUTIONS)) and id(module.weight) in names
    ]
    refuse_unseen_inputs(layers)
    sums = {name: torch.zeros(input_width(module), device=module.weight.device) for module, name in holders}
    counts = dict.fromkeys(sums, 0)

    def look(name: str, weight: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            inputs = arguments[0].detach().float()
            channels = -1 if isinstance(module, nn.Linear) else inputs.dim() - weight.dim() + 1
            by_feature = inputs.movedim(channels, 0).flatten(1)
            sums[name] += of(by_feature).sum(1)
            counts[name] += by_feature.shape[1]

        return hook

    hooks = [module.register_forward_pre_hook(look(name, module.weight)) for module, name in holders]
    tensors = _stand_ins(model, layers)
    try:
        with as_evaluated(model), torch.no_grad():
            for inputs, _ in _on_device(batches, layers):
                tensors.forward(model, inputs)
    finally:
        for handle in hooks:
            handle.remove()
    return sums, counts


def refuse_unseen_inputs(layers: Sequence[Layer]) -> None:
    """PruningError for layers that compute inside (attention, recurrent): no module is handed what they multiply."""
    unseen = [
        layer.name
        for layer in layers
        if layer.kind not in ("conv", "linear") or layer.type == "NonDynamicallyQuantizableLinear"
    ]
    if unseen:
        raise PruningError(
            f"The inputs of {', '.join(unseen)} cannot be seen: scores that need activations are for convolution and "
            "linear layers; exclude the others, or choose a score that needs none."
        )


def _spread(layer: Layer, model: nn.Module, of_inputs: Tensor) -> Tensor:
    """A number for each input feature, as one for each weight that multiplies it."""
    module: Any = model.get_submodule(layer.module)
    rest = [1] * (len(layer.shape) - 2)
    if getattr(module, "transposed", False):
        return of_inputs.view(-1, 1, *rest).expand(layer.shape).contiguous()
    groups = getattr(module, "groups", 1)
    rows = of_inputs.view(groups, -1).repeat_interleave(layer.shape[0] // groups, 0)
    return rows.view(*rows.shape, *rest).expand(layer.shape).contiguous()


@contextmanager
def as_evaluated(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with gradients, and afterwards every module's mode and the global random state as they were."""
    modes = [(module, module.training) for module in model.modules()]
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    cudnn = torch.backends.cudnn.enabled
    try:
        with torch.random.fork_rng(devices), torch.inference_mode(False), torch.enable_grad():
            model.eval()
            # cuDNN's recurrent layers refuse to go backward in evaluation mode.
            if any(isinstance(module, nn.RNNBase) for module in model.modules()):
                torch.backends.cudnn.enabled = False
            yield
    finally:
        torch.backends.cudnn.enabled = cudnn
        for module, training in modes:
            module.training = training
