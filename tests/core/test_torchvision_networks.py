"""A round of pruning on torchvision's networks: exact weight counts, a forward pass, and hand-counted MACs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pruning.core.layers import prunable_layers
from pruning.core.prune import prune
from pruning.measure.macs import count_macs
from pruning.models import build

SPARSITY = 0.8
WINDOW = 7 * 7  # tokens in a window of a Swin transformer

NETWORKS = {
    "resnet18": 32,
    "vgg16_bn": 32,
    "mobilenet_v3_small": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "convnext_tiny": 32,
    "vit_b_16": 224,  # the only size that it accepts
    "swin_t": 224,  # its windows fit without padding
}


@pytest.fixture
def unfused_attention() -> Iterator[None]:
    """Disable fused transformer layers and attention, whose parts torch's counter ignores in some versions."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with sdpa_kernel(SDPBackend.MATH):
        yield
    torch.backends.mha.set_fastpath_enabled(before)


@pytest.mark.usefixtures("unfused_attention")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_pruned_network_has_the_exact_sparsity_finite_outputs_and_hand_counted_macs(name: str) -> None:
    torch.manual_seed(0)
    shape = (3, NETWORKS[name], NETWORKS[name])
    model = build(name, classes=10, shape=shape).eval()
    weights = sum(layer.size for layer in prunable_layers(model))
    masks = prune(model, method="global_mag", sparsity=SPARSITY)
    zeros = sum(int((~mask).sum()) for _, mask in masks.items())
    assert (masks.total, zeros) == (weights, round(SPARSITY * weights))

    nonzero_macs: list[int] = []
    for module in model.modules():
        module.register_forward_hook(lambda *given: nonzero_macs.append(by_hand(*given)))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        outputs = model(torch.randn(1, *shape))
    assert outputs.shape == (1, 10)
    assert outputs.isfinite().all()
    by_hand_once = sum(nonzero_macs)
    counted = count_macs(model, shape)
    assert counted.macs == counter.get_total_flops() / 2
    assert counted.nonzero_macs == by_hand_once


def by_hand(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> int:
    """MACs with nonzero weights in one call of a module, and those of the two products of attention."""
    if isinstance(module, nn.Conv2d):  # grouped or not, each weight is used once per output position
        return output.shape[2] * output.shape[3] * nonzero(module.weight)
    if isinstance(module, nn.MultiheadAttention):
        tokens, width = inputs[0].shape[1:]
        weights = nonzero(module.in_proj_weight) + nonzero(module.out_proj.weight)
        return int(tokens * weights + 2 * tokens * tokens * width)
    if type(module).__name__ == "ShiftedWindowAttention":
        _, height, length, width = inputs[0].shape
        weights = nonzero(module.qkv.weight) + nonzero(module.proj.weight)
        return height * length * (weights + 2 * WINDOW * width)
    if type(module) is nn.Linear:
        return inputs[0].shape[:-1].numel() * nonzero(module.weight)
    return 0


def nonzero(weight: Tensor) -> int:
    return int((weight != 0).sum())
