"""Scores by hand, gradients against autograd, and a model that scoring leaves bit for bit as it was."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pruning.axes.scoring import (
    Weights,
    gradient_magnitude,
    layer_seed,
    magnitude,
    random,
    uniform,
)
from pruning.core.corrections import optimal_brain_surgeon
from pruning.core.layers import prunable_layers
from pruning.core.statistics.gradients import gradients
from pruning.errors import PruningError
from pruning.registry import SCORES


def test_magnitude_by_hand() -> None:
    assert magnitude(Weights(torch.tensor([-2.0, 0.5, 0.0]))).tolist() == [2.0, 0.5, 0.0]


def test_gradient_magnitude_by_hand() -> None:
    weights = Weights(torch.tensor([-2.0, 0.5, 3.0]), {"gradient": torch.tensor([0.25, -4.0, 0.0])})
    assert gradient_magnitude(weights).tolist() == [0.5, 2.0, 0.0]


def scored(name: str, values: list[float], **collected: list[float]) -> list[float]:
    needs = {need.replace("_", " "): torch.tensor(numbers) for need, numbers in collected.items()}
    scores: list[float] = SCORES.get(name)(Weights(torch.tensor(values), needs)).tolist()
    return scores


def test_scores_by_hand() -> None:
    assert scored("l1", [-2.0, 0.5]) == [2.0, 0.5]
    assert scored("snip", [-2.0, 0.5, 3.0], gradient=[0.25, -4.0, 0.0]) == [0.5, 2.0, 0.0]
    assert scored("taylor", [-2.0, 0.5, 3.0], gradient=[0.25, -4.0, 0.0]) == [0.25, 4.0, 0.0]
    assert scored("fisher", [-2.0, 0.5, 3.0], squared_gradient=[0.25, 4.0, 0.0]) == [1.0, 1.0, 0.0]
    assert scored("act", [-2.0, 0.5], mean_input=[3.0, 0.0]) == [6.0, 0.0]
    assert scored("wanda", [-2.0, 0.5], input_norm=[3.0, 8.0]) == [6.0, 4.0]
    assert scored("synflow", [-2.0, 0.5], synaptic_flow=[3.0, 8.0]) == [6.0, 4.0]
    values = Weights(torch.tensor([-2.0, 0.5]), {"Hessian-gradient product": torch.tensor([3.0, 8.0])})
    assert SCORES.get("grasp")(values).tolist() == [-6.0, 4.0]


def test_second_order_and_movement_by_hand() -> None:
    """[F^-1] has 2 and 4 on the diagonal of the first block's first weights: 4^2 / (2 x 2) and 1 / (2 x 4)."""
    inverse = torch.eye(50)[None].clone()
    inverse[0, :2, :2] = torch.tensor([[2.0, 1.0], [1.0, 4.0]])
    values = Weights(torch.tensor([[4.0], [-1.0]]), {"inverse Fisher": inverse})
    assert SCORES.get("second_order")(values).tolist() == [[4.0], [0.125]]
    # Without the first weight the second loses 4 x 1 / 2; without the second the first gains 1 / 4.
    first, second = torch.tensor([[True], [False]]), torch.tensor([[False], [True]])
    assert optimal_brain_surgeon(values, second).tolist() == [[0.0], [-3.0]]
    assert optimal_brain_surgeon(values, first).tolist() == [[4.25], [0.0]]
    assert scored("movement", [-2.0, 0.5], movement=[-3.0, 8.0]) == [-3.0, 8.0]
    assert scored("bn_scale", [-2.0, 0.5], normalisation_scale=[3.0, 8.0]) == [3.0, 8.0]


def test_second_order_and_its_correction_minimise_the_quadratic_form() -> None:
    """v^T F v / 2 over all v with v_Q = -w_Q, by least squares for each block; 57 weights fill a block and a bit."""
    torch.manual_seed(0)
    gradients_of = torch.randn(2, 80, 50).double()
    fisher = gradients_of.mT @ gradients_of / 80 + 0.1 * torch.eye(50)
    value = torch.randn(57)
    weights = Weights(value, {"inverse Fisher": fisher.inverse().float()})
    alone = SCORES.get("second_order")(weights)
    for removed in ([3], [0, 1, 7, 49, 50, 56], list(range(57))):
        kept = torch.ones(57, dtype=torch.bool)
        kept[removed] = False
        change = torch.zeros(100).double()
        change[:57] = optimal_brain_surgeon(weights, kept).double() - value
        expected = torch.zeros(2, 50).double()
        for block in range(2):
            pruned = torch.zeros(50, dtype=torch.bool)
            pruned[[i - 50 * block for i in removed if i // 50 == block]] = True
            expected[block, pruned] = -value.double()[[i for i in removed if i // 50 == block]]
            own = fisher[block]
            expected[block, ~pruned] = torch.linalg.solve(
                own[~pruned][:, ~pruned], -own[~pruned][:, pruned] @ expected[block, pruned]
            )
        expected = expected.flatten()
        expected[57:] = 0  # there are no weights
        torch.testing.assert_close(change, expected, rtol=1e-4, atol=1e-5)
    rise = change_of_one(fisher[0], weights, 3)
    assert float(alone[3]) == pytest.approx(rise, rel=1e-4)


def change_of_one(fisher: Tensor, weights: Weights, removed: int) -> float:
    """v^T F v / 2 for the correction that follows the removal of one weight of the first block."""
    kept = torch.arange(len(weights.value)) != removed
    change = (optimal_brain_surgeon(weights, kept) - weights.value).double()[:50]
    return float(change @ fisher @ change / 2)


def test_fpgm_by_hand() -> None:
    """Filters (0, 0), (3, 4) and (6, 8): the middle one is 10 away from the others, they are 15 away."""
    value = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
    expected = torch.tensor([15.0, 10.0, 15.0])
    assert torch.equal(SCORES.get("fpgm")(Weights(value)), expected[:, None].expand(3, 2))
    assert torch.equal(SCORES.get("fpgm")(Weights(value.T, output_dimension=1)), expected.expand(2, 3))


def test_lamp_by_hand_with_ties_and_zeros() -> None:
    """Squares 4, 1, 4, 0, 9: 4 is divided by 4 + 4 + 9, the later 4 by 4 + 9, 1 by 18, 9 by 9."""
    found = SCORES.get("lamp")(Weights(torch.tensor([[-2.0, 1.0, 2.0], [0.0, 0.0, 3.0]])))
    torch.testing.assert_close(found, torch.tensor([[4 / 17, 1 / 18, 4 / 13], [0.0, 0.0, 1.0]]))


def test_lamp_equals_the_papers_sum_as_a_loop() -> None:
    torch.manual_seed(0)
    weights = torch.randn(6, 7)
    flat = sorted(weights.flatten().tolist(), key=abs)
    expected = {w: w**2 / sum(v**2 for v in flat[i:]) for i, w in enumerate(flat)}
    found = SCORES.get("lamp")(Weights(weights)).flatten().tolist()
    assert found == pytest.approx([expected[w] for w in weights.flatten().tolist()], rel=1e-5)


def test_random_is_uniform_and_independent_of_how_it_is_sliced() -> None:
    whole = random(Weights(torch.zeros(100_000), indices=range(100_000), seed=7))
    for where, same in ((range(31, 5_000), slice(31, 5_000)), (torch.tensor([99_999, 3, 3]), [99_999, 3, 3])):
        piece = random(Weights(torch.zeros(len(where)), indices=where, seed=7))
        assert torch.equal(piece, whole[same])
    assert 0 <= whole.min() < 1e-4
    assert 0.9999 < whole.max() < 1
    counts = torch.histc(whole, bins=20, min=0, max=1)
    chi_square = float(((counts - 5_000) ** 2 / 5_000).sum())
    assert 7 < chi_square < 39  # 19 degrees of freedom: 99 of 100 lie within
    assert len(whole.unique()) > 99_600  # 300 of 100,000 draws of 24 bits coincide


@pytest.mark.parametrize("lag", [1, 2, 64, 4096])
def test_random_numbers_of_neighbours_and_of_layers_are_uncorrelated(lag: int) -> None:
    first = uniform(torch.arange(200_000), layer_seed(0, "conv1.weight"))
    second = uniform(torch.arange(200_000), layer_seed(0, "conv2.weight"))
    other_seed = uniform(torch.arange(200_000), layer_seed(1, "conv1.weight"))
    for other in (first.roll(lag), second.roll(lag - 1), other_seed.roll(lag - 1)):
        assert abs(float(torch.corrcoef(torch.stack([first, other]))[0, 1])) < 0.01


def test_random_scores_differ_at_positions_beyond_31_bits() -> None:
    far = range((1 << 31) - 3, (1 << 31) + 3)
    drawn = random(Weights(torch.zeros(6), indices=far, seed=1))
    assert torch.equal(drawn, uniform(torch.tensor(list(far)), 1))
    assert len(drawn.unique()) == 6


@pytest.mark.parametrize("name", SCORES.names())
def test_every_score_has_a_summary_and_a_source(name: str) -> None:
    entry = SCORES.entry(name)
    assert entry.summary
    assert entry.spec.source


class Net(nn.Module):
    """With everything that scoring could disturb: batch statistics, dropout, a frozen and a tied weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.one = nn.Linear(16, 16)
        self.two = nn.Linear(16, 16)
        self.two.weight = self.one.weight
        self.frozen = nn.Linear(16, 8).requires_grad_(False)
        self.head = nn.Linear(8, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.norm(self.conv(x))), 3).flatten(1)
        x = self.drop(self.two(functional.relu(self.one(x))))
        return self.head(functional.relu(self.frozen(x)))


def batches(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(size, 1, 8, 8), torch.randint(3, (size,))) for size in sizes]


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    net = Net()
    net(torch.randn(9, 1, 8, 8))  # running statistics that differ from the initial ones
    net.one.weight.grad = torch.randn(16, 16)
    net.drop.eval()  # modes that differ from module to module
    return net


def test_gradients_equal_those_of_the_mean_loss_over_all_samples(net: Net) -> None:
    data = batches(5, 3, 1)
    found = gradients(net, prunable_layers(net, prune_classifier=True), data)
    whole = copy.deepcopy(net).eval().requires_grad_(True)
    whole.zero_grad()
    inputs, targets = (torch.cat(parts) for parts in zip(*data, strict=True))
    functional.cross_entropy(whole(inputs), targets).backward()
    assert not found["unused.weight"].any()
    for name in ("conv.weight", "one.weight", "frozen.weight", "head.weight"):
        torch.testing.assert_close(found[name], whole.get_parameter(name).grad)


def test_gradients_agree_with_finite_differences() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    data = [(torch.randn(6, 3), torch.randint(2, (6,)))]
    found = gradients(net, prunable_layers(net), data)["0.weight"]
    weight = net[0].weight.data
    for row, column in ((0, 0), (3, 2)):
        losses = []
        for change in (1e-5, -1e-5):
            weight[row, column] += change
            losses.append(functional.cross_entropy(net(data[0][0].double()), data[0][1]).item())
            weight[row, column] -= change
        assert float(found[row, column]) == pytest.approx((losses[0] - losses[1]) / 2e-5, abs=1e-6)


def test_gradients_of_a_user_defined_loss(net: Net) -> None:
    data = [(inputs, torch.randn(len(inputs), 3)) for inputs, _ in batches(4)]
    found = gradients(net, prunable_layers(net), data, loss=functional.mse_loss)
    whole = copy.deepcopy(net).eval()
    whole.zero_grad()
    functional.mse_loss(whole(data[0][0]), data[0][1]).backward()
    torch.testing.assert_close(found["conv.weight"], whole.conv.weight.grad)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_stays_as_it_is_bit_for_bit(net: Net, fails: bool) -> None:
    def shuffled() -> Iterator[tuple[Tensor, Tensor]]:
        for inputs, targets in batches(4, 4):
            order = torch.randperm(4)  # draws from the global random state, as a DataLoader does
            yield inputs[order], targets[order]
        if fails:
            raise KeyboardInterrupt

    state = copy.deepcopy(net.state_dict())
    gradient = net.one.weight.grad
    assert gradient is not None
    before = gradient.clone()
    modes = [module.training for module in net.modules()]
    versions = [parameter._version for parameter in net.parameters()]
    random_state = torch.get_rng_state()
    with torch.no_grad():
        if fails:
            with pytest.raises(KeyboardInterrupt):
                gradients(net, prunable_layers(net), shuffled())
        else:
            gradients(net, prunable_layers(net), shuffled())
    assert torch.equal(random_state, torch.get_rng_state())
    assert net.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert versions == [parameter._version for parameter in net.parameters()]
    assert net.one.weight.grad is gradient
    assert torch.equal(gradient, before)
    assert all(parameter.grad is None for parameter in net.parameters() if parameter is not net.one.weight)
    assert modes == [module.training for module in net.modules()]
    assert [name for name, parameter in net.named_parameters() if not parameter.requires_grad] == [
        "frozen.weight",
        "frozen.bias",
    ]
    assert not any(parameter._post_accumulate_grad_hooks for parameter in net.parameters())


def test_gradients_of_half_precision_are_summed_in_float32() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).bfloat16()
    found = gradients(
        net, prunable_layers(net), [(torch.randn(8, 4), torch.randint(2, (8,))) for _ in range(3)]
    )
    assert found["0.weight"].dtype == torch.float32
    assert not torch.equal(found["0.weight"], found["0.weight"].bfloat16().float())


def test_recurrent_and_attention_layers_have_gradients_and_still_train_afterwards() -> None:
    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(4, 4, batch_first=True)
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x, _ = self.rnn(x)
            x, _ = self.attention(x, x, x)
            return self.head(x.mean(1))

    torch.manual_seed(0)
    net = Sequence()
    found = gradients(net, prunable_layers(net), [(torch.randn(3, 5, 4), torch.tensor([0, 1, 0]))])
    assert all(gradient.count_nonzero() for gradient in found.values())
    net(torch.randn(3, 5, 4)).sum().backward()
    assert net.rnn.weight_ih_l0.grad is not None


def test_no_batches(net: Net) -> None:
    with pytest.raises(PruningError, match="at least one batch"):
        gradients(net, prunable_layers(net), [])
