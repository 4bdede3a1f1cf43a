"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381) for CIFAR.

The layers and widths of the paper's table 2 at width 1.0, as in torchvision's mobilenet_v2, except that the
stem and the stage of 24 channels have stride 1 instead of 2: the last feature maps of 32x32 images are 4x4.
"""

from __future__ import annotations

from torch import Tensor, nn

from pruning.registry import ARCHITECTURES

# Each stage: expansion, channels, blocks, stride of the first block.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise and 1x1 projection; a residual connection if input and output shapes agree."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        expand = [] if expansion == 1 else [_convolution(in_channels, hidden, 1)]
        depthwise = _convolution(hidden, hidden, 3, stride, groups=hidden)
        project = (nn.Conv2d(hidden, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))
        self.conv = nn.Sequential(*expand, depthwise, *project)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H/stride, W/stride)."""
        return images + self.conv(images) if self.residual else self.conv(images)


class MobileNetV2Cifar(nn.Module):
    """Stem, seven stages of inverted residuals, a 1x1 convolution, global average pooling, dropout."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(in_channels, 32, 3)]
        channels = 32
        for expansion, width, blocks, first_stride in STAGES:
            for stride in (first_stride, *[1] * (blocks - 1)):
                layers.append(InvertedResidual(channels, width, stride, expansion))
                channels = width
        self.features = nn.Sequential(*layers, _convolution(channels, 1280, 1))
        self.dropout = nn.Dropout(0.2)
        self.linear = nn.Linear(1280, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, in_channels, H, W) -> logits (N, num_classes)."""
        return self.linear(self.dropout(self.features(images).mean((2, 3))))


def _convolution(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU6())


@ARCHITECTURES.register("mobilenet_v2_cifar", input="3x32x32")
def mobilenet_v2_cifar(num_classes: int, in_channels: int) -> nn.Module:
    """MobileNetV2 1.0 (Sandler et al. 2018) for CIFAR: stride 1 in the stem and the stage of 24 channels."""
    return MobileNetV2Cifar(num_classes, in_channels)
