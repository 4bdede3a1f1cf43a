"""Groups of weights: N:M against brute force, blocks and filters against naive loops, coupled filters."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from itertools import combinations

import pytest
import torch
from conftest import masks_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

import pruning
from pruning import Masks, PruningError
from pruning.axes.structure import BlockShape
from pruning.core.budgets import min_kept
from pruning.core.layer_scores import LayerScorer
from pruning.core.layers import prunable_layers
from pruning.core.prune import check
from pruning.core.selection import GroupScores, keep_groups, reduce_scores, select_groups, select_weights
from pruning.core.statistics.channels import normalization_scales
from pruning.core.weight_groups import from_blocks, to_blocks, weight_groups

needs_torch_pruning = pytest.mark.skipif(
    find_spec("torch_pruning") is None,
    reason="the extra shrink is not installed",
)


# Blocks of a layer


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [((4, 6), (2, 3)), ((4, 6, 3, 2), (1, 6, 3, 2)), ((4, 8, 3, 3), (2, 4, 1, 1)), ((3, 4, 5), (3, 1, 5))],
)
def test_to_blocks_has_one_row_per_block_and_from_blocks_inverts_it(
    shape: tuple[int, ...], sizes: tuple[int, ...]
) -> None:
    weight, block = torch.arange(torch.Size(shape).numel()).view(shape), BlockShape(sizes)
    matrix = to_blocks(weight, block)
    first = weight[tuple(slice(size) for size in sizes)].flatten()
    assert torch.equal(matrix[0], first)
    assert torch.equal(from_blocks(matrix, shape, block), weight)


# N:M


@settings(max_examples=40, deadline=None)
@given(n_m=st.sampled_from([(1, 2), (2, 4), (1, 4), (3, 4), (4, 8), (2, 5)]), seed=st.integers(0, 99))
def test_n_of_m_keeps_the_largest_magnitude_of_all_choices(n_m: tuple[int, int], seed: int) -> None:
    n, m = n_m
    torch.manual_seed(seed)
    model = nn.Conv2d(2 * m, 3, 2)
    mask = masks_of(model, "layer_mag", structure=f"{n}:{m}")["weight"]
    magnitude = model.weight.detach().abs()
    for output in range(3):
        for group in range(2):
            for y in range(2):
                for x in range(2):
                    where = (output, slice(group * m, group * m + m), y, x)
                    best = max(sum(magnitude[where][list(kept)]) for kept in combinations(range(m), n))
                    assert int(mask[where].sum()) == n
                    assert float((magnitude * mask)[where].sum()) == pytest.approx(float(best), rel=1e-6)


def test_n_of_m_by_hand_with_ties_and_zeros() -> None:
    model = nn.Linear(8, 1, bias=False)
    model.weight.data = torch.tensor([[1.0, -1.0, 1.0, 1.0, 0.0, 0.5, 0.0, 0.0]])
    masks = pruning.prune(model, "layer_mag", structure="2:4")
    assert masks["weight"].tolist() == [[False, False, True, True, False, True, False, True]]


def test_n_of_m_refuses_any_other_sparsity_or_count() -> None:
    assert masks_of(nn.Linear(8, 8), "layer_mag", 0.75, structure="1:4").sparsity == 0.75
    for amount in ({"sparsity": 0.9}, {"count": 32}, {"sparsity": {"linear": 0.5}}):
        with pytest.raises(PruningError, match=r"2:4 removes exactly 0\.5, which (sparsity|count)"):
            masks_of(nn.Linear(8, 8), "layer_mag", structure="2:4", **amount)  # type: ignore[arg-type]


def test_all_layers_that_do_not_fit_are_named_with_the_options_that_exclude_them() -> None:
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.Conv2d(6, 8, 3), nn.Linear(8, 8), nn.Linear(8, 2))
    with pytest.raises(
        PruningError, match=r"0\.weight \(its 1 inputs .* by 4\); 1\.weight \(its 6 .*"
    ) as error:
        masks_of(model, "layer_mag", structure="2:4")
    assert str(error.value).endswith("--exclude 0.weight --exclude 1.weight.")
    assert masks_of(model, "layer_mag", structure="2:4", exclude=["0.weight", "1.weight"]).removed == 32


# Blocks


def test_blocks_by_hand() -> None:
    """Blocks of 1 x 2 with root mean squares over 2: 1+9, 16+0, 4+4, 1+25."""
    model = nn.Linear(4, 2, bias=False)
    model.weight.data = torch.tensor([[1.0, 3.0, 4.0, 0.0], [2.0, 2.0, 1.0, 5.0]])
    kept = masks_of(model, "global_mag", 0.5, structure="block1x2")["weight"].tolist()
    assert kept == [[False, False, True, True], [False, False, True, True]]
    kept = masks_of(model, "global_l1", 0.5, structure="block1x2")[
        "weight"
    ].tolist()  # 4, 4, 4, 6: the first two
    assert kept == [[False, False, False, False], [True, True, True, True]]


@pytest.mark.parametrize(("count", "blocks"), [(0, 0), (7, 0), (8, 0), (9, 1), (24, 1), (25, 2), (64, 4)])
def test_the_number_of_blocks_is_the_nearest_to_the_count(count: int, blocks: int) -> None:
    torch.manual_seed(0)
    masks = masks_of(nn.Linear(8, 8), "layer_mag", count=count, structure="block4x4")
    assert masks.removed == 16 * blocks


# Selection of groups


def groups(scores: Sequence[float], weights: int, pruned: list[int] | None = None) -> GroupScores:
    removed = torch.zeros(len(scores), dtype=torch.bool)
    removed[pruned or []] = True
    return GroupScores(torch.tensor(scores, dtype=torch.float32), removed, weights)


@given(
    first=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    second=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    sizes=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    remove=st.integers(0, 90),
)
def test_the_lowest_groups_are_removed_up_to_the_nearest_number_of_weights(
    first: list[int], second: list[int], sizes: tuple[int, int], remove: int
) -> None:
    remove = min(remove, len(first) * sizes[0] + len(second) * sizes[1])
    found = keep_groups([groups(first, sizes[0]), groups(second, sizes[1])], remove, 0.0)
    every = [(score, sizes[0]) for score in first] + [(score, sizes[1]) for score in second]
    order = sorted(range(len(every)), key=lambda i: every[i][0])
    nearest = min(
        range(len(order) + 1), key=lambda number: abs(sum(every[i][1] for i in order[:number]) - remove)
    )
    expected = [i not in order[:nearest] for i in range(len(every))]
    assert torch.cat(found).tolist() == expected


def test_pruned_groups_stay_removed_and_a_floor_protects_the_highest_groups() -> None:
    assert keep_groups([groups([5, 1, 9], 2, pruned=[2])], 2, 0.0)[0].tolist() == [True, True, False]
    found = keep_groups([groups([1, 2, 3, 4], 1), groups([5, 6], 1)], 3, 0.5)
    assert [kept.tolist() for kept in found] == [[False, False, True, True], [False, True]]
    with pytest.raises(PruningError, match=r"floor of 0\.5 .* 3 weights, but 5"):
        keep_groups([groups([1, 2, 3, 4], 1), groups([5, 6], 1)], 5, 0.5)


def test_group_reductions_by_hand() -> None:
    parts = [torch.tensor([[3.0, 4.0], [-1.0, 1.0]]), torch.tensor([[0.0], [2.0]])]
    assert reduce_scores(parts, "mean").tolist() == pytest.approx([7 / 3, 2 / 3])
    assert reduce_scores(parts, "root mean square").tolist() == pytest.approx([(25 / 3) ** 0.5, 2**0.5])
    assert reduce_scores(parts, "first").tolist() == [3.0, -1.0]
    assert reduce_scores([torch.full((1, 2), 3e38)], "root mean square").tolist() == pytest.approx([3e38])


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4),
    distinct=st.sampled_from([2, 1000]),
    fraction=st.floats(0, 1),
    floor=st.sampled_from([0.0, 0.2]),
    seed=st.integers(0, 99),
)
def test_the_fast_path_for_single_weights_equals_the_general_path(
    shapes: list[tuple[int, int]], distinct: int, fraction: float, floor: float, seed: int
) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(*(nn.Linear(inputs, outputs) for outputs, inputs in shapes))
    for layer in model:
        layer.weight.data.copy_(torch.randint(1, distinct + 1, layer.weight.shape))  # type: ignore
    layers = prunable_layers(model, prune_classifier=True)
    scorer = LayerScorer(layers, "mag", seed, {}, {})
    groups = weight_groups("weight", model, layers, None)
    removable = sum(layer.size - min_kept(floor, layer.size) for layer in layers)
    remove = int(fraction * removable)
    fast = select_weights({layer.name: scorer.stream(layer.name) for layer in layers}, remove, floor)
    general = select_groups(groups, scorer, remove, floor)
    for layer in layers:
        assert torch.equal(fast[layer.name].view(layer.shape), general[layer.name])


# Filters


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(8 * 16, 12), nn.ReLU(), nn.Linear(12, 3),
    )  # fmt: skip
    nn.init.normal_(net[1].bias)  # type: ignore[arg-type]
    return net.eval()


def images(count: int = 2) -> list[tuple[Tensor, Tensor]]:
    return [
        (torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(count) % 3)
    ]


class Residual(nn.Module):
    """The outputs of the stem and the second convolution are added, so their channels are coupled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.first, self.second = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1, bias=False)
        self.each = nn.Conv2d(4, 4, 3, groups=4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.second(torch.relu(self.first(x)))
        return self.head(torch.relu(self.each(x)).mean((2, 3)))


@needs_torch_pruning
@pytest.mark.parametrize("amount", [0.25, 0.5, 0.75])
def test_filter_masks_equal_those_of_torchs_structured_pruning(amount: float) -> None:
    masks = masks_of(plain(), "layer_mag", amount, batches=images(), structure="filter")
    for i in (0, 3, 6):
        module = torch_prune.ln_structured(plain()[i], "weight", amount=amount, n=2, dim=0)
        assert torch.equal(masks[f"{i}.weight"], module.weight_mask.bool())


@needs_torch_pruning
def test_bias_and_normalisation_are_removed_with_a_filter_and_the_network_shrinks() -> None:
    from pruning.measure.shrink import shrink

    net = plain()
    masks = pruning.prune(net, "layer_l1", 0.5, batches=images(), structure="filter")
    assert set(masks.dependent_masks) == {"0.bias", "1.weight", "1.bias", "3.bias", "6.bias"}
    assert masks.total == 54 + 432 + 1536
    assert masks.removed == masks.total // 2
    for name in ("0.bias", "1.weight", "1.bias"):
        assert torch.equal(net.get_parameter(name) != 0, masks["0.weight"].flatten(1).any(1))
    small = shrink(net, images()[0][0])
    assert small.widths == {"0": (6, 3), "3": (8, 4), "6": (12, 6)}
    assert small.remaining_zero_filters == {}


@needs_torch_pruning
def test_dependent_parameters_stay_removed_in_training_files_and_later_rounds(tmp_path: object) -> None:
    net = plain()
    masks = pruning.prune(net, "global_l1", 0.3, batches=images(), structure="filter")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    masks.hold(optimizer)
    net.train()
    for _ in range(3):
        nn.functional.cross_entropy(net(images(4)[0][0]), images(4)[0][1]).backward()
        optimizer.step()
    for name, mask in [*masks.items(), *masks.dependent_masks.items()]:
        assert not net.get_parameter(name)[~mask].any()
    assert Masks.from_tensors(masks.tensors()) == masks
    masks.save(f"{tmp_path}/masks.safetensors")
    assert Masks.load(f"{tmp_path}/masks.safetensors") == masks
    later = masks_of(net, "global_l1", 0.6, batches=images(), structure="filter", masks=masks)
    assert not any((later[name] & ~mask).any() for name, mask in masks.items())
    assert not any(
        (later.dependent_masks[name] & ~mask).any() for name, mask in masks.dependent_masks.items()
    )


@needs_torch_pruning
@pytest.mark.parametrize("method", ["global_mag", "layer_l1", "random", "global_taylor", "synflow"])
def test_filters_of_one_channel_are_removed_together(method: str) -> None:
    torch.manual_seed(0)
    net = Residual().eval()
    masks = masks_of(net, method, 0.5, batches=images(), structure="filter")
    left = {name: mask.flatten(1).any(1) for name, mask in masks.items()}
    assert torch.equal(left["stem.weight"], left["second.weight"])
    assert torch.equal(left["stem.weight"], left["each.weight"])
    assert torch.equal(left["stem.weight"], masks.dependent_masks["norm.bias"])
    assert all(torch.equal(mask.any(dim=(1, 2, 3)), mask.all(dim=3).all(2).all(1)) for mask in masks.values())
    weights = {"joint": (9 + 54 + 9, 4), "first": (36, 6)}
    pruned = 4 - int(left["stem.weight"].sum()), 6 - int(left["first.weight"].sum())
    assert masks.removed == pruned[0] * weights["joint"][0] + pruned[1] * weights["first"][0]
    if method == "layer_l1":  # half of the joint ones, half of the others
        assert pruned == (2, 3)


@needs_torch_pruning
def test_scores_of_coupled_filters_by_hand() -> None:
    torch.manual_seed(0)
    net = Residual().eval()
    masks = masks_of(net, "layer_mag", 0.25, batches=images(), structure="filter")
    squares = sum(
        getattr(net, name).weight.detach().square().flatten(1).sum(1) for name in ("stem", "second", "each")
    )
    assert masks["stem.weight"].flatten(1).any(1).tolist() == (squares != squares.min()).tolist()  # type: ignore


@needs_torch_pruning
def test_filters_that_cannot_be_removed_are_refused_with_the_reason() -> None:
    from pruning.models import build

    net = Residual().eval()
    with pytest.raises(
        PruningError,
        match=r"stem\.weight, each\.weight \(.*with those of second, which",
    ):
        masks_of(net, "global_mag", structure="filter", batches=images(), exclude=["second"])
    with pytest.raises(PruningError, match="Structure filter needs a batch"):
        masks_of(net, "global_mag", structure="filter")
    with pytest.raises(PruningError, match=r"head\.weight \(these channels are the network's output"):
        masks_of(net, "global_mag", structure="filter", batches=images(), prune_classifier=True)
    resnet = build("resnet20", classes=10, shape=(3, 32, 32))
    with pytest.raises(PruningError, match=r"option A shortcut.*--exclude conv1\.weight"):
        masks_of(
            resnet, "global_mag", structure="filter", batches=[(torch.randn(1, 3, 32, 32), torch.zeros(1))]
        )


# The scale of the normalisation that follows a filter


@needs_torch_pruning
def test_filters_with_the_smallest_normalisation_scales_are_removed() -> None:
    net = plain()
    net[1].weight.data = torch.tensor([0.3, -2.0, 0.1, -0.2, 1.0, 0.5])  # type: ignore[union-attr]
    masks = masks_of(
        net, "layer_bn_scale", 0.5, batches=images(), structure="filter", exclude=["3", "6"]
    )  # without batch normalisation
    assert masks["0.weight"].flatten(1).any(1).tolist() == [False, True, False, False, True, True]


@needs_torch_pruning
def test_the_scale_of_coupled_filters_is_the_mean_over_their_normalisations() -> None:
    class Normalised(Residual):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.BatchNorm2d(6), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.norm(self.stem(x)))
            x = x + self.outer(self.second(torch.relu(self.inner(self.first(x)))))
            return self.head(torch.relu(self.each(x)).mean((2, 3)))

    torch.manual_seed(0)
    net = Normalised().eval()
    net.norm.weight.data = torch.tensor([1.0, 2.0, 3.0, 4.0])
    net.outer.weight.data = torch.tensor([-4.0, 1.0, -1.0, 0.0])
    layers = prunable_layers(net)
    found = normalization_scales(net, layers, weight_groups("filter", net, layers, images()[0][0]))
    for name in ("stem.weight", "second.weight", "each.weight"):
        assert found[name].flatten(1)[:, 0].tolist() == [2.5, 1.5, 2.0, 2.0]
        assert found[name].shape == net.get_parameter(name).shape
    assert found["first.weight"].unique().tolist() == [1.0]


@needs_torch_pruning
def test_filters_without_a_normalisation_are_refused_by_name() -> None:
    net = plain()
    message = r"3\.weight, 6\.weight.*--exclude 3\.weight --exclude 6"
    with pytest.raises(PruningError, match=message):
        masks_of(net, "global_bn_scale", batches=images(), structure="filter")
    with pytest.raises(PruningError, match=message):
        check(net, "global_bn_scale", "filter", prunable_layers(net), images()[0][0])
