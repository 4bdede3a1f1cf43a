"""Statistics against autograd, finite differences and naive loops; they leave the model unchanged."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pruning.axes.scoring import Weights, gradient_flow
from pruning.axes.scoring import synaptic_flow as flow_score
from pruning.core.layers import prunable_layers
from pruning.core.statistics.flow import synaptic_flow
from pruning.core.statistics.gradients import (
    BLOCK,
    DAMPING,
    gradients,
    hessian_gradients,
    inverse_fisher,
    squared_gradients,
)
from pruning.core.statistics.layer_inputs import input_means, input_norms
from pruning.errors import PruningError
from pruning.registry import STATISTICS

FROM_BATCHES = [name for name, entry in STATISTICS.entries().items() if not entry.spec.over_channels]

Batch = tuple[Tensor, Tensor]


def convolutional() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.ReLU(),
        nn.Dropout(), nn.Flatten(), nn.Linear(64, 3),
    )  # fmt: skip


def batches(*sizes: int) -> list[Batch]:
    torch.manual_seed(1)
    return [(torch.randn(size, 2, 6, 6), torch.randint(3, (size,))) for size in sizes]


@pytest.mark.parametrize("name", FROM_BATCHES)
def test_the_model_stays_as_it_is_bit_for_bit(name: str) -> None:
    net = convolutional()
    net[5].eval()
    net[3].weight.requires_grad_(False)
    net[0].weight.grad = torch.ones_like(net[0].weight)  # type: ignore[arg-type, union-attr]
    state = copy.deepcopy(net.state_dict())
    modes = [module.training for module in net.modules()]
    random_state = torch.get_rng_state()
    layers = prunable_layers(net)
    data = batches(4, 2)
    torch.set_rng_state(random_state)
    found = STATISTICS.get(name)(net, layers, data, functional.cross_entropy)
    expected = {layer.name: layer.shape for layer in layers}
    if name == "inverse Fisher":
        expected = {layer.name: (-(-layer.size // BLOCK), BLOCK, BLOCK) for layer in layers}
    assert {name: tuple(values.shape) for name, values in found.items()} == expected
    assert all(values.dtype == torch.float32 and values.isfinite().all() for values in found.values())
    assert torch.equal(random_state, torch.get_rng_state())
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert modes == [module.training for module in net.modules()]
    assert not net[3].weight.requires_grad
    assert bool((net[0].weight.grad == 1).all())  # type: ignore[union-attr]
    assert all(not module._forward_pre_hooks and not module._forward_hooks for module in net.modules())
    assert all(p.grad is None for name, p in net.named_parameters() if name != "0.weight")


@pytest.mark.parametrize("name", FROM_BATCHES)
def test_no_batches(name: str) -> None:
    net = convolutional()
    with pytest.raises(PruningError, match="at least one batch"):
        STATISTICS.get(name)(net, prunable_layers(net), [], functional.cross_entropy)


@pytest.mark.parametrize("name", FROM_BATCHES)
def test_statistics_do_not_depend_on_the_division_into_batches(name: str) -> None:
    net, data = convolutional(), batches(6)
    parts = [(data[0][0][:1], data[0][1][:1]), (data[0][0][1:], data[0][1][1:])]
    whole = STATISTICS.get(name)(net, prunable_layers(net), data, functional.cross_entropy)
    divided = STATISTICS.get(name)(net, prunable_layers(net), parts, functional.cross_entropy)
    for name, values in whole.items():
        torch.testing.assert_close(divided[name], values, rtol=1e-4, atol=1e-5 * float(values.abs().max()))


def test_squared_gradients_equal_the_mean_over_single_samples() -> None:
    net, data = convolutional().eval(), batches(3, 2)
    expected = torch.zeros_like(net[3].weight)  # type: ignore[arg-type]
    for inputs, targets in data:
        for i in range(len(targets)):
            loss = functional.cross_entropy(net(inputs[i : i + 1]), targets[i : i + 1])
            expected += torch.autograd.grad(loss, net[3].weight)[0] ** 2 / 5  # type: ignore[arg-type]
    torch.testing.assert_close(squared_gradients(net, prunable_layers(net), data)["3.weight"], expected)


def by_recursion(gradients_of: Tensor, damping: float) -> Tensor:
    """The inverse of damping I + the mean of g g^T, built up one g after the other (Singh and Alistarh 2020)."""
    count, size = gradients_of.shape
    inverse = torch.eye(size, dtype=torch.float64) / damping
    for gradient in gradients_of.double():
        moved = inverse @ gradient
        inverse -= torch.outer(moved, moved) / (count + gradient @ moved)
    return inverse


def test_inverse_fisher_equals_the_papers_recursion_in_every_block() -> None:
    """The grouped convolution has 72 weights: a block of 50, and one of 22 filled up with weights without gradient."""
    net, data = convolutional().eval(), batches(3, 2)
    net[3].weight.data[0, 0, 0] = 0  # three weights that are removed
    own = []
    for inputs, targets in data:
        for i in range(len(targets)):
            loss = functional.cross_entropy(net(inputs[i : i + 1]), targets[i : i + 1])
            own.append(torch.autograd.grad(loss, net[3].weight)[0].flatten())  # type: ignore[arg-type]
    gradients_of = functional.pad(torch.stack(own) * (net[3].weight != 0).flatten(), (0, 28))  # type: ignore
    found = inverse_fisher(net, prunable_layers(net), data)["3.weight"]
    for block, expected in enumerate(gradients_of.split(50, dim=1)):
        torch.testing.assert_close(
            found[block].double(), by_recursion(expected, DAMPING), rtol=1e-3, atol=0.1
        )
    torch.testing.assert_close(found[0, :3], torch.eye(50)[:3] / DAMPING)


def test_inverse_fisher_of_gradients_that_are_not_finite_is_refused() -> None:
    net = convolutional()
    net[0].weight.data.fill_(torch.nan)
    with pytest.raises(PruningError, match=r"gradients of 0\.weight are not all finite"):
        inverse_fisher(net, prunable_layers(net), batches(2))


def test_a_network_that_cannot_be_vectorised_is_evaluated_sample_by_sample() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            assert len(x) >= 0
            if x.sum().item() > 1e9:  # a question that no vectorised number answers
                return self.head(x[:, 0])
            return self.head(self.rnn(x)[0][:, -1])

    torch.manual_seed(0)
    net, data = Recurrent(), [(torch.randn(3, 6, 4), torch.tensor([0, 1, 2]))]
    expected = sum(
        torch.autograd.grad(functional.cross_entropy(net(x[None]), y[None]), net.rnn.weight_hh_l0)[0] ** 2 / 3
        for x, y in zip(*data[0], strict=True)
    )
    torch.testing.assert_close(
        squared_gradients(net, prunable_layers(net), data)["rnn.weight_hh_l0"], expected
    )


def smooth() -> tuple[nn.Sequential, list[Batch]]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    return net, [(torch.randn(5, 3), torch.randint(2, (5,))), (torch.randn(2, 3), torch.randint(2, (2,)))]


def test_hessian_gradients_agree_with_finite_differences_of_the_gradient() -> None:
    """H g = (g(w + e g) - g(w - e g)) / 2e."""
    net, data = smooth()
    layers = prunable_layers(net)
    found = hessian_gradients(net, layers, data)
    gradient = gradients(net, layers, data)
    moved = []
    for step in (1e-3, -1e-3):
        other = copy.deepcopy(net)
        for name, slope in gradient.items():
            other.get_parameter(name).data += step * slope.double()
        moved.append(gradients(other, prunable_layers(other), data))
    for name, product in found.items():
        torch.testing.assert_close(product, (moved[0][name] - moved[1][name]) / 2e-3, rtol=2e-3, atol=2e-6)


def test_grasp_predicts_the_change_of_the_squared_gradient_norm() -> None:
    """Taylor: g.g after removing w is g.g - 2 w (H g)_w, to first order in w; seen with a hundredth of a step."""
    net, data = smooth()
    layers = prunable_layers(net)
    products = hessian_gradients(net, layers, data)["0.weight"]
    scores = gradient_flow(Weights(net[0].weight.detach().float(), {"Hessian-gradient product": products}))  # type: ignore

    def squared() -> float:
        return sum(float(g.double().square().sum()) for g in gradients(net, layers, data).values())

    before = squared()
    weight: Tensor = net[0].weight.data  # type: ignore[assignment, union-attr]
    for row, column in ((0, 0), (2, 1)):
        value = float(weight[row, column])
        weight[row, column] = 0.99 * value
        change = squared() - before
        weight[row, column] = value
        assert change == pytest.approx(-2 * 0.01 * float(scores[row, column]), rel=0.05, abs=1e-7)


def test_the_hessian_gradient_product_of_a_linear_loss_is_zero() -> None:
    net = nn.Linear(2, 1, bias=False)
    data = [(torch.ones(1, 2), torch.zeros(1))]
    found = hessian_gradients(net, prunable_layers(net), data, lambda outputs, targets: outputs.mean())
    assert not found["weight"].any()


def naive_inputs(of: Callable[[Tensor], Tensor]) -> Tensor:
    """Per input channel of the grouped convolution, by a loop over samples and places."""
    net = convolutional().eval()
    sums = torch.zeros(4)
    for inputs, _ in batches(3, 2):
        hidden = net[:3](inputs).detach()
        for sample in range(len(hidden)):
            for channel in range(4):
                sums[channel] += of(hidden[sample, channel]).sum()
    return sums


def test_input_norms_and_means_of_a_grouped_convolution_equal_a_naive_loop() -> None:
    net, data = convolutional(), batches(3, 2)
    norms, means = input_norms(net, prunable_layers(net), data), input_means(net, prunable_layers(net), data)
    expected_norms, expected_means = naive_inputs(torch.square).sqrt(), naive_inputs(torch.abs) / (5 * 36)
    for output in range(4):
        for own in range(2):
            channel = 2 * (output // 2) + own  # outputs 0 and 1 read channels 0 and 1, the others 2 and 3
            assert norms["3.weight"][output, own, 0, 0] == pytest.approx(
                float(expected_norms[channel]), rel=1e-5
            )
            assert means["3.weight"][output, own, 2, 1] == pytest.approx(
                float(expected_means[channel]), rel=1e-5
            )


def test_inputs_of_linear_and_transposed_layers_by_hand() -> None:
    linear = nn.Linear(2, 3)
    data = [(torch.tensor([[3.0, -1.0], [-4.0, 0.0]]), torch.zeros(2))]
    assert input_norms(linear, prunable_layers(linear), data)["weight"].tolist() == [[5.0, 1.0]] * 3
    assert input_means(linear, prunable_layers(linear), data)["weight"].tolist() == [[3.5, 0.5]] * 3
    transposed = nn.ConvTranspose1d(2, 3, 1)
    data = [(torch.tensor([[[3.0, 4.0], [0.0, 2.0]]]), torch.zeros(1))]
    assert input_norms(transposed, prunable_layers(transposed), data)["weight"][:, :, 0].tolist() == [
        [5.0] * 3,
        [2.0] * 3,
    ]


def test_a_tied_weight_has_the_inputs_of_both_uses_and_an_unused_one_none() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.unused = nn.Linear(2, 2, bias=False), nn.Linear(2, 2), nn.Linear(2, 2)
            self.two.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x))

    net = Tied()
    net.one.weight.data = torch.eye(2)
    data = [(torch.tensor([[3.0, 1.0]]), torch.zeros(1, dtype=torch.long))]
    found = input_means(net, prunable_layers(net, prune_classifier=True), data)
    assert found["one.weight"].tolist() == [[3.0, 1.0]] * 2
    assert not found["unused.weight"].any()


def test_attention_weights_are_refused_by_name_for_input_statistics() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.attention(x, x, x)[0].mean(1))

    net = Attending()
    data = [(torch.randn(2, 3, 4), torch.tensor([0, 1]))]
    with pytest.raises(
        PruningError, match=r"inputs of attention\.in_proj_weight, attention\.out_proj\.weight cannot"
    ):
        input_norms(net, prunable_layers(net), data)
    assert all(found.any() for found in hessian_gradients(net, prunable_layers(net), data).values())


def test_synaptic_flow_by_hand_counts_paths() -> None:
    """Inputs 2, hidden 2, output 1: a weight's score is the product of the sums of weights before and behind it."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    net[0].weight.data = torch.tensor([[1.0, -2.0], [3.0, 0.0]])
    net[2].weight.data = torch.tensor([[-5.0, 1.0]])
    flows = synaptic_flow(
        net, prunable_layers(net, prune_classifier=True), [(torch.randn(1, 2), torch.zeros(1))]
    )
    scores = {
        name: flow_score(Weights(net.get_parameter(name).detach(), {"synaptic flow": flow}))
        for name, flow in flows.items()
    }
    # Paths: 5 through each input of unit 0 times 1 and 2; 1 times 3 through unit 1. The largest flow, 5, becomes 1.
    assert (5 * scores["0.weight"]).tolist() == [[5.0, 10.0], [3.0, 0.0]]
    assert (5 * scores["2.weight"]).tolist() == [[15.0, 3.0]]


def test_synaptic_flow_is_equal_in_all_layers_and_independent_of_data() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8, bias=False),
        nn.ReLU(), nn.Linear(8, 3, bias=False),
    )  # fmt: skip
    net[1].running_mean.fill_(9)  # type: ignore[union-attr, operator]
    data = [(torch.full((2, 1, 6, 6), torch.nan), torch.zeros(2))]
    flows = synaptic_flow(net, prunable_layers(net, prune_classifier=True), data)
    totals = [float((net.get_parameter(name).detach().abs() * flow).sum()) for name, flow in flows.items()]
    assert totals == pytest.approx([totals[0]] * 3, rel=1e-5)


def test_synaptic_flow_of_a_deep_and_wide_network_does_not_overflow() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(100, 100, bias=False) for _ in range(60)]
    net = nn.Sequential(*layers)
    with torch.no_grad():
        for layer in layers:
            layer.weight.mul_(100)
    flows = synaptic_flow(net, prunable_layers(net), [(torch.randn(1, 100), torch.zeros(1))])
    assert all(flow.isfinite().all() and flow.all() for flow in flows.values())
