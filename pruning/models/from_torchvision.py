"""torchvision's classifiers by their own names, made for any number of classes and of input channels.

- For other than 3 channels the first convolution is replaced by one with that many inputs. Its weights are
  random, or, with pretrained weights, the mean of theirs over red, green and blue, scaled so that a grey
  picture (all channels equal) gives the response that it gave before.
- With pretrained weights the classifier is replaced by a random one unless there are 1000 classes.
- The auxiliary heads of googlenet and inception_v3, which serve only in training, are left out, so that the
  output is one tensor of logits.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pruning.errors import PruningError

if TYPE_CHECKING:
    from torch import nn

# Written out so that names are checked without importing torchvision; a test compares them with its own list.
_NAMES = """
alexnet convnext_base convnext_large convnext_small convnext_tiny densenet121 densenet161 densenet169
densenet201 efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4
efficientnet_b5 efficientnet_b6 efficientnet_b7 efficientnet_v2_l efficientnet_v2_m efficientnet_v2_s
googlenet inception_v3 maxvit_t mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2
mobilenet_v3_large mobilenet_v3_small regnet_x_16gf regnet_x_1_6gf regnet_x_32gf regnet_x_3_2gf
regnet_x_400mf regnet_x_800mf regnet_x_8gf regnet_y_128gf regnet_y_16gf regnet_y_1_6gf regnet_y_32gf
regnet_y_3_2gf regnet_y_400mf regnet_y_800mf regnet_y_8gf resnet101 resnet152 resnet18 resnet34 resnet50
resnext101_32x8d resnext101_64x4d resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5
shufflenet_v2_x2_0 squeezenet1_0 squeezenet1_1 swin_b swin_s swin_t swin_v2_b swin_v2_s swin_v2_t vgg11
vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn vit_b_16 vit_b_32 vit_h_14 vit_l_16 vit_l_32
wide_resnet101_2 wide_resnet50_2
"""
NAMES = tuple(_NAMES.split())

CLASSES = 1000  # of the published weights


def make(name: str, classes: int, channels: int, pretrained: bool) -> nn.Module:
    """torchvision's network `name` for images of `channels` and `classes` logits, changed as the module says.

    `pretrained` starts it from torchvision's default weights. Raises PruningError when they are neither in
    torch hub's folder of checkpoints nor to be had over the network, or when the file there is not what it
    should be.
    """
    model = _published(name) if pretrained else _random(name, classes)
    _leave_out_auxiliary_heads(model)
    if pretrained and classes != CLASSES:
        _replace_classifier(model, classes)
    if channels != 3:
        _replace_first_convolution(model, channels, pretrained)
    return model


def resolution(name: str, model: nn.Module) -> tuple[int, int]:
    """Height and width of the images that `model`, torchvision's `name`, was made for."""
    import torchvision

    fixed = getattr(model, "image_size", None)  # vision transformers take one size only
    size: int = fixed or torchvision.models.get_model_weights(name).DEFAULT.transforms().crop_size[0]
    return size, size


def _random(name: str, classes: int) -> nn.Module:
    import torchvision

    # Left to themselves, these two warn about the initialisation that they are going to use.
    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes, **options)
    return model


def _published(name: str) -> nn.Module:
    import torch
    import torchvision

    from pruning.models import weights_file

    weights = torchvision.models.get_model_weights(name).DEFAULT
    path = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    if not path.exists():
        _download(name, weights.url, path)
    weights_file.read(path)  # refuses a file that would run code: torchvision reads it unguarded
    try:
        model: nn.Module = torchvision.models.get_model(name, weights=weights, progress=False)
    except Exception as error:  # networks refuse foreign weights in different ways
        raise PruningError(
            f"{path} does not hold torchvision's weights of {name}: replace it by {weights.url}."
        ) from error
    return model


def _download(name: str, url: str, path: Path) -> None:
    import torch

    start_of_hash = path.stem.rpartition("-")[2]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), start_of_hash, progress=False)
    except (OSError, RuntimeError) as error:
        raise PruningError(
            f"The pretrained weights of {name} could not be downloaded ({error}): "
            f"put the file {path.name}, from {url}, into the folder {path.parent}."
        ) from error


def _leave_out_auxiliary_heads(model: nn.Module) -> None:
    if hasattr(model, "aux_logits"):
        model.aux_logits = False  # type: ignore[assignment]
        for head in {"aux1", "aux2", "AuxLogits"} & model._modules.keys():
            setattr(model, head, None)


def _replace_classifier(model: nn.Module, classes: int) -> None:
    from torch import nn

    layers = [
        (name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    name, old = layers[-1]
    if isinstance(old, nn.Linear):
        model.set_submodule(name, nn.Linear(old.in_features, classes))
    else:  # squeezenet's is a 1x1 convolution
        model.set_submodule(name, nn.Conv2d(old.in_channels, classes, 1))


def _replace_first_convolution(model: nn.Module, channels: int, pretrained: bool) -> None:
    import torch
    from torch import nn

    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)]
    name, old = layers[0]
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    if pretrained:
        with torch.no_grad():
            new.weight.copy_(old.weight.mean(1, keepdim=True) * (3 / channels))
        new.bias = old.bias
    model.set_submodule(name, new)
    if hasattr(model, "transform_input"):
        # Left on, it would take the channels for red, green and blue.
        model.transform_input = False  # type: ignore[assignment]
