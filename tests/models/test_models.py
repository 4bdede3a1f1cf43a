"""Architectures: names, exact sizes, reproducible initialisation, and one-sentence errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from model_helpers import COLOUR, GREY, as_text, count, numbers
from torch import nn
from torch.nn import functional as F

from pruning import models
from pruning.errors import PruningError
from pruning.models import from_torchvision, meta_model, shape_check
from pruning.models.mobilenet_v2_cifar import mobilenet_v2_cifar
from pruning.models.model_stats import model_stats
from pruning.models.resnet_cifar import option_a
from pruning.models.vit_tiny_cifar import Attention
from pruning.models.wide_resnet_cifar import WideResNetCifar
from pruning.registry import ARCHITECTURES

ROOT = Path(__file__).parents[2]

PARAMETERS = {
    "my": 60_074,
    "lenet_300_100": 266_610,
    "lenet5": 431_080,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    "vgg11_bn_cifar": 9_231_114,
    "vgg16_bn_cifar": 14_728_266,
    "vgg19_bn_cifar": 20_040_522,
    "wrn_22_2": 1_079_642,
    "wrn_28_10": 36_479_194,
    "mobilenet_v2_cifar": 2_236_682,
    "vit_tiny_cifar": 5_362_762,
}


def test_names_are_the_registered_and_torchvisions_without_duplicates():
    import torchvision

    theirs = torchvision.models.list_models(module=torchvision.models)
    assert list(from_torchvision.NAMES) == theirs
    assert not set(theirs) & set(ARCHITECTURES.names())
    assert models.names() == ARCHITECTURES.names() + theirs


def test_names_are_checked_without_importing_torch_torchvision_or_timm():
    code = """
import sys
from pruning import models
from pruning.errors import PruningError
for arch in ("resnet20", "vit_b_16", "timm:anything", "json:loads"):
    models.check_known(arch)
try:
    models.check_known("resnet21")
except PruningError:
    assert len(models.names()) > 90
    assert not {"torch", "torchvision", "timm"} & set(sys.modules)
    print("checked")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "checked\n"


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("resnet21", "resnet20"), ("efficientnet_bo", "efficientnet_b0"), ("vgg16bn", "vgg16_bn")],
)
def test_an_unknown_name_is_refused_with_the_nearest_name(wrong, meant):
    with pytest.raises(PruningError, match=f"'{wrong}'.*{meant}"):
        models.check_known(wrong)


@pytest.mark.parametrize("name", ARCHITECTURES.names())
def test_a_registered_architecture_has_the_published_number_of_parameters(name):
    stats = meta_model.count_stats(name)
    assert stats["parameters"] == PARAMETERS[name]
    assert as_text(stats) == model_stats()[name]


def test_model_stats_has_every_name_and_no_other():
    assert list(model_stats()) == models.names()


@pytest.mark.parametrize("name", ARCHITECTURES.names())
def test_a_registered_architecture_accepts_other_numbers_of_classes_and_channels(name):
    _, shape = meta_model.build_meta_model(name)
    assert shape_check.fits(name, (2, *shape[1:]), 7)


@pytest.mark.parametrize("name", ["my", "lenet_300_100", "lenet5", "resnet20", "vgg11_bn_cifar", "wrn_22_2"])
def test_every_parameter_has_a_gradient(name):
    _, shape = meta_model.build_meta_model(name)
    model = models.build(name, classes=10, shape=shape)
    F.cross_entropy(model(torch.randn(4, *shape)), torch.arange(4)).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_my_is_the_teaching_programs_network():
    model = models.build("my", classes=10, shape=GREY)
    described = [(name, tuple(module.weight.shape)) for name, module in model.named_children()]
    assert described == [
        ("conv1", (6, 1, 3, 3)),
        ("conv2", (16, 6, 3, 3)),
        ("fc1", (120, 400)),
        ("fc2", (84, 120)),
        ("fc3", (10, 84)),
    ]
    layers = (nn.ReLU(), nn.MaxPool2d(2))
    as_told = nn.Sequential(
        *(model.conv1, *layers, model.conv2, *layers, nn.Flatten()),
        *(model.fc1, nn.ReLU(), model.fc2, nn.ReLU(), model.fc3),
    )
    images = torch.randn(3, *GREY)
    assert torch.equal(model(images), as_told(images))


def test_option_a_has_every_second_pixel_and_equal_padding_on_both_sides():
    images = torch.arange(2 * 2 * 4 * 4.0).reshape(2, 2, 4, 4)
    widened = option_a(images, 4)
    assert widened.shape == (2, 4, 2, 2)
    assert torch.equal(widened[0, 1], torch.tensor([[0.0, 2.0], [8.0, 10.0]]))
    assert torch.equal(widened[:, 1:3], images[:, :, ::2, ::2])
    assert not widened[:, 0].any() and not widened[:, 3].any()


def test_resnet20_has_the_names_of_the_published_weights_files():
    keys = set(models.build("resnet20", classes=10, shape=COLOUR).state_dict())
    tensors = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1, 2)]
    convolutions = ["conv1", *(f"{block}.conv{n}" for block in blocks for n in (1, 2))]
    norms = [name.replace("conv", "bn") for name in convolutions]
    expected = {f"{name}.weight" for name in convolutions} | {
        f"{name}.{tensor}" for name in norms for tensor in tensors
    }
    assert keys == expected | {"linear.weight", "linear.bias"}


def test_resnet20_has_he_initialisation():
    torch.manual_seed(0)
    model = models.build("resnet20", classes=10, shape=COLOUR)
    weight = model.layer3[2].conv2.weight  # fan-in 64 * 9
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("depth", "widening", "published"), [(40, 2, 2_243_546), (16, 8, 10_961_370), (28, 10, 36_479_194)]
)
def test_wide_resnets_of_other_sizes_have_the_published_number_of_parameters(depth, widening, published):
    assert count(meta_model.on_meta_device(lambda: WideResNetCifar(depth, widening, 10, 3))) == published


def test_mobilenet_v2_cifar_differs_from_torchvisions_only_in_two_strides():
    import torchvision

    ours = mobilenet_v2_cifar(10, 3)
    theirs = torchvision.models.mobilenet_v2(num_classes=10)
    mine, other = (
        [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)] for net in (ours, theirs)
    )
    assert [tuple(m.weight.shape) for m in mine] == [tuple(m.weight.shape) for m in other]
    strides = [(a.stride, b.stride) for a, b in zip(mine, other, strict=True) if isinstance(a, nn.Conv2d)]
    assert [pair for pair in strides if pair[0] != pair[1]] == [((1, 1), (2, 2))] * 2


def test_vit_attention_equals_torch_multihead_attention():
    torch.manual_seed(0)
    ours, theirs = Attention(), nn.MultiheadAttention(192, 3, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.weight.copy_(ours.projection.weight)
        theirs.out_proj.bias.copy_(ours.projection.bias)
    tokens = torch.randn(2, 5, 192)
    torch.testing.assert_close(ours(tokens), theirs(tokens, tokens, tokens, need_weights=False)[0])


@pytest.mark.parametrize("name", ["my", "resnet20", "vit_tiny_cifar", "squeezenet1_1"])
def test_the_seed_determines_the_initial_weights(name):
    shape = GREY if name == "my" else COLOUR

    def seeded(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return numbers(models.build(name, classes=10, shape=shape))

    assert torch.equal(seeded(1), seeded(1))
    assert not torch.equal(seeded(1), seeded(2))


def test_counting_parameters_and_macs_does_not_change_the_random_state():
    before = torch.random.get_rng_state()
    meta_model.count_stats("vit_tiny_cifar")
    meta_model.count_stats("vit_b_16")
    assert torch.equal(torch.random.get_rng_state(), before)
