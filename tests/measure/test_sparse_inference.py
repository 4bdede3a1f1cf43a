"""Sparse inference: the same outputs, and a measured choice for every linear layer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pruning.errors import PruningError
from pruning.measure import latency, sparse_inference
from pruning.models import build


def at_98_percent() -> nn.Module:
    torch.manual_seed(0)
    model = build("lenet_300_100", classes=10, shape=(1, 28, 28))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.masked_fill_(torch.rand_like(parameter) < 0.98, 0)
    return model


@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_sparse_network_has_the_outputs_of_the_dense_one(batch_size: int) -> None:
    model, images = at_98_percent().eval(), torch.randn(batch_size, 1, 28, 28)
    fast = sparse_inference.use_sparse_layers(model, images, seconds=0.01)
    with torch.no_grad():
        torch.testing.assert_close(fast.model(images), model(images))
    assert list(fast.layers) == ["fc1", "fc2", "fc3"]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7,), (1, 7), (3, 7), (2, 3, 7)])
def test_a_sparse_layer_has_the_outputs_of_the_dense_one(shape: tuple[int, ...], bias: bool) -> None:
    dense = nn.Linear(7, 4, bias=bias)
    dense.weight.data[torch.rand(4, 7) < 0.7] = 0
    inputs = torch.randn(*shape)
    with torch.no_grad():
        torch.testing.assert_close(sparse_inference.SparseLinear(dense)(inputs), dense(inputs))


def test_every_layer_reports_its_format_and_both_times() -> None:
    fast = sparse_inference.use_sparse_layers(at_98_percent(), torch.randn(1, 1, 28, 28), seconds=0.01)
    for name, choice in fast.layers.items():
        assert choice.tried == "csr"
        assert choice.dense_ms > 0 and choice.sparse_ms > 0
        is_sparse = isinstance(fast.model.get_submodule(name), sparse_inference.SparseLinear)
        assert is_sparse == (choice.form == "csr")
        if choice.form == "csr":
            assert choice.measured_speedup == choice.dense_ms / choice.sparse_ms > 1
        else:
            assert choice.measured_speedup == 1.0


def test_the_model_itself_does_not_change() -> None:
    model = at_98_percent().train()
    before = copy.deepcopy(model.state_dict())
    sparse_inference.use_sparse_layers(model, torch.randn(1, 1, 28, 28), seconds=0.0)
    assert model.training
    assert type(model.fc1) is nn.Linear
    assert not model.fc1._forward_pre_hooks
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_layer_that_is_called_twice_is_listed_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Linear(4, 4)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.shared(inputs).sum(1) + self.shared(inputs[:, 0])

    images = torch.randn(2, 3, 4)
    fast = sparse_inference.use_sparse_layers(Twice(), images, seconds=0.0)
    assert list(fast.layers) == ["shared"]


def test_the_projection_inside_an_attention_layer_stays_dense() -> None:
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 2))
    fast = sparse_inference.use_sparse_layers(model, torch.randn(1, 3, 8), seconds=0.0)
    assert "0.self_attn.out_proj" not in fast.layers
    assert "1" in fast.layers


def test_a_network_without_linear_layers_is_rejected_by_its_class_name() -> None:
    with pytest.raises(PruningError, match="Sequential"):
        sparse_inference.use_sparse_layers(nn.Sequential(nn.Conv2d(1, 1, 1)), torch.randn(1, 1, 2, 2))


def test_peak_memory_includes_the_sparse_weights() -> None:
    dense = nn.Linear(100, 50, bias=False)
    dense.weight.data[torch.rand(50, 100) < 0.9] = 0
    values = int(dense.weight.count_nonzero())
    networks = {"sparse": nn.Sequential(sparse_inference.SparseLinear(dense))}
    row = latency.compare(networks, (1, 1, 100), (1,), seconds=0.0)["batches"][0]["networks"]["sparse"]
    # Values of 4 bytes with columns of 8, 51 row starts of 8, a bias; then at least the image and the outputs.
    weights = 12 * values + 8 * 51 + 4 * 50
    assert weights + 4 * (100 + 50) <= row["peak_memory_bytes"] <= weights + 4 * (100 + 4 * 50)


@pytest.mark.cuda
def test_two_of_four_weights_are_tried_on_sparse_tensor_cores() -> None:
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("needs an NVIDIA GPU with sparse tensor cores")
    model = nn.Sequential(nn.Flatten(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 64)).half().cuda()
    for layer in (model[1], model[3]):
        layer.weight.data.view(-1, 4)[:, :2] = 0
    fast = sparse_inference.use_sparse_layers(model, torch.randn(64, 128).half().cuda(), seconds=0.05)
    assert [choice.tried for choice in fast.layers.values()] == ["2:4", "2:4"]
