"""The teaching program's own LeNet-5."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.registry import ARCHITECTURES


class My(nn.Module):
    """Two unpadded 3x3 convolutions and three linear layers, for images of `channels` x 28 x 28."""

    takes_blocked = True  # six channels fill no vector register, padded ones do: see training.in_blocks

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 6, 3)
        self.conv2 = nn.Conv2d(6, 16, 3)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, channels, 28, 28) -> logits (N, classes)."""
        # ReLU and max-pooling commute, values and gradients alike; after the pooling ReLU has a quarter of the work.
        hidden = F.max_pool2d(self.conv1(images), 2, 2)
        if hidden.is_mkldnn:
            hidden = hidden.to_dense().contiguous(memory_format=torch.channels_last)
        hidden = F.relu(hidden)
        hidden = F.relu(F.max_pool2d(self.conv2(hidden), 2))
        hidden = F.relu(self.fc1(hidden.flatten(1)))
        return self.fc3(F.relu(self.fc2(hidden)))


@ARCHITECTURES.register("my", input="1x28x28")
def my(classes: int, channels: int) -> nn.Module:
    """The teaching program's LeNet-5: 3x3 convolutions of 6 and 16 channels, linear 400-120-84-classes."""
    return My(classes, channels)
