"""Shrunk networks: smaller, with the same outputs, and with every channel that any layer still reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from pruning.core.channel_groups import ChannelGroup, find_channel_groups
from pruning.errors import PruningError
from pruning.measure import shrink
from pruning.measure.macs import count_macs
from pruning.models import build

pytest.importorskip("torch_pruning", reason="the extra shrink is not installed")


def network(arch: str, shape: tuple[int, int, int], classes: int = 10) -> nn.Module:
    """An architecture with random batch-norm statistics and scales, as after training."""
    torch.manual_seed(0)
    model = build(arch, classes=classes, shape=shape)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return model.eval()


def images(shape: tuple[int, int, int], count: int = 4) -> torch.Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))


def zero_half_of_every_group(model: nn.Module, batch: torch.Tensor) -> None:
    """Zero the half of each channel group with the smaller L1 norms, summed over the group's filters."""
    modules = dict(model.named_modules())
    for group in find_channel_groups(model, batch)[0]:
        norms = torch.zeros(group.channels)
        for name, own in group.members.items():
            weight = modules[name].weight.detach()
            weight = weight.transpose(0, 1) if getattr(modules[name], "transposed", False) else weight
            if weight.dim() > 1:
                norms += weight.abs().flatten(1).sum(1)[list(own)]
        zero_channels(model, group, norms.argsort()[: group.channels // 2].tolist())


def zero_channels(model: nn.Module, group: ChannelGroup, channels: list[int]) -> None:
    """Set filters, biases and normalisations of some of a group's channels to zero."""
    for name, own in group.members.items():
        zero_filters(model, name, [own[channel] for channel in channels])


def zero_filters(model: nn.Module, layer: str, filters: list[int], norm: str | None = None) -> None:
    for name in filter(None, (layer, norm)):
        module = model.get_submodule(name)
        if module.weight is not None:  # a norm may have neither weight nor bias
            dimension = 1 if getattr(module, "transposed", False) else 0
            module.weight.data.index_fill_(dimension, torch.tensor(filters), 0)
        if module.bias is not None:
            module.bias.data[filters] = 0


@pytest.mark.parametrize(
    ("arch", "shape", "least_speedup"),
    [
        ("my", (1, 28, 28), 3.3),
        ("resnet20", (3, 32, 32), 1.9),
        ("mobilenet_v2", (3, 32, 32), 3.2),
    ],
)
def test_a_network_without_half_of_its_filters_computes_the_same_function(
    arch: str, shape: tuple[int, int, int], least_speedup: float
) -> None:
    model, batch = network(arch, shape), images(shape)
    zero_half_of_every_group(model, batch)
    masked = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    shrunk = shrink.shrink(model, batch)
    fresh = torch.randn(3, *shape)
    with torch.no_grad():
        torch.testing.assert_close(shrunk.model(fresh), model(fresh), atol=1e-4, rtol=1e-4)
    dense, small = count_macs(model, shape), count_macs(shrunk.model, shape)
    assert dense.macs / small.macs >= least_speedup
    assert small.macs == small.nonzero_macs
    assert shrunk.difference <= 1e-4
    assert shrunk.remaining_zero_filters == {}
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in masked.items())


def test_a_removed_filter_before_a_flatten_removes_its_columns_of_the_linear_layer() -> None:
    model = network("my", (1, 28, 28))
    zero_filters(model, "conv2", [0, 5, 7])
    shrunk = shrink.shrink(model, images((1, 28, 28)))
    assert shrunk.widths == {"conv2": (16, 13)}
    assert shrunk.model.fc1.weight.shape == (120, 13 * 25)
    kept = [channel for channel in range(16) if channel not in (0, 5, 7)]
    columns = model.fc1.weight.view(120, 16, 25)[:, kept].reshape(120, -1)
    assert torch.equal(shrunk.model.fc1.weight, columns)


def test_channels_of_option_a_shortcuts_stay_and_the_reason_is_reported() -> None:
    model = network("resnet20", (3, 32, 32))
    zero_filters(model, "layer1.0.conv1", [1, 2, 3, 4], "layer1.0.bn1")
    for name in ("conv1", "layer1.0.conv2", "layer1.1.conv2", "layer1.2.conv2"):
        zero_filters(model, name, [0], name.replace("conv", "bn"))
    shrunk = shrink.shrink(model, images((3, 32, 32)))
    assert shrunk.widths == {"layer1.0.conv1": (16, 12)}
    assert any("option A" in reason for reason in shrunk.remaining_zero_filters.values())
    assert shrunk.difference <= 1e-4


def head(channels: int = 4) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 2)


class Residual(nn.Module):
    """Two branches that are added or multiplied before the last layer."""

    def __init__(self, multiply: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(1, 4, 3, padding=1)
        self.last, self.multiply = nn.Linear(4, 2), multiply

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = self.first(x), self.second(x)
        together = first * second if self.multiply else first + second
        return self.last(together.mean((2, 3)))


def test_added_channels_are_removed_only_if_both_are_zero() -> None:
    model = Residual()
    zero_filters(model, "first", [0, 1])
    zero_filters(model, "second", [1, 2])
    shrunk = shrink.shrink(model, images((1, 6, 6)))
    assert shrunk.widths == {"first": (4, 3), "second": (4, 3)}
    assert set(shrunk.remaining_zero_filters) == {"first", "second"}


def test_multiplied_channels_are_removed_if_either_is_zero() -> None:
    model = Residual(multiply=True)
    zero_filters(model, "first", [0, 1])
    zero_filters(model, "second", [1, 2])
    shrunk = shrink.shrink(model, images((1, 6, 6)))
    assert shrunk.widths == {"first": (4, 1), "second": (4, 1)}


@pytest.mark.parametrize(
    ("between", "removed"),
    [
        (nn.ReLU(), 2),
        (nn.Hardswish(), 2),
        (nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), 2),
        (nn.Sigmoid(), 0),
        (nn.Hardsigmoid(), 0),
        (nn.BatchNorm2d(4), 0),
    ],
    ids=str,
)
def test_a_channel_is_removed_only_if_its_readers_read_zero(between: nn.Module, removed: int) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), between, *head())
    if isinstance(between, nn.BatchNorm2d):
        nn.init.ones_(between.bias)
    zero_filters(model, "0", [1, 3])
    assert shrink.shrink(model, images((1, 6, 6))).widths == ({"0": (4, 2)} if removed else {})


def test_a_nonzero_running_mean_keeps_a_channel_without_weights() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), *head()).eval()
    zero_filters(model, "0", [0])
    model[1].running_mean.fill_(0.5)
    assert shrink.shrink(model, images((1, 6, 6))).widths == {}
    zero_filters(model, "1", [0])
    assert shrink.shrink(model, images((1, 6, 6))).widths == {"0": (4, 3)}


def test_a_nonzero_bias_keeps_a_channel_without_weights() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), *head())
    nn.init.ones_(model[0].bias)
    model[0].weight.data[0] = 0
    shrunk = shrink.shrink(model, images((1, 6, 6)))
    assert shrunk.widths == {}
    assert "1 filters of zeros" in shrunk.remaining_zero_filters["0"]


def test_a_channel_that_is_zero_only_for_the_given_images_stays() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), *head())
    model[0].bias.data.fill_(-1e6)  # every ReLU is closed, for any sensible image
    assert shrink.shrink(model, images((1, 6, 6))).widths == {}


def test_a_layer_whose_filters_are_all_zero_keeps_one() -> None:
    model = network("my", (1, 28, 28))
    zero_filters(model, "conv2", list(range(16)))
    assert shrink.shrink(model, images((1, 28, 28))).widths == {"conv2": (16, 1)}


def test_a_dense_network_is_not_shrunk() -> None:
    model = network("my", (1, 28, 28))
    shrunk = shrink.shrink(model, images((1, 28, 28)))
    assert shrunk.widths == shrunk.remaining_zero_filters == {}
    assert all(
        torch.equal(tensor, model.state_dict()[name]) for name, tensor in shrunk.model.state_dict().items()
    )


def test_a_channel_before_a_norm_without_scale_and_shift_is_removed() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ReLU(), *head()).eval()
    (group,), _ = find_channel_groups(model, images((1, 6, 6)))
    zero_channels(model, group, [3])
    assert shrink.shrink(model, images((1, 6, 6))).widths == {"0": (4, 3)}


def test_channels_that_are_also_an_output_stay() -> None:
    class Early(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first = self.first(x)
            return torch.cat([first, self.last(first)], 1)

    model = Early()
    zero_filters(model, "first", [1])
    shrunk = shrink.shrink(model, torch.randn(3, 4))
    assert shrunk.widths == {}
    assert "output" in shrunk.remaining_zero_filters["first"]


class FullyConnected(nn.Module):
    """Eight hidden neurons, the first without weights. The network also accepts an image without batch dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.last = nn.Linear(36, 8), nn.Linear(8, 2)
        zero_filters(self, "hidden", [0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.hidden(x.flatten(1)).relu())


class FullyConvolutional(nn.Module):
    """Eight filters, the first without weights; spatial means over dimensions counted from the last."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.last = nn.Conv2d(1, 8, 3), nn.Linear(8, 2)
        zero_filters(self, "hidden", [0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.hidden(x).relu().mean((-2, -1)))


@pytest.mark.parametrize("kind", [FullyConnected, FullyConvolutional])
def test_networks_that_also_accept_an_image_without_batch_dimension_are_shrunk(kind: type[nn.Module]) -> None:
    assert shrink.shrink(kind(), images((1, 6, 6))).widths == {"hidden": (8, 7)}


class SqueezeExcitation(nn.Module):
    """Channels multiplied by a sigmoid of their own means (Hu et al., arXiv 1709.01507)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.squeeze, self.excite = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 3, 1), nn.Conv2d(3, 6, 1)
        self.classifier = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = F.relu(self.conv(x))
        scale = self.excite(F.relu(self.squeeze(hidden.mean((2, 3), keepdim=True)))).sigmoid()
        return self.classifier((hidden * scale).mean((2, 3)))


def test_zero_channels_scaled_by_a_sigmoid_are_removed() -> None:
    model = SqueezeExcitation()
    zero_filters(model, "conv", [2, 4])
    assert shrink.shrink(model, images((1, 6, 6))).widths == {"conv": (6, 4), "excite": (6, 4)}


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


def test_concatenated_channels_are_removed_from_the_norms_that_follow() -> None:
    model = Dense().eval()
    groups = {group.channels: group for group in find_channel_groups(model, images((1, 6, 6)))[0]}
    zero_channels(model, groups[4], [0, 2])
    zero_channels(model, groups[3], [1])
    shrunk = shrink.shrink(model, images((1, 6, 6)))
    assert shrunk.widths == {"stem": (4, 2), "grow": (3, 2)}
    assert shrunk.model.norm2.num_features == shrunk.model.head.in_features == 4


def test_a_shrunk_network_can_be_trained() -> None:
    model = network("resnet20", (3, 32, 32))
    zero_half_of_every_group(model, images((3, 32, 32)))
    small = shrink.shrink(model, images((3, 32, 32))).model.train()
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    before = small.layer1[0].conv1.weight.clone()
    F.cross_entropy(small(images((3, 32, 32))), torch.tensor([0, 1, 2, 3])).backward()
    optimizer.step()
    assert not torch.equal(small.layer1[0].conv1.weight, before)


@pytest.mark.parametrize(("arch", "shape"), [("my", (1, 28, 28)), ("mobilenet_v2", (3, 32, 32))])
def test_a_saved_shrunk_network_loads_bit_for_bit(
    arch: str, shape: tuple[int, int, int], tmp_path: Path
) -> None:
    model = network(arch, shape)
    zero_half_of_every_group(model, images(shape))
    small = shrink.shrink(model, images(shape)).model
    shrink.save(small, tmp_path / "small.safetensors")
    loaded = shrink.load(build(arch, classes=10, shape=shape), tmp_path / "small.safetensors").eval()
    with torch.no_grad():
        assert torch.equal(loaded(images(shape)), small(images(shape)))
    assert str(loaded) == str(small)


def test_a_file_with_another_architecture_is_rejected(tmp_path: Path) -> None:
    model = build("my", classes=10, shape=(1, 28, 28))
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file({**tensors, "extra": torch.zeros(1)}, tmp_path / "more")
    with pytest.raises(PruningError, match="tensor extra"):
        shrink.load(model, tmp_path / "more")
    save_file({**tensors, "conv1.weight": torch.zeros(6, 1, 5, 5)}, tmp_path / "larger")
    with pytest.raises(PruningError, match=r"conv1.weight has shape \(6, 1, 5, 5\)"):
        shrink.load(model, tmp_path / "larger")
    (tmp_path / "broken").write_bytes(b"nothing")
    with pytest.raises(PruningError, match="broken"):
        shrink.load(model, tmp_path / "broken")


def test_shuffled_channels_never_change_the_outputs() -> None:
    class Shuffled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(F.pixel_shuffle(self.first(x).repeat(1, 4, 1, 1), 2))

    model = Shuffled()
    zero_filters(model, "first", [0])
    try:
        shrunk = shrink.shrink(model, images((1, 6, 6)))
    except PruningError as error:
        assert "Shuffled" in str(error)
    else:
        with torch.no_grad():
            fresh = torch.randn(2, 1, 6, 6)
            torch.testing.assert_close(shrunk.model(fresh), model(fresh))


def test_transposed_and_depthwise_convolutions_are_shrunk() -> None:
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU()),
        *(nn.ConvTranspose2d(4, 6, 2), nn.ReLU(), *head(6)),
    )
    zero_half_of_every_group(model, images((1, 8, 8)))
    shrunk = shrink.shrink(model, images((1, 8, 8)))
    assert shrunk.widths["0"] == shrunk.widths["2"] == (4, 2)


def test_a_channels_last_network_is_shrunk_and_stays_channels_last() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), *head())
    model.to(memory_format=torch.channels_last)
    zero_filters(model, "0", [1])
    zero_filters(model, "2", [0, 3])
    batch = images((1, 8, 8)).contiguous(memory_format=torch.channels_last)
    shrunk = shrink.shrink(model, batch)
    assert shrunk.widths == {"0": (4, 3), "2": (4, 2)}
    assert shrunk.model[2].weight.is_contiguous(memory_format=torch.channels_last)
