"""How many parameters a network has, and how many of them are not zero."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Size:
    """Parameters of every kind (weight, bias, normalisation); a tied one counts once, buffers do not."""

    parameters: int
    nonzero_parameters: int

    @property
    def compression_ratio(self) -> float | None:
        """All parameters / non-zero parameters (Blalock et al., arXiv 2003.03033); None if all are zero."""
        return self.parameters / self.nonzero_parameters if self.nonzero_parameters else None


def count_parameters(model: nn.Module) -> Size:
    """The size of `model` as it stands; removed weights are those that are exactly zero (+0.0 or -0.0)."""
    parameters = [parameter.detach() for parameter in model.parameters()]
    return Size(
        parameters=sum(parameter.numel() for parameter in parameters),
        nonzero_parameters=sum(int(torch.count_nonzero(parameter)) for parameter in parameters),
    )
