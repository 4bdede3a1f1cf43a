"""Parameter counts: all kinds of parameters, tied ones once, no buffers."""

from __future__ import annotations

import torch
from torch import nn

from pruning.measure.parameters import ParameterCounts, count_parameters


def test_every_kind_of_parameter_counts_and_buffers_do_not() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(4, 3))
    # conv 2*1*3*3 + 2, batch-norm 2 + 2 (its running mean, variance and counter are buffers), linear 4*3 + 3
    assert count_parameters(model).parameters == 20 + 4 + 15


def test_zeros_of_either_sign_are_not_counted_as_nonzero() -> None:
    model = nn.Linear(3, 2, bias=False)
    model.weight.data = torch.tensor([[0.0, -0.0, 1e-45], [1.0, -2.0, 0.0]])
    assert count_parameters(model) == ParameterCounts(parameters=6, nonzero_parameters=3)
    assert count_parameters(model).compression_ratio == 2.0


def test_tied_parameters_count_once() -> None:
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    assert count_parameters(nn.Sequential(first, second)).parameters == 16


def test_a_network_of_zeros_has_no_compression_ratio() -> None:
    model = nn.Linear(2, 2)
    for parameter in model.parameters():
        parameter.data.zero_()
    assert count_parameters(model).compression_ratio is None


def test_counts_are_python_integers() -> None:
    counted = count_parameters(nn.Linear(2, 2))
    assert type(counted.parameters) is int
    assert type(counted.nonzero_parameters) is int
