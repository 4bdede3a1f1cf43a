"""Prunable layers: weights of all layers except the classifier, and the effect of patterns."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pruning.core.layers import input_width, prunable_layers
from pruning.errors import PruningError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.up = nn.ConvTranspose2d(2, 2, 2)
        self.embed = nn.Embedding(5, 4)
        self.rnn = nn.LSTM(4, 3, bidirectional=True)
        self.cell = nn.GRUCell(4, 3)
        self.attention = nn.MultiheadAttention(4, 2)
        self.cross = nn.MultiheadAttention(4, 2, kdim=3, vdim=3)
        self.body = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        self.head = nn.Linear(4, 2)


def names(model: nn.Module, **options: object) -> list[str]:
    return [layer.name for layer in prunable_layers(model, **options)]  # type: ignore[arg-type]


DEFAULT = [
    "conv.weight",
    "up.weight",
    "rnn.weight_ih_l0",
    "rnn.weight_hh_l0",
    "rnn.weight_ih_l0_reverse",
    "rnn.weight_hh_l0_reverse",
    "cell.weight_ih",
    "cell.weight_hh",
    "attention.in_proj_weight",
    "attention.out_proj.weight",
    "cross.q_proj_weight",
    "cross.k_proj_weight",
    "cross.v_proj_weight",
    "cross.out_proj.weight",
    "body.0.weight",
]


def test_weights_of_all_layers_except_the_classifier_are_prunable() -> None:
    assert names(Net()) == DEFAULT


def test_the_classifier_is_prunable_on_request() -> None:
    assert names(Net(), prune_classifier=True) == [*DEFAULT, "head.weight"]
    assert names(Net(), include=["head"]) == [*DEFAULT, "head.weight"]


def test_a_layer_has_kind_type_module_shape_and_size() -> None:
    layers = {layer.name: layer for layer in prunable_layers(Net())}
    conv = layers["conv.weight"]
    assert (conv.kind, conv.type, conv.module, conv.shape, conv.size) == (
        "conv",
        "Conv2d",
        "conv",
        (2, 1, 3, 3),
        18,
    )
    kinds = [layers[name].kind for name in ("rnn.weight_hh_l0", "attention.out_proj.weight", "body.0.weight")]
    assert kinds == ["recurrent", "attention", "linear"]


def test_a_single_layer_as_the_model_is_prunable() -> None:
    assert names(nn.Linear(3, 2)) == ["weight"]
    assert names(nn.MultiheadAttention(4, 2)) == ["in_proj_weight", "out_proj.weight"]
    assert names(nn.Sequential(nn.Linear(3, 2))) == ["0.weight"]


def test_a_convolution_can_be_the_classifier() -> None:
    assert names(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 10, 1), nn.Flatten())) == ["0.weight"]


def test_include_adds_parameters_by_name_and_weights_by_module() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    assert names(model, include=["*.bias"]) == ["0.weight", "0.bias", "1.bias", "2.bias"]
    assert names(model, include=["2"]) == ["0.weight", "2.weight"]
    assert names(model, include=["1.weight"]) == ["0.weight", "1.weight"]


def test_exclude_overrides_include() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Linear(2, 2), nn.Linear(2, 2))
    assert names(model, exclude=["0"]) == ["1.weight"]
    assert names(model, exclude=["0.1"]) == ["0.0.weight", "1.weight"]
    assert names(model, exclude=["0.1.*"], include=["*.bias"]) == [
        "0.0.weight",
        "0.0.bias",
        "1.weight",
        "1.bias",
        "2.bias",
    ]
    assert names(nn.Linear(2, 2), include=["bias"], exclude=["weight"]) == ["bias"]


def test_tied_weights_are_listed_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3, 3)
            self.second = nn.Linear(3, 3)
            self.second.weight = self.first.weight
            self.embedding = nn.Embedding(4, 3)
            self.head = nn.Linear(3, 4)
            self.head.weight = nn.Parameter(self.embedding.weight)

    tied = Tied()
    tied.embedding.weight = tied.head.weight
    assert names(tied) == ["first.weight"]
    assert names(tied, prune_classifier=True) == ["first.weight", "head.weight"]


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (Net(), {"exclude": ["con"]}, r"'con' matches no parameter and no module. Did you mean .*conv"),
        (
            Net(),
            {"include": ["norm"]},
            r"'norm' .*norm\.weight",
        ),
        (Net(), {"exclude": "conv"}, r"exclude=\['conv'\]"),
        (nn.BatchNorm1d(3), {}, r"no prunable weights .* weight, bias"),
        (nn.ReLU(), {}, r"no parameters at all"),
        (nn.Linear(2, 2), {"exclude": ["weight"]}, "no prunable weights"),
        (nn.LazyLinear(2), {}, "run the model on one batch"),
    ],
)
def test_impossible_choices_of_layers_are_refused(
    model: nn.Module, options: dict[str, object], message: str
) -> None:
    with pytest.raises(PruningError, match=message):
        names(model, **options)


def test_computed_weights_are_refused_unless_excluded() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    torch.nn.utils.parametrizations.weight_norm(model[0])
    with pytest.raises(PruningError, match=r"0\.weight is not a parameter but computed"):
        names(model)
    assert names(model, exclude=["0"]) == ["1.weight"]


def test_input_width_is_the_number_of_input_features_or_channels() -> None:
    for module in (nn.Linear(3, 5), nn.Conv2d(3, 6, 1, groups=3), nn.ConvTranspose1d(3, 5, 1)):
        assert input_width(module) == 3
