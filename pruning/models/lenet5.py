"""LeNet-5 of Caffe's MNIST example, which most pruning papers call LeNet-5."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from pruning.registry import ARCHITECTURES


class LeNet5(nn.Module):
    """Two unpadded 5x5 convolutions and two linear layers, for images of `in_channels` x 28 x 28."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * 4 * 4, 500)
        self.fc2 = nn.Linear(500, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, in_channels, 28, 28) -> logits (N, num_classes)."""
        hidden = F.max_pool2d(self.conv1(images), 2)
        hidden = F.max_pool2d(self.conv2(hidden), 2)
        return self.fc2(F.relu(self.fc1(hidden.flatten(1))))


@ARCHITECTURES.register("lenet5", input="1x28x28")
def lenet5(num_classes: int, in_channels: int) -> nn.Module:
    """Caffe's LeNet-5 (Han et al. 2015): 5x5 convolutions of 20 and 50 channels, linear 800-500-classes.

    As in Caffe, the only ReLU is between the linear layers; the convolutions are followed by pooling only.
    """
    return LeNet5(num_classes, in_channels)
