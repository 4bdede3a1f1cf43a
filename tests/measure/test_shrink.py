"""Shrinking: what comes out is smaller, computes the same, and never loses a channel that something still
reads.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from pruning.errors import PruningError
from pruning.measure import shrink
from pruning.measure.macs import count_macs
from pruning.models import build

pytest.importorskip("torch_pruning", reason="the extra shrink is not installed")


def network(arch: str, shape: tuple[int, int, int], classes: int = 10) -> nn.Module:
    """An architecture with weights and batch-norm statistics as after training: none of them trivial."""
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


def remove_half_of_every_group(model: nn.Module, batch: torch.Tensor) -> list[shrink.Coupled]:
    """The half with the smaller L1 norms, summed over all filters of a group that go together."""
    modules = dict(model.named_modules())
    groups = shrink.coupled(model, batch)
    for group in groups:
        norms = torch.zeros(group.channels)
        for name, own in group.members.items():
            weight = modules[name].weight.detach()
            weight = weight.transpose(0, 1) if getattr(modules[name], "transposed", False) else weight
            if weight.dim() > 1:
                norms += weight.abs().flatten(1).sum(1)[list(own)]
        shrink.remove(model, group, norms.argsort()[: group.channels // 2].tolist())
    return groups


def zero_filters(model: nn.Module, layer: str, rows: list[int], norm: str | None = None) -> None:
    group = shrink.Coupled(0, {name: tuple(range(4096)) for name in (layer, norm) if name})
    shrink.remove(model, group, rows)


@pytest.mark.parametrize(
    ("arch", "shape", "least_speedup"),
    [
        ("my", (1, 28, 28), 3.3),
        ("resnet20", (3, 32, 32), 1.9),
        ("mobilenet_v2", (3, 32, 32), 3.2),
    ],
)
def test_half_of_all_filters_gives_a_network_of_the_same_function(
    arch: str, shape: tuple[int, int, int], least_speedup: float
) -> None:
    model, batch = network(arch, shape), images(shape)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    remove_half_of_every_group(model, batch)
    masked = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    shrunk = shrink.shrink(model, batch)
    fresh = torch.randn(3, *shape)
    with torch.no_grad():
        torch.testing.assert_close(shrunk.model(fresh), model(fresh), atol=1e-4, rtol=1e-4)
    dense, small = count_macs(model, shape), count_macs(shrunk.model, shape)
    assert dense.macs / small.macs >= least_speedup
    assert small.macs == small.nonzero_macs
    assert shrunk.difference <= 1e-4
    assert shrunk.left == {}
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in masked.items())
    assert masked.keys() == before.keys()


def test_a_convolution_before_a_flattened_image_by_hand() -> None:
    model = network("my", (1, 28, 28))
    zero_filters(model, "conv2", [0, 5, 7])
    shrunk = shrink.shrink(model, images((1, 28, 28)))
    assert shrunk.widths == {"conv2": (16, 13)}
    assert shrunk.model.fc1.weight.shape == (120, 13 * 25)
    kept = [channel for channel in range(16) if channel not in (0, 5, 7)]
    columns = model.fc1.weight.view(120, 16, 25)[:, kept].reshape(120, -1)
    assert torch.equal(shrunk.model.fc1.weight, columns)


def test_option_a_shortcuts_keep_their_channels_and_say_so() -> None:
    model = network("resnet20", (3, 32, 32))
    zero_filters(model, "layer1.0.conv1", [1, 2, 3, 4], "layer1.0.bn1")
    for name in ("conv1", "layer1.0.conv2", "layer1.1.conv2", "layer1.2.conv2"):
        zero_filters(model, name, [0], name.replace("conv", "bn"))
    shrunk = shrink.shrink(model, images((3, 32, 32)))
    assert shrunk.widths == {"layer1.0.conv1": (16, 12)}
    assert any("option A" in reason for reason in shrunk.left.values())
    assert shrunk.difference <= 1e-4


def head(channels: int = 4) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 2)


class Residual(nn.Module):
    """Two branches that are added, or multiplied, before the last layer reads them."""

    def __init__(self, multiply: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(1, 4, 3, padding=1)
        self.last, self.multiply = nn.Linear(4, 2), multiply

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = self.first(x), self.second(x)
        together = first * second if self.multiply else first + second
        return self.last(together.mean((2, 3)))


def test_added_channels_go_only_if_both_are_empty() -> None:
    model = Residual()
    zero_filters(model, "first", [0, 1])
    zero_filters(model, "second", [1, 2])
    shrunk = shrink.shrink(model, images((1, 6, 6)))
    assert shrunk.widths == {"first": (4, 3), "second": (4, 3)}
    assert set(shrunk.left) == {"first", "second"}


def test_multiplied_channels_go_if_either_is_empty() -> None:
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
def test_a_channel_goes_only_if_it_is_zero_where_it_is_read(between: nn.Module, removed: int) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), between, *head())
    if isinstance(between, nn.BatchNorm2d):
        nn.init.ones_(between.bias)
    zero_filters(model, "0", [1, 3])
    assert shrink.shrink(model, images((1, 6, 6))).widths == ({"0": (4, 2)} if removed else {})


def test_a_running_mean_opens_a_channel_without_weights() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), *head()).eval()
    zero_filters(model, "0", [0])
    model[1].running_mean.fill_(0.5)
    assert shrink.shrink(model, images((1, 6, 6))).widths == {}
    zero_filters(model, "1", [0])
    assert shrink.shrink(model, images((1, 6, 6))).widths == {"0": (4, 3)}


def test_a_bias_that_was_kept_keeps_its_channel() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), *head())
    nn.init.ones_(model[0].bias)
    model[0].weight.data[0] = 0
    shrunk = shrink.shrink(model, images((1, 6, 6)))
    assert shrunk.widths == {}
    assert "1 filters of zeros" in shrunk.left["0"]


def test_a_channel_that_is_zero_only_for_these_images_stays() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), *head())
    model[0].bias.data.fill_(-1e6)  # every ReLU is closed, for any sensible image
    assert shrink.shrink(model, images((1, 6, 6))).widths == {}


def test_a_layer_without_any_filter_left_keeps_one() -> None:
    model = network("my", (1, 28, 28))
    zero_filters(model, "conv2", list(range(16)))
    assert shrink.shrink(model, images((1, 28, 28))).widths == {"conv2": (16, 1)}


def test_nothing_masked_nothing_lost() -> None:
    model = network("my", (1, 28, 28))
    shrunk = shrink.shrink(model, images((1, 28, 28)))
    assert shrunk.widths == shrunk.left == {}
    assert all(
        torch.equal(tensor, model.state_dict()[name]) for name, tensor in shrunk.model.state_dict().items()
    )


def test_a_norm_without_scale_and_shift_does_not_open_a_channel() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ReLU(), *head()).eval()
    (group,) = shrink.coupled(model, images((1, 6, 6)))
    assert group.members == {"0": (0, 1, 2, 3), "1": (0, 1, 2, 3)}
    shrink.remove(model, group, [3])
    assert shrink.shrink(model, images((1, 6, 6))).widths == {"0": (4, 3)}


def test_channels_that_are_an_output_as_well_are_not_taken_out() -> None:
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
    assert "output" in shrunk.left["first"]


class FullyConnected(nn.Module):
    """Hidden neurons, of which the first has no weights left. An image without its batch dimension passes, too."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.last = nn.Linear(36, 8), nn.Linear(8, 2)
        zero_filters(self, "hidden", [0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.hidden(x.flatten(1)).relu())


class FullyConvolutional(nn.Module):
    """Likewise with filters, and means over what is counted from the last dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.last = nn.Conv2d(1, 8, 3), nn.Linear(8, 2)
        zero_filters(self, "hidden", [0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.hidden(x).relu().mean((-2, -1)))


@pytest.mark.parametrize("kind", [FullyConnected, FullyConvolutional])
def test_networks_that_take_an_image_without_its_batch_dimension_are_followed(kind: type[nn.Module]) -> None:
    assert shrink.shrink(kind(), images((1, 6, 6))).widths == {"hidden": (8, 7)}


def test_what_torch_pruning_fails_at_is_refused_in_one_sentence() -> None:
    class ImageByImage(FullyConnected):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.last(self.hidden(image.flatten()[None]).relu()) for image in x])

    with pytest.raises(
        PruningError, match=r"can't follow the channels of ImageByImage .*single weights"
    ) as refused:
        shrink.shrink(ImageByImage(), images((1, 6, 6)))
    assert "input_dims" not in str(refused.value)


def test_a_swin_transformer_is_refused_by_name() -> None:
    class SwinTransformer(nn.Linear):
        pass

    with pytest.raises(PruningError, match="SwinTransformer can't be shrunk"):
        shrink.shrink(SwinTransformer(4, 2), torch.randn(2, 4))


class SqueezeExcitation(nn.Module):
    """Channels that are multiplied by a sigmoid of their own means (Hu et al., arXiv 1709.01507)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.squeeze, self.excite = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 3, 1), nn.Conv2d(3, 6, 1)
        self.classifier = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = F.relu(self.conv(x))
        scale = self.excite(F.relu(self.squeeze(hidden.mean((2, 3), keepdim=True)))).sigmoid()
        return self.classifier((hidden * scale).mean((2, 3)))


def test_empty_channels_go_though_a_sigmoid_scales_them() -> None:
    model = SqueezeExcitation()
    zero_filters(model, "conv", [2, 4])
    assert shrink.shrink(model, images((1, 6, 6))).widths == {"conv": (6, 4), "excite": (6, 4)}


class Dense(nn.Module):
    """Concatenated outputs, each read through its own norm, as in a DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grow = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)
        self.norm1, self.norm2 = nn.BatchNorm2d(4), nn.BatchNorm2d(7)
        self.head = nn.Linear(7, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stem = self.stem(x)
        together = torch.cat([stem, self.grow(F.relu(self.norm1(stem)))], 1)
        return self.head(F.relu(self.norm2(together)).mean((2, 3)))


def test_a_concatenation_couples_later_norms_at_their_own_places() -> None:
    model = Dense().eval()
    groups = {group.channels: group for group in shrink.coupled(model, images((1, 6, 6)))}
    assert groups[4].members == {"stem": (0, 1, 2, 3), "norm1": (0, 1, 2, 3), "norm2": (0, 1, 2, 3)}
    assert groups[3].members == {"grow": (0, 1, 2), "norm2": (4, 5, 6)}
    shrink.remove(model, groups[4], [0, 2])
    shrink.remove(model, groups[3], [1])
    shrunk = shrink.shrink(model, images((1, 6, 6)))
    assert shrunk.widths == {"stem": (4, 2), "grow": (3, 2)}
    assert shrunk.model.norm2.num_features == shrunk.model.head.in_features == 4


def test_a_shrunk_network_can_be_trained_on() -> None:
    model = network("resnet20", (3, 32, 32))
    remove_half_of_every_group(model, images((3, 32, 32)))
    small = shrink.shrink(model, images((3, 32, 32))).model.train()
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    before = small.layer1[0].conv1.weight.clone()
    F.cross_entropy(small(images((3, 32, 32))), torch.tensor([0, 1, 2, 3])).backward()
    optimizer.step()
    assert not torch.equal(small.layer1[0].conv1.weight, before)


@pytest.mark.parametrize(("arch", "shape"), [("my", (1, 28, 28)), ("mobilenet_v2", (3, 32, 32))])
def test_a_shrunk_network_is_loaded_again_bit_for_bit(
    arch: str, shape: tuple[int, int, int], tmp_path: Path
) -> None:
    model = network(arch, shape)
    remove_half_of_every_group(model, images(shape))
    small = shrink.shrink(model, images(shape)).model
    shrink.save(small, tmp_path / "small.safetensors")
    loaded = shrink.load(build(arch, classes=10, shape=shape), tmp_path / "small.safetensors").eval()
    with torch.no_grad():
        assert torch.equal(loaded(images(shape)), small(images(shape)))
    assert str(loaded) == str(small)


def test_a_file_of_another_architecture_is_refused(tmp_path: Path) -> None:
    model = build("my", classes=10, shape=(1, 28, 28))
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file({**tensors, "extra": torch.zeros(1)}, tmp_path / "more")
    with pytest.raises(PruningError, match=r"the tensor extra is in only one of the two"):
        shrink.load(model, tmp_path / "more")
    save_file({**tensors, "conv1.weight": torch.zeros(6, 1, 5, 5)}, tmp_path / "larger")
    with pytest.raises(PruningError, match=r"conv1.weight is \(6, 1, 5, 5\) there"):
        shrink.load(model, tmp_path / "larger")
    (tmp_path / "broken").write_bytes(b"nothing")
    with pytest.raises(PruningError, match="can't be read as a shrunk network"):
        shrink.load(model, tmp_path / "broken")


def test_channels_that_are_shuffled_are_refused_or_left_but_never_wrong() -> None:
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


def test_transposed_and_depthwise_convolutions_shrink_too() -> None:
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU()),
        *(nn.ConvTranspose2d(4, 6, 2), nn.ReLU(), *head(6)),
    )
    remove_half_of_every_group(model, images((1, 8, 8)))
    shrunk = shrink.shrink(model, images((1, 8, 8)))
    assert shrunk.widths["0"] == shrunk.widths["2"] == (4, 2)


def test_a_network_that_lies_channels_last_is_followed_all_the_same_and_stays_so() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), *head())
    model.to(memory_format=torch.channels_last)
    zero_filters(model, "0", [1])
    zero_filters(model, "2", [0, 3])
    batch = images((1, 8, 8)).contiguous(memory_format=torch.channels_last)
    assert [group.channels for group in shrink.coupled(model, batch)] == [4, 4]
    shrunk = shrink.shrink(model, batch)
    assert shrunk.widths == {"0": (4, 3), "2": (4, 2)}
    assert shrunk.model[2].weight.is_contiguous(memory_format=torch.channels_last)
