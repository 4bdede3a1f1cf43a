"""torchvision's classifiers by their own names, for any number of classes and input channels.

- Unless there are 3 channels, the first convolution is replaced. Its weights are random; with pretrained weights
  they are the mean over red, green and blue, scaled so that the response to a grey image does not change.
- With pretrained weights and other than 1000 classes, the classifier is replaced by a random one.
- The auxiliary heads of googlenet and inception_v3 are removed, so that the output is one tensor of logits.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pruning.errors import PruningError

if TYPE_CHECKING:
    from torch import nn

# A copy, so that names are checked without importing torchvision; a test compares it with torchvision.models.
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

NUM_CLASSES = 1000  # of the published weights


def build(name: str, num_classes: int, in_channels: int, pretrained: bool) -> nn.Module:
    """Build torchvision's network `name`, changed as described in the module's docstring.

    Args:
        pretrained: start from torchvision's default weights, in torch hub's cache or downloaded to it.

    Raises:
        PruningError: if the weights cannot be downloaded, or their file is not torchvision's.
    """
    model = _pretrained(name) if pretrained else _untrained(name, num_classes)
    _remove_auxiliary_heads(model)
    if pretrained and num_classes != NUM_CLASSES:
        _replace_classifier(model, num_classes)
    if in_channels != 3:
        _replace_first_convolution(model, in_channels, pretrained)
    return model


def resolution(name: str, model: nn.Module) -> tuple[int, int]:
    """Return height and width of the images that torchvision's network `name` was designed for."""
    import torchvision

    fixed = getattr(model, "image_size", None)  # vision transformers accept one size only
    size: int = fixed or torchvision.models.get_model_weights(name).DEFAULT.transforms().crop_size[0]
    return size, size


def _untrained(name: str, num_classes: int) -> nn.Module:
    import torchvision

    # Without it, these two warn that their default initialisation will change.
    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
    return model


def _pretrained(name: str) -> nn.Module:
    import torch
    import torchvision

    from pruning.models import weights_file

    weights = torchvision.models.get_model_weights(name).DEFAULT
    path = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    if not path.exists():
        _download(name, weights.url, path)
    weights_file.read(path)  # refuses a file that would run code; torchvision unpickles it
    try:
        model: nn.Module = torchvision.models.get_model(name, weights=weights, progress=False)
    except Exception as error:  # networks reject other weights in different ways
        raise PruningError(
            f"{path} does not have torchvision's weights of {name}. Replace it by {weights.url}."
        ) from error
    return model


def _download(name: str, url: str, path: Path) -> None:
    import torch

    hash_prefix = path.stem.rpartition("-")[2]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix, progress=False)
    except (OSError, RuntimeError) as error:
        raise PruningError(
            f"The pretrained weights of {name} could not be downloaded ({error}). "
            f"Put the file {path.name}, from {url}, into the folder {path.parent}."
        ) from error


def _remove_auxiliary_heads(model: nn.Module) -> None:
    if hasattr(model, "aux_logits"):
        model.aux_logits = False  # type: ignore[assignment]
        for head in {"aux1", "aux2", "AuxLogits"} & model._modules.keys():
            setattr(model, head, None)


def _replace_classifier(model: nn.Module, num_classes: int) -> None:
    from torch import nn

    layers = [
        (name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    name, old = layers[-1]
    if isinstance(old, nn.Linear):
        model.set_submodule(name, nn.Linear(old.in_features, num_classes))
    else:  # squeezenet's is a 1x1 convolution
        model.set_submodule(name, nn.Conv2d(old.in_channels, num_classes, 1))


def _replace_first_convolution(model: nn.Module, in_channels: int, pretrained: bool) -> None:
    import torch
    from torch import nn

    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)]
    name, old = layers[0]
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    if pretrained:
        with torch.no_grad():
            new.weight.copy_(old.weight.mean(1, keepdim=True) * (3 / in_channels))
        new.bias = old.bias
    model.set_submodule(name, new)
    if hasattr(model, "transform_input"):
        # It would treat the channels as red, green and blue.
        model.transform_input = False  # type: ignore[assignment]
