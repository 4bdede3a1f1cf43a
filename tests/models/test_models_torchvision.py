"""torchvision's and timm's networks, and their published weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_helpers import as_text, numbers, refused
from torch import nn

from pruning import models
from pruning.models import from_torchvision, meta_model
from pruning.models.model_stats import model_stats


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
