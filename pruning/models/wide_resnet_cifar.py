"""Wide ResNets for CIFAR without dropout (Zagoruyko and Komodakis 2016, arXiv 1605.07146).

WRN-d-k has depth d = 6n+4 and three stages of 16k, 32k and 64k channels. torchvision's wide_resnet50_2 and
wide_resnet101_2 are other networks, with bottleneck blocks for 224x224 images.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from pruning.registry import ARCHITECTURES


class PreActivationBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU; a 1x1 convolution if the width changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = (
            nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            if in_channels != out_channels
            else None
        )

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H/stride, W/stride)."""
        active = F.relu(self.bn1(images))
        hidden = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return hidden + (images if self.shortcut is None else self.shortcut(active))


class WideResNetCifar(nn.Module):
    """A network of `depth` = 6n+4 layers: three stages of n blocks, then global average pooling."""

    def __init__(self, depth: int, widening: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        narrow, middle, wide = 16 * widening, 32 * widening, 64 * widening
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.layer1 = _stage(blocks, 16, narrow, stride=1)
        self.layer2 = _stage(blocks, narrow, middle, stride=2)
        self.layer3 = _stage(blocks, middle, wide, stride=2)
        self.bn = nn.BatchNorm2d(wide)
        self.linear = nn.Linear(wide, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, in_channels, H, W) -> logits (N, num_classes)."""
        hidden = self.layer3(self.layer2(self.layer1(self.conv1(images))))
        return self.linear(F.relu(self.bn(hidden)).mean((2, 3)))


def _stage(blocks: int, in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    first = PreActivationBlock(in_channels, out_channels, stride)
    return nn.Sequential(
        first, *(PreActivationBlock(out_channels, out_channels, 1) for _ in range(blocks - 1))
    )


@ARCHITECTURES.register("wrn_22_2", input="3x32x32")
def wrn_22_2(num_classes: int, in_channels: int) -> nn.Module:
    """WRN-22-2 for CIFAR (Zagoruyko and Komodakis 2016), 32-64-128 channels, without dropout."""
    return WideResNetCifar(22, 2, num_classes, in_channels)


@ARCHITECTURES.register("wrn_28_10", input="3x32x32")
def wrn_28_10(num_classes: int, in_channels: int) -> nn.Module:
    """WRN-28-10 for CIFAR (Zagoruyko and Komodakis 2016), 160-320-640 channels, without dropout."""
    return WideResNetCifar(28, 10, num_classes, in_channels)
