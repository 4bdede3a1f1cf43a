"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381) for CIFAR.

Layers, widths and parameters are those of the paper's table 2 at width 1.0, and of torchvision's
mobilenet_v2; but the stem and the stage of 24 channels keep the resolution (stride 1 instead of 2): 32x32
images end at 4x4.
"""

from __future__ import annotations

from torch import Tensor, nn

from pruning.registry import ARCHITECTURES

# Of each stage: expansion, channels, blocks, stride of the first block.
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
    """Convolutions: 1x1 that widens, 3x3 depthwise, 1x1 that narrows; a residual where shapes allow."""

    def __init__(self, inputs: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        widen = [] if expansion == 1 else [_convolution(inputs, hidden, 1)]
        depthwise = _convolution(hidden, hidden, 3, stride, groups=hidden)
        narrow = (nn.Conv2d(hidden, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.conv = nn.Sequential(*widen, depthwise, *narrow)
        self.residual = stride == 1 and inputs == channels

    def forward(self, images: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, channels, H/stride, W/stride)."""
        return images + self.conv(images) if self.residual else self.conv(images)


class MobileNetV2Cifar(nn.Module):
    """Stem, seven stages of inverted residuals, a 1x1 convolution, global average pooling, dropout."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(channels, 32, 3)]
        inputs = 32
        for expansion, width, blocks, first_stride in STAGES:
            for stride in (first_stride, *[1] * (blocks - 1)):
                layers.append(InvertedResidual(inputs, width, stride, expansion))
                inputs = width
        self.features = nn.Sequential(*layers, _convolution(inputs, 1280, 1))
        self.dropout = nn.Dropout(0.2)
        self.linear = nn.Linear(1280, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, channels, H, W) -> logits (N, classes)."""
        return self.linear(self.dropout(self.features(images).mean((2, 3))))


def _convolution(inputs: int, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU6())


@ARCHITECTURES.register("mobilenet_v2_cifar", input="3x32x32")
def mobilenet_v2_cifar(classes: int, channels: int) -> nn.Module:
    """MobileNetV2 1.0 (Sandler et al. 2018) for CIFAR: stride 1 in the stem and the stage of 24 channels."""
    return MobileNetV2Cifar(classes, channels)
