"""MACs: equal to torch's counter, to hand counts, to published counts, and to a naive loop over the weights."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pruning.errors import PruningError
from pruning.measure.macs import count_macs, trace_macs
from pruning.models import build


def torch_count(model: nn.Module, shape: tuple[int, int, int]) -> float:
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.eval()(torch.zeros(1, *shape))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return counter.get_total_flops() / 2


def lenet() -> nn.Module:
    return build("my", classes=10, shape=(1, 28, 28))


def test_the_macs_of_my_equal_a_hand_count() -> None:
    counted = count_macs(lenet(), (1, 28, 28))
    by_hand = [6 * 9 * 26 * 26, 16 * 6 * 9 * 11 * 11, 400 * 120, 120 * 84, 84 * 10]
    assert [layer.macs for layer in counted.layers.values()] == by_hand
    assert [layer.type for layer in counted.layers.values()] == ["Conv2d"] * 2 + ["Linear"] * 3
    assert counted.theoretical_speedup == 1.0


@pytest.mark.parametrize(
    ("arch", "shape", "millions"),
    [("resnet20", (3, 32, 32), 40.55), ("resnet56", (3, 32, 32), 125.49)],
)
def test_the_macs_of_cifar_resnets_equal_the_published_counts(
    arch: str, shape: tuple[int, int, int], millions: float
) -> None:
    counted = count_macs(build(arch, classes=10, shape=shape), shape)
    assert round(counted.macs / 1e6, 2) == millions


def test_the_macs_of_the_lenet_of_1998_equal_the_published_count() -> None:
    convolutions = nn.Conv2d(1, 6, 5, padding=2), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.MaxPool2d(2)
    linears = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)
    counted = count_macs(nn.Sequential(*convolutions, nn.Flatten(), *linears), (1, 28, 28))
    assert counted.macs == 416_520


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])  # others: test_torchvision_networks
def test_the_macs_of_torchvision_networks_equal_those_of_torchs_counter(name: str) -> None:
    import torchvision

    model = getattr(torchvision.models, name)()
    for parameter in model.parameters():
        parameter.data.fill_(0.01)
    counted = count_macs(model, (3, 224, 224))
    assert counted.macs == counted.nonzero_macs == torch_count(model, (3, 224, 224))
    if name == "resnet18":
        assert round(counted.macs / 1e6, 2) == 1814.07


def naive_macs(layer: nn.Module, x: torch.Tensor) -> int:
    """MACs with a nonzero weight, one by one: how many outputs are nonzero if only this weight is."""
    probe = copy.deepcopy(layer)
    total = 0
    for index in itertools.product(*(range(length) for length in layer.weight.shape)):
        probe.weight.data.zero_()
        probe.weight.data[index] = 1.0
        if layer.weight.data[index] != 0:
            total += int(torch.count_nonzero(probe(x)))
    return total


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, bias=False),
        nn.Conv2d(4, 6, (1, 3), stride=2, bias=False),
        nn.Conv2d(4, 6, 3, dilation=2, bias=False),
        nn.Conv2d(4, 6, 3, groups=2, bias=False),
        nn.Conv2d(4, 8, 3, groups=4, bias=False),
        nn.ConvTranspose2d(4, 3, 2, stride=2, bias=False),
        nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, bias=False),
        nn.Linear(9, 5, bias=False),
    ],
    ids=str,
)
def test_nonzero_macs_equal_a_naive_count_weight_by_weight(layer: nn.Module) -> None:
    torch.manual_seed(0)
    layer.weight.data *= torch.rand_like(layer.weight) > 0.6
    x = torch.ones(1, 4, 8, 9)
    # Without padding every MAC of one weight has its own output.
    assert count_macs(layer, (4, 8, 9)).nonzero_macs == naive_macs(layer, x)


def test_padding_counts_as_in_torchs_counter() -> None:
    model = nn.Conv2d(2, 3, 3, padding=1, bias=False)
    assert count_macs(model, (2, 5, 5)).macs == 3 * 2 * 9 * 25 == torch_count(model, (2, 5, 5))


def test_a_layer_used_twice_counts_twice() -> None:
    layer = nn.Conv2d(2, 2, 3, padding=1, bias=False)
    layer.weight.data[0] = 0
    counted = count_macs(nn.Sequential(layer, nn.ReLU(), layer), (2, 5, 5))
    assert counted.layers == {"0": ("Conv2d", 2 * 36 * 25, 36 * 25)}
    assert counted.theoretical_speedup == 2.0


def test_a_tied_weight_is_credited_to_the_first_layer_that_has_it() -> None:
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4)
    second.weight = first.weight
    assert count_macs(nn.Sequential(first, second), (1, 1, 4)).layers == {"0": ("Linear", 32, 32)}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return self.attention(tokens, tokens, tokens, need_weights=False)[0]


def test_attention_counts_its_fused_projection_by_weight_and_its_products_in_full() -> None:
    model = Attention()
    model.attention.in_proj_weight.data[:12] = 0  # half of the 24 rows of queries, keys and values
    counted = count_macs(model, (8, 2, 3))
    tokens, width = 6, 8
    projection, products = tokens * width * 3 * width, 2 * tokens * tokens * width
    assert counted.layers == {
        "attention": ("MultiheadAttention", projection + products, projection // 2 + products),
        "attention.out_proj": (
            "NonDynamicallyQuantizableLinear",
            tokens * width * width,
            tokens * width * width,
        ),
    }


class CrossAttention(nn.Module):
    """One learned query attends to all pixels: the parts of the fused weight have different positions."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.ones(1, 1, 4))
        self.attention = nn.MultiheadAttention(4, 1, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return self.attention(self.query, tokens, tokens, need_weights=False)[0]


def test_parts_of_a_fused_projection_have_separate_positions() -> None:
    model = CrossAttention()
    full = count_macs(model, (4, 1, 10)).layers["attention"]
    model.attention.in_proj_weight.data[:4] = 0  # the query's part, used for one position only
    pruned = count_macs(model, (4, 1, 10)).layers["attention"]
    products = 2 * 1 * 10 * 4
    assert full.macs == 16 + 10 * 32 + products
    assert full.macs - pruned.nonzero_macs == 16


def test_an_encoder_layer_is_counted_in_full_and_its_fast_path_stays_enabled() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x.flatten(2).transpose(1, 2))

    tokens = 6
    assert (
        count_macs(Encoder(), (8, 2, 3)).macs
        == tokens * (8 * 24 + 8 * 8 + 2 * 8 * 16) + 2 * tokens * tokens * 8
    )
    assert torch.backends.mha.get_fastpath_enabled()


def test_functional_use_of_a_weight_is_credited_to_the_module_that_owns_it() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.linear(x, self.inner.weight)

    assert count_macs(Functional(), (1, 1, 6)).layers == {"inner": ("Linear", 12, 12)}


def test_a_forward_in_inference_mode_is_counted() -> None:
    class Frozen(nn.Sequential):
        @torch.inference_mode()
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images.clone())

    layers = nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 26 * 26, 10)
    assert count_macs(Frozen(*layers), (1, 28, 28)).macs == 2 * 9 * 26 * 26 + 2 * 26 * 26 * 10


def test_one_trace_counts_copies_with_other_weights() -> None:
    model = lenet()
    trace = trace_macs(model, (1, 28, 28))
    pruned = copy.deepcopy(model)
    first_linear = next(module for module in pruned.modules() if isinstance(module, nn.Linear))
    first_linear.weight.data[:60] = 0
    assert trace.count(model).theoretical_speedup == 1.0
    assert trace.count(model).nonzero_macs - trace.count(pruned).nonzero_macs == 24_000


def test_a_network_of_zeros_has_no_speedup() -> None:
    model = nn.Linear(4, 2)
    model.weight.data.zero_()
    assert count_macs(model, (1, 1, 4)).theoretical_speedup is None


def test_counting_changes_neither_the_model_nor_the_random_state() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(18, 2))
    model.train()
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    random_state = torch.get_rng_state()
    count_macs(model, (1, 5, 5))
    assert [module.training for module in model] == [True, False, True, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_the_dtype_does_not_change_the_counts() -> None:
    assert count_macs(lenet().bfloat16(), (1, 28, 28)) == count_macs(lenet(), (1, 28, 28))


def test_counts_are_exact_beyond_32_bits() -> None:
    counted = count_macs(nn.Conv2d(64, 64, 9, padding=4, bias=False), (64, 96, 96))
    assert counted.macs == counted.nonzero_macs == 64 * 64 * 81 * 96 * 96 > 2**31
    assert type(counted.nonzero_macs) is int


def test_an_image_of_the_wrong_shape_is_rejected_and_the_model_keeps_its_mode() -> None:
    model = lenet().train()
    with pytest.raises(PruningError, match="3x28x28"):
        count_macs(model, (3, 28, 28))
    assert model.training


@pytest.mark.cuda
def test_counts_on_a_gpu_equal_counts_on_the_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    assert count_macs(Attention().cuda(), (8, 2, 3)).macs == count_macs(Attention(), (8, 2, 3)).macs
