"""The shape check: networks that cannot process the images are refused; the others do not change."""

from __future__ import annotations

import pytest
import torch
from model_helpers import refused
from torch import nn

from pruning.errors import PruningError
from pruning.models import shape_check
from pruning.registry import ARCHITECTURES


def test_a_network_that_cannot_process_the_images_is_refused_with_the_architectures_that_can():
    message = refused("my")
    assert "my" in message and "3x32x32" in message
    fitting = message.rpartition(": ")[2].rstrip(".").split(", ")
    assert fitting == [
        name for name in ARCHITECTURES.names() if name not in ("my", "lenet_300_100", "lenet5")
    ]


def test_images_that_no_registered_architecture_can_process_are_refused_without_a_list():
    message = refused("squeezenet1_1", shape=(3, 0, 0))
    assert "3x0x0" in message
    assert not any(name in message.split() for name in ARCHITECTURES.names())


class Noisy(nn.Module):
    """Counts its calls in a buffer and draws random numbers, also in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)
        self.norm = nn.BatchNorm1d(2).eval()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.norm(self.fc(images.flatten(1))) + torch.randn(2)


def test_the_shape_check_does_not_change_modes_buffers_gradients_or_random_state():
    model = Noisy()
    before, state = (
        torch.random.get_rng_state(),
        {key: value.clone() for key, value in model.state_dict().items()},
    )
    shape_check.check(model, (1, 2, 2), 2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert (model.training, model.fc.training, model.norm.training) == (True, True, False)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_batch_that_batch_norm_cannot_process_is_refused_and_changes_nothing():
    model = Noisy()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    shape_check.check_training(model, (1, 2, 2), 2, "noisy")
    with pytest.raises(PruningError, match=r"noisy.* 1 image \(Expected more than 1"):
        shape_check.check_training(model, (1, 2, 2), 1, "noisy")
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert (model.training, model.norm.training) == (True, False)


def test_a_network_without_a_name_is_called_by_its_class_in_errors():
    with pytest.raises(PruningError, match=r"Noisy .* 2x2 .* 3 classes, not 2x3"):
        shape_check.check(Noisy(), (1, 2, 2), 3)
