"""Helpers of the tests of models."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pruning import models
from pruning.errors import PruningError

GREY = (1, 28, 28)
COLOUR = (3, 32, 32)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def refused(arch: str, **options: object) -> str:
    """Return the one-sentence error for `arch`."""
    with pytest.raises(PruningError) as caught:
        models.build(arch, **{"classes": 10, "shape": COLOUR, **options})
    message = str(caught.value)
    assert "\n" not in message
    return message


def numbers(module: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def as_text(stats: dict[str, object]) -> dict[str, str]:
    """Return stats as a row of model_stats.csv."""
    return {key: str(value) for key, value in stats.items()}
