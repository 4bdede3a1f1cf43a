"""The packed layout of `my`: logits and gradients equal the plain ones; other networks do not use it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune

from pruning.models.my import My
from pruning.training.packed_layout import packed_forward, training_forward

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="the packed layout is oneDNN's"
)
CPU = torch.device("cpu")


def gradients(model: nn.Module, outputs: torch.Tensor, targets: torch.Tensor) -> list[torch.Tensor]:
    loss = functional.cross_entropy(outputs, targets)
    return list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("number", [2, 128])
def test_packed_logits_and_gradients_equal_the_plain_ones_up_to_rounding(
    number: int, memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    model = My(num_classes=10, in_channels=1).to(memory_format=memory_format)
    images = torch.randn(number, 1, 28, 28).contiguous(memory_format=memory_format)
    targets = torch.arange(number) % 10
    plain, packed = model(images), packed_forward(model, images)
    torch.testing.assert_close(packed, plain, rtol=1e-4, atol=1e-5)
    pairs = zip(gradients(model, packed, targets), gradients(model, plain, targets), strict=True)
    for of_packed, of_plain in pairs:
        torch.testing.assert_close(of_packed, of_plain, rtol=1e-3, atol=1e-5)


def test_an_odd_number_of_images_is_computed_by_the_model_itself() -> None:
    torch.manual_seed(0)
    model = My(num_classes=10, in_channels=1)
    images = torch.randn(3, 1, 28, 28)
    assert torch.equal(training_forward(model, "fp32", CPU)(images), model(images))


def test_the_model_itself_is_used_where_the_layout_does_not_apply() -> None:
    colour, other, grey = My(10, in_channels=3), nn.Linear(2, 2), My(10, in_channels=1)
    assert training_forward(colour, "fp32", CPU) is colour
    assert training_forward(other, "fp32", CPU) is other
    assert training_forward(grey, "bf16", CPU) is grey


def test_the_model_itself_is_used_when_a_hook_computes_a_weight() -> None:
    model = My(10, in_channels=1)
    prune.l1_unstructured(model.conv1, "weight", 0.5)
    assert training_forward(model, "fp32", CPU) is model
