"""Corrections of the kept weights for the loss of the pruned ones.

A correction is a registered function ``(weights, kept) -> Tensor``. It returns a layer's weights after a pruning step.
A score names it as its `ScoreSpec.correction`. `weights` is what the score received, and `kept` is bool, of the same
shape. Pruned weights must be zero in the result.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pruning.axes.scoring import Weights
from pruning.registry import CORRECTIONS

BLOCKS_AT_ONCE = 1 << 12  # blocks that are corrected in one call


@CORRECTIONS.register("optimal brain surgeon", source="Kurtic et al. 2022, arXiv 2203.07259")
def optimal_brain_surgeon(weights: Weights, kept: Tensor) -> Tensor:
    """Joint removal of all pruned weights of a Fisher block, at the least increase of the loss

    With Q the pruned weights of a block: w - F^-1[:, Q] ([F^-1][Q, Q])^-1 w_Q, which minimises w^T F w / 2 subject to
    w_Q = 0. Where single precision cannot solve the system, the block's kept weights stay as they are.
    """
    inverse = weights["inverse Fisher"]
    size = inverse.shape[-1]
    flat = functional.pad(weights.value.flatten(), (0, inverse.shape[0] * size - weights.value.numel()))
    pruned = functional.pad(~kept.flatten(), (0, len(flat) - kept.numel())).view(-1, size)
    blocks = zip(
        *(part.split(BLOCKS_AT_ONCE) for part in (inverse, flat.view(-1, size), pruned)), strict=True
    )
    corrected = torch.cat([_corrected_blocks(*block) for block in blocks])
    return corrected.flatten()[: weights.value.numel()].view(weights.value.shape)


def _corrected_blocks(inverse: Tensor, values: Tensor, pruned: Tensor) -> Tensor:
    """Return blocks (blocks, size) without the pruned weights, given F^-1 (blocks, size, size)."""
    factor = pruned.float()
    # [F^-1][Q, Q] padded with the identity, so that blocks with any Q are solved in one call.
    only_pruned = inverse * factor[:, :, None] * factor[:, None, :] + torch.diag_embed(1 - factor)
    cholesky, failed = torch.linalg.cholesky_ex(only_pruned)
    multipliers = torch.cholesky_solve((values * factor)[:, :, None], cholesky)
    corrected = values - (inverse @ multipliers).squeeze(2)
    solved = (failed == 0)[:, None] & corrected.isfinite().all(1, keepdim=True)
    return torch.where(solved, corrected, values).masked_fill(pruned, 0)
