"""Numbers of parameters and of nonzero parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of weights, biases and normalisation parameters; tied ones count once, buffers do not count."""

    parameters: int
    nonzero_parameters: int

    @property
    def compression_ratio(self) -> float | None:
        """All parameters / nonzero parameters (Blalock et al., arXiv 2003.03033); None if all are zero."""
        return self.parameters / self.nonzero_parameters if self.nonzero_parameters else None


def count_parameters(model: nn.Module) -> ParameterCounts:
    """Count the parameters of `model`; a weight of +0.0 or -0.0 is zero."""
    parameters = [parameter.detach() for parameter in model.parameters()]
    return ParameterCounts(
        parameters=sum(parameter.numel() for parameter in parameters),
        nonzero_parameters=sum(int(torch.count_nonzero(parameter)) for parameter in parameters),
    )
