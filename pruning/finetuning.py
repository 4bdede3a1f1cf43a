"""Axis 4, fine-tuning: from which weights training goes on after a pruning, if it does.

A policy is a function `(model, rewind) -> None` that puts the weights in place from which the round's fine-tuning
starts; the masks are applied again after it. `rewind` is the dense network's state at `--rewind-epoch`, for policies
registered with `rewinds=True`; None for the others. A policy registered with `trains=False` is followed by no training.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from pruning.registry import FINETUNINGS


@FINETUNINGS.register("go_on", trains=True)
def go_on(model: nn.Module, rewind: Mapping[str, Tensor] | None) -> None:
    """Train on from the weights as they are (Han et al. 2015, arXiv 1506.02626)."""


@FINETUNINGS.register("none", trains=False)
def none(model: nn.Module, rewind: Mapping[str, Tensor] | None) -> None:
    """No training after pruning."""


@FINETUNINGS.register("rewind", trains=True, rewinds=True)
def rewind_weights(model: nn.Module, rewind: Mapping[str, Tensor] | None) -> None:
    """Kept weights go back to --rewind-epoch of the dense training (Frankle et al. 2020, arXiv 1912.05671)."""
    assert rewind is not None, "registered with rewinds=True"
    model.load_state_dict(rewind)
