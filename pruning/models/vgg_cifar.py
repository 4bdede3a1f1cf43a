"""VGG with batch norm for CIFAR: the convolutions of Simonyan and Zisserman 2015 (arXiv 1409.1556).

torchvision's vgg11_bn, vgg16_bn and vgg19_bn have linear layers of 4096 units for 224x224 images. Here, as in
the lottery-ticket papers (Frankle et al. 2020, arXiv 1912.05671), four max-poolings and global average pooling
are followed by a single linear layer. The convolutions have a bias.
"""

from __future__ import annotations

from torch import Tensor, nn

from pruning.registry import ARCHITECTURES

# Channels of the convolutions in each stage: columns A, D and E of the paper's table 1.
STAGES = {
    11: ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    16: ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
    19: ((64, 64), (128, 128), (256, 256, 256, 256), (512, 512, 512, 512), (512, 512, 512, 512)),
}


class VggCifar(nn.Module):
    """Five stages of 3x3 convolutions with max-pooling between them, then global average pooling."""

    def __init__(self, depth: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for stage in STAGES[depth]:
            if layers:
                layers.append(nn.MaxPool2d(2))
            for width in stage:
                layers += [nn.Conv2d(in_channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                in_channels = width
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(512, num_classes)
        for module in self.features:
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, in_channels, H, W), at least 16 x 16 -> logits (N, num_classes)."""
        return self.linear(self.features(images).mean((2, 3)))


@ARCHITECTURES.register("vgg11_bn_cifar", input="3x32x32")
def vgg11_bn_cifar(num_classes: int, in_channels: int) -> nn.Module:
    """VGG-11 with batch norm for CIFAR: configuration A of Simonyan and Zisserman 2015, one linear layer."""
    return VggCifar(11, num_classes, in_channels)


@ARCHITECTURES.register("vgg16_bn_cifar", input="3x32x32")
def vgg16_bn_cifar(num_classes: int, in_channels: int) -> nn.Module:
    """VGG-16 with batch norm for CIFAR: configuration D of Simonyan and Zisserman 2015, one linear layer."""
    return VggCifar(16, num_classes, in_channels)


@ARCHITECTURES.register("vgg19_bn_cifar", input="3x32x32")
def vgg19_bn_cifar(num_classes: int, in_channels: int) -> nn.Module:
    """VGG-19 with batch norm for CIFAR: configuration E of Simonyan and Zisserman 2015, one linear layer."""
    return VggCifar(19, num_classes, in_channels)
