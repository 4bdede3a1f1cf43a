"""Axis 2a, scoring: importance of each weight.

A score is a function ``(weights) -> Tensor`` of the shape of ``weights.value``, float32 and finite; weights with a low
score are removed first. The attributes of its registration are those of `registry.ScoreSpec`.

A score reads its statistics (`ScoreSpec.statistics`) as ``weights["name"]``. They are registered functions in
`core.statistics`; sums over training steps (`ScoreSpec.accumulates`) are registered in `core.accumulation`. A plugin
can register a score and its statistic in one file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pruning.registry import SCORES


@dataclass(frozen=True)
class Weights:
    """The argument of a score: a layer, or a flat slice of it.

    Attributes:
        value: The weights, float32.
        statistics: Name -> statistic that the score reads, float32 and of `value`'s shape (for scores of whole layers,
            any shape).
        indices: Flat indices of `value` in the layer.
        seed: Seed of this layer, for scores that draw at random.
        output_dimension: Dimension of a whole layer's outputs (filters, neurons).
    """

    value: Tensor
    statistics: Mapping[str, Tensor] = field(default_factory=dict)
    indices: range | Tensor = range(0)
    seed: int = 0
    output_dimension: int = 0

    def __getitem__(self, statistic: str) -> Tensor:
        """Return a statistic by name."""
        return self.statistics[statistic]

    @property
    def gradient(self) -> Tensor:
        """dL/dw of the mean loss over the batches."""
        return self["gradient"]

    @property
    def position(self) -> Tensor:
        """Flat index of each weight in its layer (int32 or int64), of the shape of `value`."""
        if isinstance(self.indices, Tensor):
            return self.indices
        return torch.arange(self.indices.start, self.indices.stop, device=self.value.device).view(
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
    reason="for single weights it equals mag",
    source="Li et al. 2017, arXiv 1608.08710",
)
def l1_norm(weights: Weights) -> Tensor:
    """abs(w), averaged over a filter or block: the L1 norm"""
    return weights.value.abs()


@SCORES.register(
    "fpgm",
    elementwise=False,
    structures=("filter",),
    reason="it measures distances between the filters of a layer",
    source="He et al. 2019, arXiv 1811.00250, eq. 6",
)
def geometric_median(weights: Weights) -> Tensor:
    """Sum of a filter's distances to all filters of its layer: filters near the geometric median are removed first

    Every weight of a filter has the filter's score. Distances grow with the number and size of the filters, so compare
    within each layer, as the paper does.
    """
    filters = weights.value.movedim(weights.output_dimension, 0).flatten(1)
    distances = torch.cdist(filters, filters, compute_mode="donot_use_mm_for_euclid_dist").sum(1)
    shape = [-1 if i == weights.output_dimension else 1 for i in range(weights.value.dim())]
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

    The paper's division by the sum over the network does not change the order and is omitted. On the same batches the
    masks are those of `grad`; SNIP is pruning before training.
    """
    return gradient_magnitude(weights)


@SCORES.register(
    "taylor",
    statistics=("gradient",),
    elementwise=True,
    source="Molchanov et al. 2019, arXiv 1906.10771, eq. 8",
)
def first_order_taylor(weights: Weights) -> Tensor:
    """(w x dL/dw)^2, the squared first-order change of the loss, averaged over a filter or block

    For single weights the masks are those of `grad`. For a filter or block, Taylor averages the squared values
    (equation 9), so its masks differ.
    """
    return (weights.value * weights.gradient).square_()


@SCORES.register(
    "fisher",
    statistics=("squared gradient",),
    elementwise=True,
    source="Theis et al. 2018, arXiv 1801.05787, eq. 8; LeCun et al. 1990",
)
def diagonal_fisher(weights: Weights) -> Tensor:
    """w^2 x the mean over samples of (dL_i/dw)^2: second order, with the diagonal of the empirical Fisher

    Twice the expected change of the loss when w is removed; the factor does not change the order.
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
    """w^2 / (2 [F^-1]_ww), F the empirical Fisher matrix in blocks of 50 weights; updates the kept weights;
    pruned in 10 steps

    The expected increase of the loss when w is removed and the other weights of its block are corrected optimally (see
    `core.corrections.optimal_brain_surgeon`). The estimate holds for small steps only, so each pruning step is
    divided into ten, and each computes F again for the remaining weights, as in both papers.
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
    """Negative sum of w x dL/dw over the training steps since the last pruning step: low for weights that move to zero

    The steps are those of the last round's fine-tuning, and for the first pruning step those of the dense training
    (with --weights or --pretrained, the fine-tuning of the paper). If fine-tuning starts from other weights (rewind,
    reinit), only the steps since then count. In the paper the sum is never reset and pruned weights can return; here
    every pruning step resets it, and pruned weights stay pruned. The score can be negative.
    """
    return weights["movement"]


@SCORES.register(
    "bn_scale",
    statistics=("normalisation scale",),
    elementwise=True,
    structures=("filter",),
    reason="it is the scale of the normalisation that follows a filter",
    source="Liu et al. 2017, arXiv 1708.06519",
)
def normalization_scale(weights: Weights) -> Tensor:
    """abs(gamma), the scale of the normalisation that follows a filter

    The mean, if several normalisations follow the channel because their outputs are added. The paper trains with an L1
    penalty on the scales first; here the dense training is the same for all methods.
    """
    return weights["normalisation scale"]


@SCORES.register(
    "act",
    statistics=("mean input",),
    elementwise=True,
    source="ShrinkBench, Blalock et al. 2020, arXiv 2003.03033",
)
def activation_weighted(weights: Weights) -> Tensor:
    """abs(w) x the mean of abs(x), where x is the input that w multiplies"""
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

    The paper compares the weights of each output; here the allocation determines which weights compete.
    For convolutions the norm is that of
    the input channel, over all samples and positions.
    """
    return weights.value.abs().mul_(weights["input norm"])


@SCORES.register(
    "grasp",
    statistics=("Hessian-gradient product",),
    elementwise=True,
    source="Wang et al. 2020, arXiv 2002.07376, eq. 8",
)
def gradient_flow(weights: Weights) -> Tensor:
    """w x (H g), at initialisation (--epochs 0): lowest for weights whose removal increases the gradient norm most

    The paper removes the *highest* S = -w x (H g). Here the lowest scores are removed, so the sign is reversed. The
    score can be negative. The loss has no temperature, unlike in the authors' code.
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
    """abs(w) x dR/d abs(w), where R is the sum over all paths of the product of their weights; pruned in 100 steps;
    uses no data

    Each step keeps the same fraction of the remaining weights. The scores of a layer grow as it loses weights, so that
    no layer is emptied. The batches determine only the input shape.
    """
    return weights.value.abs().mul_(weights["synaptic flow"])


@SCORES.register(
    "lamp",
    elementwise=False,
    allocation="global",
    structures=("weight",),
    reason="its score compares single weights of a layer",
    source="Lee et al. 2021, arXiv 2010.07611, eq. 5",
)
def layer_adaptive_magnitude(weights: Weights) -> Tensor:
    """w^2 / the sum of v^2 over all v of the layer with abs(v) >= abs(w)

    Among equal weights the sum includes those at later positions. The largest weight of every layer has the highest
    possible score, 1, so that no layer is emptied while others have more than one weight.
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
    """A uniform random number for each weight

    It is a hash of seed and position, so that it is the same on every device and for every way of slicing.
    """
    return uniform(weights.position, weights.seed)


def uniform(position: Tensor, seed: int) -> Tensor:
    """Return float32 numbers in [0, 1), the same for the same positions (int) and seed (64 bits) on every device.

    An arithmetic sequence that depends on the seed, passed through the finalizer of MurmurHash3 (Appleby 2011).
    """
    step, start = seed >> 32 | 1, seed & 0xFFFFFFFF
    bits = position.to(torch.int32).mul(_signed(step)).add_(_signed(start))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits.bitwise_xor_((bits >> shift).bitwise_and_((1 << (32 - shift)) - 1)).mul_(_signed(factor))
    bits.bitwise_xor_(bits >> 16)  # clears the sign: the shift repeats it
    return bits.float().mul_(2.0**-31).clamp_(max=1 - 2.0**-24)


def _signed(word: int) -> int:
    """Return the int32 with the same 32 bits."""
    return word - (1 << 32) if word >= 1 << 31 else word


def layer_seed(seed: int, name: str) -> int:
    """Return a 64-bit seed for one layer, independent of the other layers."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest(), "little")
