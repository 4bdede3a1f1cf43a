"""The wide residual networks for CIFAR of Zagoruyko and Komodakis 2016 (arXiv 1605.07146), without dropout.

WRN-d-k has depth d = 6n+4 and three stages of 16k, 32k and 64k channels. They are not torchvision's
wide_resnet50_2 and wide_resnet101_2, which are bottleneck networks for 224x224 images.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from pruning.registry import ARCHITECTURES


class PreactivatedBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU; a 1x1 convolution where the width changes."""

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, channels, 1, stride, bias=False) if inputs != channels else None

    def forward(self, images: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, channels, H/stride, W/stride)."""
        active = F.relu(self.bn1(images))
        hidden = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return hidden + (images if self.shortcut is None else self.shortcut(active))


class WideResNetCifar(nn.Module):
    """A network of `depth` = 6n+4 layers: three stages of n blocks, then global average pooling."""

    def __init__(self, depth: int, widening: int, classes: int, channels: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        narrow, middle, wide = 16 * widening, 32 * widening, 64 * widening
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.layer1 = _stage(blocks, 16, narrow, stride=1)
        self.layer2 = _stage(blocks, narrow, middle, stride=2)
        self.layer3 = _stage(blocks, middle, wide, stride=2)
        self.bn = nn.BatchNorm2d(wide)
        self.linear = nn.Linear(wide, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, channels, H, W) -> logits (N, classes)."""
        hidden = self.layer3(self.layer2(self.layer1(self.conv1(images))))
        return self.linear(F.relu(self.bn(hidden)).mean((2, 3)))


def _stage(blocks: int, inputs: int, channels: int, stride: int) -> nn.Sequential:
    first = PreactivatedBlock(inputs, channels, stride)
    return nn.Sequential(first, *(PreactivatedBlock(channels, channels, 1) for _ in range(blocks - 1)))


@ARCHITECTURES.register("wrn_22_2", input="3x32x32")
def wrn_22_2(classes: int, channels: int) -> nn.Module:
    """WRN-22-2 for CIFAR (Zagoruyko and Komodakis 2016), 32-64-128 channels, without dropout."""
    return WideResNetCifar(22, 2, classes, channels)


@ARCHITECTURES.register("wrn_28_10", input="3x32x32")
def wrn_28_10(classes: int, channels: int) -> nn.Module:
    """WRN-28-10 for CIFAR (Zagoruyko and Komodakis 2016), 160-320-640 channels, without dropout."""
    return WideResNetCifar(28, 10, classes, channels)
