"""The teaching program's own LeNet-5."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.registry import ARCHITECTURES


class My(nn.Module):
    """Two unpadded 3x3 convolutions and three linear layers, for images of `channels` x 28 x 28."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(channels, 6, 3)
        self.conv2 = Conv2d(6, 16, 3)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, channels, 28, 28), or what `to_blocks` made of them -> logits (N, classes)."""
        # ReLU and max-pooling commute, values and gradients alike; after the pooling ReLU has a quarter of the work.
        hidden = F.relu(F.max_pool2d(self.conv1(images), 2, 2))
        hidden = F.max_pool2d(self.conv2(hidden), 2, 2)
        if hidden.is_mkldnn:
            hidden = hidden.to_dense().view(-1, 16, 5, 5)
        hidden = F.relu(self.fc1(F.relu(hidden).flatten(1)))
        return self.fc3(F.relu(self.fc2(hidden)))

    def to_blocks(self, images: Tensor) -> Tensor:
        """The same images, made to train with faster (see `training.blocks_for`): logits and gradients are the same.

        They lose the two last rows and columns, which no logit depends on, because pooling drops what is odd. They go
        in pairs, each pair as the channels of one image, for oneDNN computes 16 channels at a time, however few there
        are. Images in colour, and an odd number of them, stay as they are.
        """
        if self.conv1.in_channels != 1 or len(images) % 2:
            return images
        return images[..., :26, :26].view(-1, 2, 26, 26).to_mkldnn()


class Conv2d(nn.Conv2d):
    """Takes what `My.to_blocks` makes, too: of each pair one image has the first half of the channels, one the last."""

    def forward(self, inputs: Tensor) -> Tensor:
        if not inputs.is_mkldnn:
            return super().forward(inputs)
        assert self.bias is not None
        half = inputs.shape[1] // 2
        unused = half - self.in_channels
        # Channels of zeros fill a half of the outputs up to a multiple of 8, for with whole vectors the gradient of the
        # layer that takes them is faster.
        filler = -self.out_channels % 8
        first = F.pad(self.weight, (0, 0, 0, 0, 0, half + unused, 0, filler))
        last = F.pad(self.weight, (0, 0, 0, 0, half, unused, 0, filler))
        return F.conv2d(inputs, torch.cat([first, last]), F.pad(self.bias, (0, filler)).repeat(2))


@ARCHITECTURES.register("my", input="1x28x28")
def my(classes: int, channels: int) -> nn.Module:
    """The teaching program's LeNet-5: 3x3 convolutions of 6 and 16 channels, linear 400-120-84-classes."""
    return My(classes, channels)
