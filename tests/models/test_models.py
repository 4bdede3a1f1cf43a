"""Architectures: names, exact sizes, reproducible initialisation, and one-sentence errors."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
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
GREY = (1, 28, 28)
COLOUR = (3, 32, 32)

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


# --- names ---


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


# --- registered architectures ---


@pytest.mark.parametrize("name", ARCHITECTURES.names())
def test_a_registered_architecture_has_the_published_number_of_parameters(name):
    stats = meta_model.count_stats(name)
    assert stats["parameters"] == PARAMETERS[name]
    assert as_text(stats) == model_stats()[name]


def as_text(stats: dict[str, object]) -> dict[str, str]:
    """Return stats as a row of model_stats.csv."""
    return {key: str(value) for key, value in stats.items()}


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


# --- torchvision ---


@pytest.mark.parametrize("name", ["alexnet", "densenet121", "regnet_y_400mf", "vit_b_16", "swin_t"])
def test_a_torchvision_network_has_the_parameters_and_macs_of_torchvisions_metadata(name):
    import torchvision

    published = torchvision.models.get_model_weights(name).DEFAULT
    stats = meta_model.count_stats(name)
    assert (stats["input"], stats["parameters"]) == ("3x224x224", published.meta["num_params"])
    assert stats["macs"] / 1e9 == pytest.approx(
        published.meta["_ops"], abs=0.0006
    )  # published in units of 1e9, rounded
    assert as_text(stats) == model_stats()[name]


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small", "densenet121"])
def test_a_torchvision_network_is_built_for_the_given_classes_and_channels(name):
    model = models.build(name, classes=7, shape=(1, 64, 64))
    assert model.eval()(torch.randn(2, 1, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
@pytest.mark.filterwarnings("error")
def test_auxiliary_heads_are_removed_so_that_training_has_one_output(name):
    model = models.build(name, classes=10, shape=(1, 96, 96)).train()
    assert model(torch.randn(2, 1, 96, 96)).shape == (2, 10)
    assert not [key for key in model.state_dict() if key.lower().startswith("aux")]


def save_published(name: str, folder: Path, **options: object) -> nn.Module:
    """Save random weights under the name of torchvision's file; return their network."""
    import torchvision

    weights = torchvision.models.get_model_weights(name).DEFAULT
    model = torchvision.models.get_model(name, **options)
    (folder / "checkpoints").mkdir()
    torch.save(model.state_dict(), folder / "checkpoints" / weights.url.rpartition("/")[2])
    return model


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """An empty folder as torch hub's cache."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path)
    yield tmp_path
    torch.hub.set_dir(before)


def test_pretrained_with_1000_classes_has_all_published_weights(hub):
    published = save_published("squeezenet1_1", hub)
    model = models.build("squeezenet1_1", classes=1000, shape=(3, 64, 64), pretrained=True)
    assert torch.equal(numbers(model), numbers(published))


@pytest.mark.parametrize(
    ("name", "head"), [("squeezenet1_1", "classifier.1"), ("mobilenet_v3_small", "classifier.3")]
)
def test_pretrained_with_other_classes_has_a_new_classifier_and_all_other_published_weights(hub, name, head):
    published = save_published(name, hub).state_dict()
    model = models.build(name, classes=10, shape=(3, 64, 64), pretrained=True).state_dict()
    changed = {key for key in published if not torch.equal(published[key], model[key])}
    assert changed == {f"{head}.weight", f"{head}.bias"}


def test_pretrained_with_one_channel_has_the_logits_of_the_grey_image_in_rgb(hub):
    published = save_published("squeezenet1_1", hub).eval()
    model = models.build("squeezenet1_1", classes=1000, shape=(1, 64, 64), pretrained=True).eval()
    grey = torch.randn(2, 1, 64, 64)
    torch.testing.assert_close(model(grey), published(grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)


def test_pretrained_googlenet_has_no_auxiliary_heads(hub):
    save_published("googlenet", hub, aux_logits=True, init_weights=False)
    model = models.build("googlenet", classes=10, shape=(3, 64, 64), pretrained=True).train()
    assert model.transform_input  # its published weights need their own normalisation
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 10)


def test_pretrained_without_a_network_names_the_file_and_its_folder(hub, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    message = refused("resnet18", pretrained=True)
    assert "resnet18-f37072fd.pth" in message and str(hub / "checkpoints") in message
    assert not list((hub / "checkpoints").iterdir())


def test_pretrained_refuses_weights_of_another_network(hub):
    save_published("squeezenet1_0", hub)
    for path in (hub / "checkpoints").iterdir():
        path.rename(path.with_name("resnet18-f37072fd.pth"))
    message = refused("resnet18", pretrained=True)
    assert str(hub / "checkpoints" / "resnet18-f37072fd.pth") in message


def test_every_torchvision_file_name_ends_in_a_hash_prefix():
    import torchvision

    for name in from_torchvision.NAMES:
        url = torchvision.models.get_model_weights(name).DEFAULT.url
        digest = Path(url).stem.rpartition("-")[2]
        assert len(digest) >= 8 and int(digest, 16) >= 0, url


def test_pretrained_is_refused_for_an_architecture_without_published_weights():
    message = refused("resnet20", pretrained=True)
    assert "--pretrained" in message and "--arch resnet20" in message


def test_pretrained_and_weights_together_are_refused():
    message = refused("resnet18", pretrained=True, weights=Path("some.pt"))
    assert "--pretrained" in message and "--weights some.pt" in message


def test_timm_networks_are_built_if_the_extra_is_installed():
    try:
        import timm  # noqa: F401
    except ModuleNotFoundError:
        assert "pip install 'pruning[timm]'" in refused("timm:resnet18")
    else:
        assert "resnet18" in refused("timm:resnet1")
        model = models.build("timm:resnet18", classes=7, shape=(1, 64, 64))
        assert model.eval()(torch.randn(2, 1, 64, 64)).shape == (2, 7)


# --- shape check ---


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


# --- custom networks ---

NET = """
from torch import nn

def small(num_classes, in_channels=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * 32 * 32, num_classes))

def other_words(*, classes, channels):
    return small(classes, channels)

def fixed():
    return small(10)

def thousand():
    return small(1000)

def keywords(**options):
    return small(10)

def pair(classes):
    class Pair(nn.Module):
        def forward(self, images):
            return images, images
    return Pair()

class Net(nn.Sequential):
    def __init__(self, classes):
        super().__init__(nn.Flatten(), nn.Linear(3 * 32 * 32, classes))

def needs_depth(depth):
    return small(10)

def number():
    return 7

def fails():
    raise ValueError("no luck\\ntoday")

def leaves():
    raise SystemExit(3)

def lazy(classes):
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(classes))

instance = small(10)
LIMIT = 3
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(NET)
    return path


@pytest.mark.parametrize("factory", ["small", "other_words", "fixed", "keywords", "Net", "lazy"])
def test_a_factory_is_called_with_the_arguments_of_its_signature(net, factory):
    model = models.build(f"{net}:{factory}", classes=10, shape=COLOUR)
    assert model(torch.randn(2, *COLOUR)).shape == (2, 10)


def test_a_factory_is_called_with_the_classes_and_channels_of_the_data(net):
    model = models.build(f"{net}:other_words", classes=7, shape=(1, 32, 32))
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 7)


def test_a_factory_of_an_importable_module_is_called(net, monkeypatch):
    (net.parent / "nets_of_mine").mkdir()
    (net.parent / "nets_of_mine" / "__init__.py").touch()
    net.rename(net.parent / "nets_of_mine" / "one.py")
    monkeypatch.syspath_prepend(net.parent)
    assert count(models.build("nets_of_mine.one:small", classes=10, shape=COLOUR)) == 30_730
    assert "small" in refused("nets_of_mine.one:smal")
    assert "nets_of_mine.two" in refused("nets_of_mine.two:small")


def test_a_file_can_import_files_in_its_folder_and_sys_path_is_restored(net):
    (net.parent / "sibling.py").write_text("from net import small\ndef made(): return small(10)\n")
    before = list(sys.path)
    assert count(models.build(f"{net.parent / 'sibling.py'}:made", classes=10, shape=COLOUR)) == 30_730
    assert sys.path == before


def test_a_changed_file_is_loaded_again(net):
    assert len(models.build(f"{net}:fixed", classes=10, shape=COLOUR)) == 2
    net.write_text(NET.replace("return small(10)", "return small(10).append(nn.ReLU())", 1))
    assert len(models.build(f"{net}:fixed", classes=10, shape=COLOUR)) == 3


@pytest.mark.parametrize(
    ("factory", "pattern"),
    [
        ("smal", "net.py 'smal'.* small"),
        ("LIMIT", "LIMIT .*int"),
        ("instance", "instance .*Sequential"),
        ("number", "number .*int"),
        ("fails", r"ValueError: no luck today \(line 36\)"),
        ("leaves", "SystemExit: 3"),
        ("needs_depth", "'depth'"),
        ("thousand", "2x1000 .*not 2x10"),
        ("pair", "tuple.* 10 logits"),
        ("", "net.py: "),
    ],
)
def test_an_unusable_factory_is_refused_in_one_line(net, factory, pattern):
    assert re.search(pattern, refused(f"{net}:{factory}"))


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (b"def net(:\n", "line 1 of broken.py"),
        (b"\nimport no_such_library\n", "ModuleNotFoundError: No module named 'no_such_library' (line 2)"),
        (b"raise SystemExit\n", "SystemExit"),
        (b"\x00\x80\xff", "broken.py"),
        (b"", "Known: none"),
    ],
)
def test_an_unusable_file_is_refused_in_one_line(tmp_path, source, text):
    path = tmp_path / "broken.py"
    path.write_bytes(source)
    assert text in refused(f"{path}:net")


@pytest.mark.parametrize(
    ("arch", "pattern"),
    [
        ("nowhere/net.py:small", "file nowhere/net.py"),
        ("nowhere/net.py", "nowhere/net.py .*function"),
        (":small", ":small .*function"),
        ("no_such_package.net:small", "no_such_package"),
        ("../net:small", "../net "),
    ],
)
def test_a_path_without_file_or_factory_is_refused_before_loading(arch, pattern):
    with pytest.raises(PruningError, match=pattern):
        models.check_known(arch)
