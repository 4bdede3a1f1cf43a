"""The LeNet-5 of the teaching program, for images of 28x28 pixels."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from pruning.registry import ARCHITECTURES


class My(nn.Module):
    """Two unpadded 3x3 convolutions, each with 2x2 max-pooling and ReLU, then three linear layers."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 6, 3)
        self.conv2 = nn.Conv2d(6, 16, 3)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, in_channels, 28, 28) -> logits (N, num_classes)."""
        # Pooling before ReLU gives the same values and gradients, and ReLU a quarter of the work.
        hidden = F.relu(F.max_pool2d(self.conv1(images), 2))
        hidden = F.relu(F.max_pool2d(self.conv2(hidden), 2))
        return self.classify(hidden)

    def classify(self, features: Tensor) -> Tensor:
        """Features (N, 16, 5, 5) -> logits (N, num_classes)."""
        hidden = F.relu(self.fc1(features.flatten(1)))
        hidden = F.relu(self.fc2(hidden))
        return self.fc3(hidden)


@ARCHITECTURES.register("my", input="1x28x28")
def my(num_classes: int, in_channels: int) -> nn.Module:
    """The teaching program's LeNet-5: 3x3 convolutions of 6 and 16 channels, linear 400-120-84-classes."""
    return My(num_classes, in_channels)
