"""Channel groups: which channels depend on one another, and which cannot be removed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pruning.core.channel_groups import ChannelGroup, find_channel_groups
from pruning.errors import PruningError

pytest.importorskip("torch_pruning", reason="the extra shrink is not installed")

IMAGES = torch.zeros(2, 1, 6, 6)


def head(channels: int = 4) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 2)


def test_a_norm_without_scale_and_shift_is_in_the_group_of_its_convolution() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ReLU(), *head())
    groups, obstacles = find_channel_groups(model, IMAGES)
    assert groups == [ChannelGroup(4, {"0": (0, 1, 2, 3), "1": (0, 1, 2, 3)})]
    assert obstacles == {"5": "these channels are the network's output"}


class Dense(nn.Module):
    """Concatenated outputs that each reader normalises itself, as in a DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grow = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)
        self.norm1, self.norm2 = nn.BatchNorm2d(4), nn.BatchNorm2d(7)
        self.head = nn.Linear(7, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stem = self.stem(x)
        together = torch.cat([stem, self.grow(F.relu(self.norm1(stem)))], 1)
        return self.head(F.relu(self.norm2(together)).mean((2, 3)))


def test_a_concatenation_couples_later_norms_at_shifted_channels() -> None:
    groups = {group.channels: group.members for group in find_channel_groups(Dense(), IMAGES)[0]}
    assert groups == {
        4: {"stem": (0, 1, 2, 3), "norm1": (0, 1, 2, 3), "norm2": (0, 1, 2, 3)},
        3: {"grow": (0, 1, 2), "norm2": (4, 5, 6)},
    }


def test_a_channels_last_network_has_the_groups_of_a_contiguous_one() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Flatten(), nn.Linear(12, 2))
    contiguous = find_channel_groups(model, IMAGES)
    model.to(memory_format=torch.channels_last)
    assert find_channel_groups(model, IMAGES.contiguous(memory_format=torch.channels_last)) == contiguous
    assert sorted(group.channels for group in contiguous[0]) == [3, 4]


def test_the_channels_of_a_grouped_convolution_are_not_removable() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=2), *head())
    groups, obstacles = find_channel_groups(model, IMAGES)
    assert groups == []
    assert obstacles["0"] == obstacles["1"] == "1 is a grouped convolution"


def test_a_network_that_torch_pruning_cannot_trace_is_rejected_by_its_class_name() -> None:
    class ImageByImage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.last = nn.Linear(36, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.last(self.hidden(image.flatten()[None]).relu()) for image in x])

    with pytest.raises(PruningError, match="ImageByImage") as rejected:
        find_channel_groups(ImageByImage(), IMAGES)
    assert "input_dims" not in str(rejected.value), "torch-pruning's own message"


def test_a_swin_transformer_is_rejected_by_its_class_name() -> None:
    class SwinTransformer(nn.Linear):
        pass

    with pytest.raises(PruningError, match="SwinTransformer"):
        find_channel_groups(SwinTransformer(4, 2), torch.randn(2, 4))
