"""torchvision's classifiers by their own names, made for any number of classes and of input channels."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning.errors import PruningError

if TYPE_CHECKING:
    from torch import Tensor, nn

# Written out so that a name can be checked without importing torchvision; a test compares them with list_models().
NAMES = tuple(
    """
    alexnet convnext_base convnext_large convnext_small convnext_tiny densenet121 densenet161 densenet169
    densenet201 efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4
    efficientnet_b5 efficientnet_b6 efficientnet_b7 efficientnet_v2_l efficientnet_v2_m efficientnet_v2_s
    googlenet inception_v3 maxvit_t mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2
    mobilenet_v3_large mobilenet_v3_small regnet_x_16gf regnet_x_1_6gf regnet_x_32gf regnet_x_3_2gf
    regnet_x_400mf regnet_x_800mf regnet_x_8gf regnet_y_128gf regnet_y_16gf regnet_y_1_6gf regnet_y_32gf
    regnet_y_3_2gf regnet_y_400mf regnet_y_800mf regnet_y_8gf resnet101 resnet152 resnet18 resnet34 resnet50
    resnext101_32x8d resnext101_64x4d resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0
    shufflenet_v2_x1_5 shufflenet_v2_x2_0 squeezenet1_0 squeezenet1_1 swin_b swin_s swin_t swin_v2_b
    swin_v2_s swin_v2_t vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn vit_b_16 vit_b_32
    vit_h_14 vit_l_16 vit_l_32 wide_resnet101_2 wide_resnet50_2
    """.split()
)


def make(name: str, classes: int, channels: int, pretrained: bool) -> nn.Module:
    """torchvision's network `name` with `classes` outputs; `pretrained` starts it from torchvision's default weights.

    Where `channels` is not 3, the first convolution is replaced by one with that many inputs. Where `classes` is not
    the published 1000, the classifier keeps its random weights. The auxiliary heads of googlenet and inception_v3,
    which only training uses, are left out, so that the output is always one tensor of logits.
    Raises PruningError when the published weights are neither on disk nor to be had over the network.
    """
    import torchvision

    model: nn.Module = torchvision.models.get_model(
        name, weights=None, num_classes=classes, **_options(name, channels, pretrained)
    )
    if channels != 3:
        _replace_first_convolution(model, channels)
    if pretrained:
        published = _modern_names(_published_weights(name))
        model.load_state_dict(_fitted(published, model.state_dict()))
    return model


def _options(name: str, channels: int, pretrained: bool) -> dict[str, Any]:
    if name not in ("googlenet", "inception_v3"):
        return {}
    # Their published weights were trained with another normalisation, to which transform_input converts RGB images.
    return {
        "aux_logits": False,
        "init_weights": not pretrained,
        "transform_input": pretrained and channels == 3,
    }


def _replace_first_convolution(model: nn.Module, channels: int) -> None:
    from torch import nn

    name, old = next(
        (name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d)
    )
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    nn.init.kaiming_normal_(new.weight, mode="fan_out")
    model.set_submodule(name, new)


def _published_weights(name: str) -> dict[str, Tensor]:
    """torchvision's default weights of `name`, downloaded once into torch hub's folder of checkpoints."""
    import torch
    import torchvision

    from pruning.models import weights_file

    url: str = torchvision.models.get_model_weights(name).DEFAULT.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.exists():
        _download(name, url, path)
    return weights_file.read(path)


def _download(name: str, url: str, path: Path) -> None:
    import torch

    expected_hash = re.search(r"-([0-9a-f]{8,})\.", path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), expected_hash and expected_hash[1], progress=False)
    except (OSError, RuntimeError) as error:
        raise PruningError(
            f"The pretrained weights of {name} could not be downloaded ({error}): "
            f"put the file {path.name}, from {url}, into {path.parent}."
        ) from error


def _modern_names(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """DenseNet's files still spell `norm.1` and `conv.2`, from when module names could contain dots."""
    return {
        re.sub(r"\b(norm|conv)\.([12])\.(?=\w+$)", r"\1\2.", key): value for key, value in published.items()
    }


def _fitted(published: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """`published` weights in the shapes of `own`: auxiliary heads dropped, the classifier's own kept for other classes,
    the first convolution spread over other input channels."""
    return {key: _fit(published.get(key, value), value) for key, value in own.items()}


def _fit(published: Tensor, own: Tensor) -> Tensor:
    if published.shape == own.shape:
        return published
    if published.shape[0] != own.shape[0]:
        return own
    # The mean over red, green and blue, scaled so that a grey picture gives the same response as it gave before.
    channels = own.shape[1]
    return published.mean(1, keepdim=True).expand_as(own) * (3 / channels)
