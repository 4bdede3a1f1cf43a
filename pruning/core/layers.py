"""Find the prunable parameters of a model.

By default these are the weights of convolution (1d, 2d, 3d, transposed), linear, attention-projection and recurrent
layers, without the classifier (the last registered linear or convolution layer). Biases and normalisations are not
prunable. A layer can be the model itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from pruning.errors import PruningError

CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
RECURRENT = (nn.RNNBase, nn.RNNCellBase)
ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


@dataclass(frozen=True)
class Layer:
    """A prunable parameter.

    Attributes:
        name: Its name in the state dict.
        kind: "conv", "linear", "attention", "recurrent", or "other" for parameters that only a pattern includes.
        type: Class name of its module.
        module: Name of its module ("" if that is the model itself).
    """

    name: str
    kind: str
    type: str
    module: str
    parameter: nn.Parameter

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.parameter.shape)

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.parameter.numel()


def prunable_layers(
    model: nn.Module,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    *,
    prune_classifier: bool = False,
) -> list[Layer]:
    """Return the prunable layers of `model`, in the order of registration.

    A tied parameter is listed once, under the first name that it was registered with.

    Args:
        include, exclude: Shell patterns (fnmatch). A pattern that matches a parameter's name includes or excludes that
            parameter, of any kind. A pattern that matches a module's name applies to everything below that module: it
            excludes all parameters, or includes the weights (not the biases). `exclude` overrides `include`.
        prune_classifier: Include the classifier.

    Raises:
        PruningError: a pattern that matches nothing, or no prunable layer.
    """
    layers = list(_parameters(model))
    included = _matching(model, layers, include, option="include", weights_only=True)
    excluded = _matching(model, layers, exclude, option="exclude", weights_only=False)
    classifier = None if prune_classifier else _classifier(model, layers)

    def eligible(layer: Layer) -> bool:
        by_default = layer.kind != "other" and layer.parameter is not classifier
        return (by_default or id(layer.parameter) in included) and id(layer.parameter) not in excluded

    chosen = [layer for layer in _once(layers) if eligible(layer)]
    _refuse_computed_weights(model, exclude)
    if not chosen:
        raise PruningError(_nothing_prunable(model, layers))
    return chosen


def _parameters(model: nn.Module) -> Iterator[Layer]:
    """Yield every floating-point parameter under each of its names, prunable or not."""
    projections = {
        id(module.out_proj) for module in model.modules() if isinstance(module, nn.MultiheadAttention)
    }
    for module_name, module in model.named_modules():
        for own_name, parameter in module.named_parameters(recurse=False):
            if isinstance(parameter, nn.parameter.UninitializedParameter):
                raise PruningError(
                    f"{_join(module_name, own_name)} has no shape yet: run the model on one batch before pruning it."
                )
            if parameter.is_floating_point():
                kind = (
                    "attention"
                    if id(module) in projections and own_name == "weight"
                    else _kind(module, own_name)
                )
                yield Layer(_join(module_name, own_name), kind, type(module).__name__, module_name, parameter)


def _kind(module: nn.Module, own_name: str) -> str:
    if isinstance(module, CONVOLUTIONS) and own_name == "weight":
        return "conv"
    if isinstance(module, nn.Linear) and own_name == "weight":
        return "linear"
    if isinstance(module, nn.MultiheadAttention) and own_name in ATTENTION_WEIGHTS:
        return "attention"
    if isinstance(module, RECURRENT) and own_name.startswith("weight_"):
        return "recurrent"
    return "other"


def _once(layers: Iterable[Layer]) -> list[Layer]:
    """Return one layer per parameter: under the first name of a prunable kind, else under the first name."""
    first: dict[int, Layer] = {}
    for layer in layers:
        known = first.get(id(layer.parameter))
        if known is None or (known.kind == "other" and layer.kind != "other"):
            first[id(layer.parameter)] = layer
    return list(first.values())


def _classifier(model: nn.Module, layers: list[Layer]) -> nn.Parameter | None:
    """Return the weight of the last linear or convolution layer; None if the model is a single layer."""
    weights = [layer for layer in layers if layer.kind != "other"]
    heads = [layer for layer in weights if layer.kind in ("conv", "linear")]
    single = len({id(layer.parameter) for layer in weights}) < 2 or any(
        layer.module == "" for layer in weights
    )
    return None if single or not heads else heads[-1].parameter


def _matching(
    model: nn.Module, layers: list[Layer], patterns: Iterable[str], *, option: str, weights_only: bool
) -> set[int]:
    """Return the ids of the parameters that the patterns match."""
    if isinstance(patterns, str):
        raise PruningError(f"{option}={patterns!r} is not a list of patterns: write {option}=[{patterns!r}].")
    modules = [name for name, _ in model.named_modules() if name]
    matched: set[int] = set()
    for pattern in patterns:
        below = tuple(f"{name}." for name in modules if fnmatchcase(name, pattern))
        named = [layer for layer in layers if fnmatchcase(layer.name, pattern)]
        inside = [layer for layer in layers if below and layer.name.startswith(below)]
        if weights_only:
            inside = [layer for layer in inside if layer.kind != "other"]
        if not named and not inside:
            raise PruningError(_no_match(option, pattern, [layer.name for layer in layers], modules))
        matched.update(id(layer.parameter) for layer in [*named, *inside])
    return matched


def _no_match(option: str, pattern: str, parameters: list[str], modules: list[str]) -> str:
    if pattern in modules:
        inside = [name for name in parameters if name.startswith(f"{pattern}.")]
        instead = f"give a parameter: {', '.join(inside[:4])}" if inside else "it has no parameters"
        return f"{option} pattern {pattern!r} is a module without prunable weights; {instead}."
    near = difflib.get_close_matches(pattern, [*modules, *parameters], n=3, cutoff=0.5)
    hint = (
        f"Did you mean {' or '.join(near)}?" if near else f"Parameters are {', '.join(parameters[:6])}, ..."
    )
    return f"{option} pattern {pattern!r} matches no parameter and no module. {hint}"


def _refuse_computed_weights(model: nn.Module, exclude: Iterable[str]) -> None:
    """Raise PruningError for weights that are computed in every forward pass: they cannot be pruned."""
    for name, module in model.named_modules():
        if not isinstance(module, (*CONVOLUTIONS, nn.Linear)) or "weight" in module._parameters:
            continue
        weight = _join(name, "weight")
        if not any(fnmatchcase(weight, pattern) or fnmatchcase(name, pattern) for pattern in exclude):
            raise PruningError(
                f"{weight} is not a parameter but computed by a hook or parametrisation, and cannot be pruned: "
                f"make it permanent (torch.nn.utils.prune.remove, remove_parametrizations), or exclude {name!r}."
            )


def _nothing_prunable(model: nn.Module, layers: list[Layer]) -> str:
    found = ", ".join(layer.name for layer in layers[:4]) or "no parameters at all"
    return (
        f"{type(model).__name__} has no prunable weights (convolution, linear, attention or recurrent layers that are "
        f"not excluded). It has {found}: include parameters by name."
    )


def _join(module_name: str, own_name: str) -> str:
    return f"{module_name}.{own_name}" if module_name else own_name


def input_width(module: nn.Module) -> int:
    """Return the input features of a linear layer or the input channels of a convolution."""
    width = module.in_features if isinstance(module, nn.Linear) else module.in_channels
    assert isinstance(width, int)
    return width
