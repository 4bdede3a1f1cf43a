"""LeNet-5 as Caffe's MNIST example has it, the "LeNet-5" of most pruning papers."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from pruning.registry import ARCHITECTURES


class LeNet5(nn.Module):
    """Two unpadded 5x5 convolutions and two linear layers, for images of `channels` x 28 x 28."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * 4 * 4, 500)
        self.fc2 = nn.Linear(500, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, channels, 28, 28) -> logits (N, classes)."""
        hidden = F.max_pool2d(self.conv1(images), 2)
        hidden = F.max_pool2d(self.conv2(hidden), 2)
        return self.fc2(F.relu(self.fc1(hidden.flatten(1))))


@ARCHITECTURES.register("lenet5", input="1x28x28")
def lenet5(classes: int, channels: int) -> nn.Module:
    """Caffe's LeNet-5 (Han et al. 2015): 5x5 convolutions of 20 and 50 channels, linear 800-500-classes.

    As in Caffe, the only ReLU is the one between the linear layers; convolutions are followed by pooling
    alone.
    """
    return LeNet5(classes, channels)
