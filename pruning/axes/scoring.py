"""Axis 2: how much each weight matters.

A score is a function ``(weights) -> Tensor`` of the same shape as ``weights.value``: float32, finite, and the higher
the more worth keeping. It is registered with

- ``needs``: what has to be collected from batches first, by name ("gradient"); empty when no batch is looked at;
- ``elementwise``: whether each weight's score depends on that weight alone. Then it may be evaluated on any flat piece
  of a layer, so that no copy of all scores ever exists; otherwise it is given the whole layer in its own shape;
- ``source``: where it comes from;

and, where that is so, with

- ``zero_is_lowest=True``: exactly the weights that are zero have the lowest score there can be;
- ``group_reduction``: what the scores of weights that are removed together come to: "mean" (unless said otherwise),
  "root mean square" (the L2 norm, for groups of equal size) or "first" (one draw for all of them);
- ``accumulates``: what has to be added up over the training since the last pruning, by name ("movement");
- ``allocation``: the only one that the score goes with; the method then has the score's own name;
- ``structures``: the only ones that the score goes with, and ``reason``, why;
- ``iterations``: into how many steps a pruning is divided, each of which scores what the one before it left;
- ``correction``: the name in `CORRECTIONS` of a function ``(weights, kept) -> Tensor`` that gives the layer's weights
  after the pruning, the kept ones corrected for the loss of the others.

What a score needs is collected by the function of that name in `collecting.COLLECTORS`, or, if it is about channels, in
`grouping.OF_CHANNELS`; what it accumulates is added up by the one in `accumulating.ACCUMULATORS`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from pruning.registry import SCORES

BLOCKS_AT_ONCE = 1 << 12  # how many blocks are corrected together


@dataclass(frozen=True)
class Weights:
    """What a score sees: a layer, or any flat piece of it.

    value: the weights in float32.
    collected: what the score `needs` and `accumulates`, each in float32 and of `value`'s shape (for scores of whole
        layers as collected).
    where: the flat indices in the layer that `value` is of.
    seed: of this layer, for scores that draw at random.
    outputs: the dimension of a whole layer in which its outputs (filters, neurons) lie.
    """

    value: Tensor
    collected: Mapping[str, Tensor] = field(default_factory=dict)
    where: range | Tensor = range(0)
    seed: int = 0
    outputs: int = 0

    def __getitem__(self, need: str) -> Tensor:
        """What was collected under this name."""
        return self.collected[need]

    @property
    def gradient(self) -> Tensor:
        """dL/dw of the mean loss over the batches."""
        return self["gradient"]

    @property
    def position(self) -> Tensor:
        """The flat index of each value in its layer (int32 or int64)."""
        if isinstance(self.where, Tensor):
            return self.where
        return torch.arange(self.where.start, self.where.stop, device=self.value.device).view(
            self.value.shape
        )


@SCORES.register(
    "mag",
    elementwise=True,
    zero_is_lowest=True,
    group_reduction="root mean square",
    source="Janowsky 1989; Han et al. 2015; for filters the L2 norm",
)
def magnitude(weights: Weights) -> Tensor:
    """abs(w)"""
    return weights.value.abs()


@SCORES.register(
    "l1",
    elementwise=True,
    zero_is_lowest=True,
    structures=("filter", "block"),
    reason="on weights that are removed one by one it is mag",
    source="Li et al. 2017, arXiv 1608.08710",
)
def l1_norm(weights: Weights) -> Tensor:
    """abs(w), added up over a filter or block: its L1 norm"""
    return weights.value.abs()


@SCORES.register(
    "fpgm",
    elementwise=False,
    structures=("filter",),
    reason="it compares the filters of a layer with one another",
    source="He et al. 2019, arXiv 1811.00250, eq. 6",
)
def geometric_median(weights: Weights) -> Tensor:
    """The sum of a filter's distances from all filters of its layer: those nearest the geometric median go first

    Every weight of a filter has the filter's score. Distances grow with the width of a layer and of its filters, so
    that comparing within each layer, as the paper does, is what it is for.
    """
    filters = weights.value.movedim(weights.outputs, 0).flatten(1)
    distances = torch.cdist(filters, filters, compute_mode="donot_use_mm_for_euclid_dist").sum(1)
    shape = [-1 if i == weights.outputs else 1 for i in range(weights.value.dim())]
    return distances.view(shape).expand(weights.value.shape)


@SCORES.register(
    "grad",
    statistics=("gradient",),
    elementwise=True,
    source="Blalock et al. 2020, section 7.2; Lee et al. 2019",
)
def gradient_magnitude(weights: Weights) -> Tensor:
    """abs(w x dL/dw), the first-order change of the loss when w is removed"""
    return (weights.value * weights.gradient).abs_()


@SCORES.register(
    "snip", statistics=("gradient",), elementwise=True, source="Lee et al. 2019, arXiv 1810.02340, eq. 6"
)
def connection_sensitivity(weights: Weights) -> Tensor:
    """abs(w x dL/dw), at initialisation (--epochs 0)

    The paper divides by the sum over the network, which changes no order and is left out: on the same batches the masks
    are those of `grad`, and what makes it SNIP is pruning before training.
    """
    return gradient_magnitude(weights)


@SCORES.register(
    "taylor",
    statistics=("gradient",),
    elementwise=True,
    source="Molchanov et al. 2019, arXiv 1906.10771, eq. 8",
)
def first_order_taylor(weights: Weights) -> Tensor:
    """(w x dL/dw)^2, the squared first-order change of the loss; added up over a group

    On single weights that orders as `grad` does; for groups (equation 9) it does not.
    """
    return (weights.value * weights.gradient).square_()


@SCORES.register(
    "fisher",
    statistics=("squared gradient",),
    elementwise=True,
    source="Theis et al. 2018, arXiv 1801.05787, eq. 8; LeCun et al. 1990",
)
def diagonal_fisher(weights: Weights) -> Tensor:
    """w^2 x the mean over samples of (dL_i/dw)^2: second order, by the diagonal of the empirical Fisher

    Twice the change of the loss that removing w is expected to make; the factor changes no order.
    """
    return weights.value.square().mul_(weights["squared gradient"])


@SCORES.register(
    "second_order",
    statistics=("inverse Fisher",),
    elementwise=False,
    iterations=10,
    correction="optimal brain surgeon",
    source="Singh and Alistarh 2020, arXiv 2004.14340; Kurtic et al. 2022, arXiv 2203.07259",
)
def second_order(weights: Weights) -> Tensor:
    """w^2 / 2 [F^-1]_ww, F the empirical Fisher in blocks of 50 weights; kept weights are corrected; 10 steps

    The increase of the loss that removing w is expected to make when the other weights of its block make up for it as
    best they can, which they then do (see `optimal_brain_surgeon`). That is expected for small steps only, so that each
    pruning goes in ten, with F computed anew for what the one before it left, as both papers do.
    """
    diagonal = weights["inverse Fisher"].diagonal(dim1=1, dim2=2).flatten()[: weights.value.numel()]
    return weights.value.square().div_(diagonal.view(weights.value.shape)).div_(2)


@SCORES.register(
    "movement",
    accumulates=("movement",),
    elementwise=True,
    source="Sanh et al. 2020, arXiv 2005.07683",
)
def movement(weights: Weights) -> Tensor:
    """- the sum of w x dL/dw over the steps of training since the last pruning: weights that move towards zero go first

    Those of the fine-tuning of the round before; for the first pruning, those of the dense training, which from
    --weights or --pretrained is the fine-tuning of the paper. Where fine-tuning begins from other weights (rewind,
    reinit), of the steps since then. There the sum never begins anew and removed weights may
    come back; here every pruning begins it anew, and they stay removed. The score may be negative.
    """
    return weights["movement"]


@SCORES.register(
    "bn_scale",
    statistics=("normalisation scale",),
    elementwise=True,
    structures=("filter",),
    reason="it is the scale of the normalisation behind a filter",
    source="Liu et al. 2017, arXiv 1708.06519",
)
def normalisation_scale(weights: Weights) -> Tensor:
    """abs(gamma), the scale of the normalisation that follows a filter

    Of channels that several normalisations follow, because they are added up, the mean. The paper trains with an L1
    penalty on the scales beforehand; here the dense training is everybody's.
    """
    return weights["normalisation scale"]


@SCORES.register(
    "act",
    statistics=("mean input",),
    elementwise=True,
    source="ShrinkBench, Blalock et al. 2020, arXiv 2003.03033",
)
def activation_weighted(weights: Weights) -> Tensor:
    """abs(w) x the mean of abs(x), x being the input that w multiplies"""
    return weights.value.abs().mul_(weights["mean input"])


@SCORES.register(
    "wanda",
    statistics=("input norm",),
    elementwise=True,
    group_reduction="root mean square",
    source="Sun et al. 2024, arXiv 2306.11695, eq. 1",
)
def weight_and_activation(weights: Weights) -> Tensor:
    """abs(w) x the L2 norm of the input that w multiplies, over all samples

    The paper compares within each output; here the allocation says where. For convolutions the norm is that of the
    input channel, over all samples and positions.
    """
    return weights.value.abs().mul_(weights["input norm"])


@SCORES.register(
    "grasp",
    statistics=("Hessian-gradient product",),
    elementwise=True,
    source="Wang et al. 2020, arXiv 2002.07376, eq. 8",
)
def gradient_flow(weights: Weights) -> Tensor:
    """w x (H g), at initialisation (--epochs 0): low where removing w leaves the gradient largest

    The paper's S is -w x (H g), and it removes the *highest*; as scores here say what is worth keeping, the sign is
    turned round. It may be negative. The loss is taken as it is, without the temperature of the authors' program.
    """
    return weights.value * weights["Hessian-gradient product"]


@SCORES.register(
    "synflow",
    statistics=("synaptic flow",),
    elementwise=True,
    allocation="global",
    iterations=100,
    source="Tanaka et al. 2020, arXiv 2006.05467, algorithm 1",
)
def synaptic_flow(weights: Weights) -> Tensor:
    """abs(w) x dR/d abs(w), R the sum over all paths of the product of their weights; no data, 100 steps

    Each step keeps the same fraction of what the one before it left. Because the scores of a layer that is about to be
    emptied grow, no layer is emptied. Of the batches only the shape is looked at.
    """
    return weights.value.abs().mul_(weights["synaptic flow"])


@SCORES.register(
    "lamp",
    elementwise=False,
    allocation="global",
    structures=("weight",),
    reason="its score is of a weight among the single weights of its layer",
    source="Lee et al. 2021, arXiv 2010.07611, eq. 5",
)
def layer_adaptive_magnitude(weights: Weights) -> Tensor:
    """w^2 / the sum of v^2 over all v of the layer with abs(v) >= abs(w)

    Of equal weights the paper's sum has those that come later in the layer. The largest weight of every layer scores
    1, the most there can be, so that no layer is emptied while others have more than one weight.
    """
    squares = weights.value.flatten().double().square()
    order = squares.sort(stable=True)
    at_least = order.values.flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(squares)
    scores[order.indices] = torch.where(order.values > 0, order.values / at_least, 0)
    return scores.view(weights.value.shape).float()


@SCORES.register(
    "random", elementwise=True, group_reduction="first", source="Blalock et al. 2020, section 7.2"
)
def random(weights: Weights) -> Tensor:
    """None: each weight is drawn independently

    The draw is a hash of seed and position, so that it is the same on every device and for every way of slicing.
    """
    return uniform(weights.position, weights.seed)


def optimal_brain_surgeon(weights: Weights, kept: Tensor) -> Tensor:
    """The layer's weights after those that are not `kept` (bools of its shape) are removed.

    In every block the removed weights Q are removed jointly: w - F^-1[:, Q] ([F^-1][Q, Q])^-1 w_Q, which is the least
    increase of w^T F w / 2 that there is with w_Q = 0 (Kurtic et al. 2022). Where single precision cannot solve for
    that, the block's kept weights stay as they are.
    """
    inverse = weights["inverse Fisher"]
    size = inverse.shape[-1]
    flat = functional.pad(weights.value.flatten(), (0, inverse.shape[0] * size - weights.value.numel()))
    removed = functional.pad(~kept.flatten(), (0, len(flat) - kept.numel())).view(-1, size)
    blocks = zip(
        *(part.split(BLOCKS_AT_ONCE) for part in (inverse, flat.view(-1, size), removed)), strict=True
    )
    corrected = torch.cat([_without(*block) for block in blocks])
    return corrected.flatten()[: weights.value.numel()].view(weights.value.shape)


def _without(inverse: Tensor, values: Tensor, removed: Tensor) -> Tensor:
    """Blocks (blocks, size) without what is `removed`, given F^-1 (blocks, size, size)."""
    gone = removed.float()
    # [F^-1][Q, Q], and the identity for the others, so that all blocks are solved at once whatever their Q.
    only_removed = inverse * gone[:, :, None] * gone[:, None, :] + torch.diag_embed(1 - gone)
    factors, failed = torch.linalg.cholesky_ex(only_removed)
    multipliers = torch.cholesky_solve((values * gone)[:, :, None], factors)
    corrected = values - (inverse @ multipliers).squeeze(2)
    solved = (failed == 0)[:, None] & corrected.isfinite().all(1, keepdim=True)
    return torch.where(solved, corrected, values).masked_fill(removed, 0)


CORRECTIONS: dict[str, Callable[[Weights, Tensor], Tensor]] = {"optimal brain surgeon": optimal_brain_surgeon}


def uniform(position: Tensor, seed: int) -> Tensor:
    """Numbers in [0, 1) in float32, the same for the same positions (int) and seed (64 bits) everywhere.

    A different arithmetic sequence for every seed, put through the finalizer of MurmurHash3 (Appleby 2011).
    """
    step, start = seed >> 32 | 1, seed & 0xFFFFFFFF
    bits = position.to(torch.int32).mul(_signed(step)).add_(_signed(start))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits.bitwise_xor_((bits >> shift).bitwise_and_((1 << (32 - shift)) - 1)).mul_(_signed(factor))
    bits.bitwise_xor_(bits >> 16)  # clears the sign: the shift repeats it
    return bits.float().mul_(2.0**-31).clamp_(max=1 - 2.0**-24)


def _signed(word: int) -> int:
    """The int32 with the same 32 bits."""
    return word - (1 << 32) if word >= 1 << 31 else word


def layer_seed(seed: int, name: str) -> int:
    """64 bits for one layer, whatever other layers are pruned with it."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest(), "little")
