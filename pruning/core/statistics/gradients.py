"""Statistics from gradients: mean, per sample, inverse Fisher, Hessian-gradient product."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import ceil

import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from pruning.core.layers import Layer
from pruning.core.statistics.evaluation import Batches, Loss, StandIns, eval_mode_with_gradients, on_device
from pruning.errors import PruningError
from pruning.registry import STATISTICS

BLOCK = 50  # weights in a block of the Fisher matrix (Kurtic et al. 2022)
DAMPING = 1e-3  # added to the diagonal of the Fisher matrix; `inverse_fisher` has the measurement
MAX_GRADIENT_NUMBERS = 1 << 24  # numbers that the per-sample gradients in memory may have in total
BLOCKS_AT_ONCE = 1 << 12  # blocks that are inverted in one call


class _GradientSum:
    """Sum over batches of each layer's gradient, weighted by the batch size.

    The hooks add a gradient as soon as backward has computed it, so that only one is in memory besides the sums.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.sums = {layer.name: torch.zeros_like(layer.parameter, dtype=torch.float32) for layer in layers}
        self.batch_size = 0

    def add(self, name: str, stand_in: Tensor) -> None:
        assert stand_in.grad is not None
        self.sums[name].add_(stand_in.grad, alpha=self.batch_size)
        stand_in.grad = None


@STATISTICS.register("gradient")
def gradients(
    model: nn.Module, layers: Sequence[Layer], batches: Batches, loss: Loss = functional.cross_entropy
) -> dict[str, Tensor]:
    """dL/dw, where L is the mean loss over all samples of the batches.

    `loss(outputs, targets)` is the mean over one batch. The gradient is zero for layers that the loss does not depend
    on.
    """
    total, samples = _GradientSum(layers), 0
    tensors = StandIns.of(model, layers)
    for name, stand_in in tensors.scored.items():
        stand_in.register_post_accumulate_grad_hook(partial(total.add, name))
    with eval_mode_with_gradients(model):
        for inputs, targets in on_device(batches, layers):
            total.batch_size = len(targets)
            samples += len(targets)
            loss(tensors.forward(model, inputs), targets).backward()
    return {name: sum_.div_(samples) for name, sum_ in total.sums.items()}


@STATISTICS.register("squared gradient", source="Theis et al. 2018, arXiv 1801.05787")
def squared_gradients(
    model: nn.Module, layers: Sequence[Layer], batches: Batches, loss: Loss = functional.cross_entropy
) -> dict[str, Tensor]:
    """Mean over all samples of (dL_i/dw)^2, where L_i is the loss of one sample: the empirical Fisher's diagonal."""
    sums = {layer.name: torch.zeros_like(layer.parameter, dtype=torch.float32) for layer in layers}

    def add(name: str, sample_gradients: Tensor) -> None:
        sums[name] += sample_gradients.square_().sum(0)

    samples = _add_sample_gradients(model, layers, batches, loss, add)
    return {name: total.div_(samples) for name, total in sums.items()}


@STATISTICS.register("inverse Fisher", source="Singh and Alistarh 2020, arXiv 2004.14340")
def inverse_fisher(
    model: nn.Module, layers: Sequence[Layer], batches: Batches, loss: Loss = functional.cross_entropy
) -> dict[str, Tensor]:
    """Inverse of the empirical Fisher matrix in blocks: (blocks, BLOCK, BLOCK) for each layer.

    F = DAMPING I + the mean over all samples of g g^T. g is the gradient of one sample's loss with respect to BLOCK
    consecutive weights of the layer; the last block is padded with weights of zero gradient. Singh and Alistarh update
    the inverse sample by sample; summing first and inverting once gives the same matrix in a fraction of the time. A
    weight that is zero counts as pruned: it cannot compensate for the others of its block.

    More damping moves the score towards magnitude. The papers use 1e-5 and 1e-7, on larger networks. In three rounds to
    98 % on the bundled data, 1e-3 reached 86.6 % validation top-1 and 1e-4 85.9 % (means of three seeds); in one round
    without fine-tuning, smaller values did as well or better. It is not tuned further.

    The result has BLOCK numbers for each weight.

    Raises:
        PruningError: the gradients are not finite.
    """
    sums = {
        layer.name: torch.zeros(ceil(layer.size / BLOCK), BLOCK, BLOCK, device=layer.parameter.device)
        for layer in layers
    }
    nonzero = {layer.name: layer.parameter.detach() != 0 for layer in layers}

    def add(name: str, sample_gradients: Tensor) -> None:
        blocks = _to_fisher_blocks(sample_gradients.mul_(nonzero[name]).flatten(1)).movedim(1, 0)
        sums[name].baddbmm_(blocks.mT, blocks)

    samples = _add_sample_gradients(model, layers, batches, loss, add)
    return {name: _inverse(name, total.div_(samples)) for name, total in sums.items()}


def _to_fisher_blocks(rows: Tensor) -> Tensor:
    """Reshape (rows, weights) to (rows, blocks, BLOCK), padding the last block with zeros."""
    return functional.pad(rows, (0, -rows.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))


def _inverse(name: str, fisher: Tensor) -> Tensor:
    """Replace each block by the inverse of the damped block."""
    for blocks in fisher.split(BLOCKS_AT_ONCE):
        diagonal = blocks.diagonal(dim1=1, dim2=2)
        # Rounding errors of the sums must not make a block singular.
        rounding = 10 * torch.finfo(torch.float32).eps * diagonal.sum(1, keepdim=True)
        diagonal += rounding.clamp_(min=DAMPING)
        factors, failed = torch.linalg.cholesky_ex(blocks)
        if bool(failed.any()) or not bool(factors.isfinite().all()):
            raise PruningError(f"The gradients of {name} are not all finite: training has diverged.")
        blocks.copy_(torch.cholesky_inverse(factors))
    return fisher


@STATISTICS.register("Hessian-gradient product", source="Wang et al. 2020, arXiv 2002.07376")
def hessian_gradients(
    model: nn.Module, layers: Sequence[Layer], batches: Batches, loss: Loss = functional.cross_entropy
) -> dict[str, Tensor]:
    """H g: the Hessian of the mean loss with respect to all weights of `layers`, times its gradient.

    Exact: a second pass over the batches differentiates the product of each batch's gradient with the mean gradient of
    the first pass.
    """
    batch_list = list(batches)
    mean_gradients = gradients(model, layers, batch_list, loss)
    tensors = StandIns.of(model, layers)
    weights = list(tensors.scored.values())
    sums = {layer.name: torch.zeros_like(layer.parameter, dtype=torch.float32) for layer in layers}
    samples = 0
    # The fused attention kernels have no second derivative.
    with eval_mode_with_gradients(model), sdpa_kernel(SDPBackend.MATH):
        for inputs, targets in on_device(batch_list, layers):
            samples += len(targets)
            value = loss(tensors.forward(model, inputs), targets)
            batch_gradients = torch.autograd.grad(value, weights, create_graph=True, allow_unused=True)
            pairs = zip(batch_gradients, mean_gradients.values(), strict=True)
            product = sum((one * mean.to(one)).sum() for one, mean in pairs if one is not None)
            if not isinstance(product, Tensor) or not product.requires_grad:
                continue  # the loss is linear in every weight: no curvature
            curvatures = torch.autograd.grad(product, weights, allow_unused=True)
            for total, curvature in zip(sums.values(), curvatures, strict=True):
                if curvature is not None:
                    total.add_(curvature, alpha=len(targets))
    return {name: total.div_(samples) for name, total in sums.items()}


def _add_sample_gradients(
    model: nn.Module,
    layers: Sequence[Layer],
    batches: Batches,
    loss: Loss,
    add: Callable[[str, Tensor], None],
) -> int:
    """Call `add(layer name, gradients)` for all samples, some at a time, and return the number of samples.

    The gradients are float32 (samples, *the layer's shape). They are computed together if the network can be vectorised
    over samples, else one by one (recurrent layers, for example). MAX_GRADIENT_NUMBERS limits how many samples are in
    memory; there is always at least one.
    """
    tensors = StandIns.of(model, layers)
    scored = {name: value.detach() for name, value in tensors.scored.items()}

    def sample_loss(weights: dict[str, Tensor], sample: Tensor, target: Tensor) -> Tensor:
        outputs = StandIns(weights, tensors.fixed).forward(model, sample[None])
        return loss(outputs, target[None])

    def one_by_one(weights: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        found = [
            _gradients_of(sample_loss(tensors.scored, *sample), tensors.scored)
            for sample in zip(inputs, targets, strict=True)
        ]
        return {name: torch.stack([one[name] for one in found]) for name in weights}

    vectorised: Callable[[dict[str, Tensor], Tensor, Tensor], dict[str, Tensor]] = vmap(
        grad(sample_loss), in_dims=(None, 0, 0), randomness="different"
    )
    compute = vectorised
    piece = max(1, MAX_GRADIENT_NUMBERS // sum(layer.size for layer in layers))
    seen = 0
    with eval_mode_with_gradients(model):
        for batch in on_device(batches, layers):
            for inputs, targets in zip(*(part.split(piece) for part in batch), strict=True):
                try:
                    found = compute(scored, inputs, targets)
                except Exception:
                    # A network that cannot be vectorised raises errors of many types; one that fails for another
                    # reason fails again one by one.
                    if compute is not vectorised:
                        raise
                    compute = one_by_one
                    found = compute(scored, inputs, targets)
                for name, sample_gradients in found.items():
                    add(name, sample_gradients.float())
                seen += len(targets)
    return seen


def _gradients_of(value: Tensor, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return d value / d tensor for each tensor, zero if value does not depend on it."""
    found = torch.autograd.grad(value, list(tensors.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(tensors, found, strict=True))
