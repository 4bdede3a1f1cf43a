"""LeNet-300-100, the fully connected network of LeCun et al. 1998."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from pruning.registry import ARCHITECTURES


class LeNet300100(nn.Module):
    """Two hidden layers of 300 and 100 units on the flattened image of `in_channels` x 28 x 28."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_channels * 28 * 28, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, in_channels, 28, 28) -> logits (N, num_classes)."""
        hidden = F.relu(self.fc1(images.flatten(1)))
        return self.fc3(F.relu(self.fc2(hidden)))


@ARCHITECTURES.register("lenet_300_100", input="1x28x28")
def lenet_300_100(num_classes: int, in_channels: int) -> nn.Module:
    """LeNet-300-100 (LeCun et al. 1998), linear 784-300-100-classes, with ReLU as in Han et al. 2015."""
    return LeNet300100(num_classes, in_channels)
