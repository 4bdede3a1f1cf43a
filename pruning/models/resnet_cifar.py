"""ResNets for CIFAR with option A shortcuts (He et al. 2016, arXiv 1512.03385, section 4.2).

Unlike torchvision's ResNets: a 3x3 stem without pooling, three stages of 16, 32 and 64 channels, depth 6n+2,
and shortcuts without parameters. The names in the state_dict (conv1, bn1, layer1.0.conv1, ..., linear) match
the usual published weights files.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from pruning.registry import ARCHITECTURES


def option_a(images: Tensor, out_channels: int) -> Tensor:
    """Return the paper's option A shortcut with `out_channels` channels: every second pixel, padded with zeros.

    (N, C, H, W) -> (N, out_channels, ceil(H/2), ceil(W/2)); half of the added channels are before the C
    input channels, half after.
    """
    side = (out_channels - images.shape[1]) // 2
    return F.pad(images[:, :, ::2, ::2], (0, 0, 0, 0, side, side))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and an identity or option A shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.widens = in_channels != out_channels

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H/stride, W/stride)."""
        hidden = F.relu(self.bn1(self.conv1(images)))
        hidden = self.bn2(self.conv2(hidden))
        shortcut = option_a(images, hidden.shape[1]) if self.widens else images
        return F.relu(hidden + shortcut)


class ResNetCifar(nn.Module):
    """A residual network of `depth` = 6n+2 layers: three stages of n blocks, then global average pooling."""

    def __init__(self, depth: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(blocks, 16, 16, stride=1)
        self.layer2 = _stage(blocks, 16, 32, stride=2)
        self.layer3 = _stage(blocks, 32, 64, stride=2)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, in_channels, H, W) -> logits (N, num_classes)."""
        hidden = F.relu(self.bn1(self.conv1(images)))
        hidden = self.layer3(self.layer2(self.layer1(hidden)))
        return self.linear(hidden.mean((2, 3)))


def _stage(blocks: int, in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)))


@ARCHITECTURES.register("resnet20", input="3x32x32")
def resnet20(num_classes: int, in_channels: int) -> nn.Module:
    """ResNet-20 for CIFAR (He et al. 2016), 16-32-64 channels, shortcuts of option A."""
    return ResNetCifar(20, num_classes, in_channels)


@ARCHITECTURES.register("resnet32", input="3x32x32")
def resnet32(num_classes: int, in_channels: int) -> nn.Module:
    """ResNet-32 for CIFAR (He et al. 2016), 16-32-64 channels, shortcuts of option A."""
    return ResNetCifar(32, num_classes, in_channels)


@ARCHITECTURES.register("resnet44", input="3x32x32")
def resnet44(num_classes: int, in_channels: int) -> nn.Module:
    """ResNet-44 for CIFAR (He et al. 2016), 16-32-64 channels, shortcuts of option A."""
    return ResNetCifar(44, num_classes, in_channels)


@ARCHITECTURES.register("resnet56", input="3x32x32")
def resnet56(num_classes: int, in_channels: int) -> nn.Module:
    """ResNet-56 for CIFAR (He et al. 2016), 16-32-64 channels, shortcuts of option A."""
    return ResNetCifar(56, num_classes, in_channels)


@ARCHITECTURES.register("resnet110", input="3x32x32")
def resnet110(num_classes: int, in_channels: int) -> nn.Module:
    """ResNet-110 for CIFAR (He et al. 2016), 16-32-64 channels, shortcuts of option A."""
    return ResNetCifar(110, num_classes, in_channels)
