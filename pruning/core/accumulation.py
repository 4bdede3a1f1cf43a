"""Accumulated statistics: sums over the steps of a training, for scores such as movement.

An accumulator is a registered function ``(sums, weights, gradients) -> None`` over lists of tensors, one for each
layer; it adds one step to the sums, in place. A score lists the names of its accumulators in `ScoreSpec.accumulates`.
The function is called right before every optimizer step, with the weights before the step and the gradients that the
optimizer receives: before weight decay and momentum, and over all batches of the step.

    movement = pruning.accumulate(model, optimizer, "global_movement")
    ...  # train
    masks = pruning.prune(model, "global_movement", accumulated=movement)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pruning.axes import methods
from pruning.core.layers import Layer, prunable_layers
from pruning.errors import PruningError
from pruning.registry import ACCUMULATORS


class Accumulated(Mapping[str, Mapping[str, Tensor]]):
    """Accumulator -> layer name -> the sum over the steps so far, float32, of the layer's shape and on its device."""

    def __init__(self, names: Iterable[str], layers: Sequence[Layer]) -> None:
        """Start with sums of zero.

        Raises:
            PruningError: unknown accumulator.
        """
        self._layers = layers
        self._functions = {name: ACCUMULATORS.get(name) for name in names}
        self._sums = {
            name: {
                layer.name: torch.zeros_like(layer.parameter, dtype=torch.float32, requires_grad=False)
                for layer in layers
            }
            for name in self._functions
        }

    def __getitem__(self, name: str) -> Mapping[str, Tensor]:
        return self._sums[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sums)

    def __len__(self) -> int:
        return len(self._sums)

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Accumulate at every step of `optimizer` from now on. Without accumulators there is no hook.

        A layer without a gradient is skipped. Unscale the gradients of a GradScaler (`unscale_`) before the step. A
        step with a closure raises PruningError, because the closure computes the gradients inside the step.
        """
        for name, function in self._functions.items():
            optimizer.register_step_pre_hook(_step_hook(function, self._sums[name], self._layers))

    def clear(self) -> None:
        """Set all sums to zero, as after a pruning step."""
        for sum_ in self.tensors().values():
            sum_.zero_()

    def tensors(self) -> dict[str, Tensor]:
        """Return all sums as one mapping, for files: `accumulator.layer`."""
        return {f"{name}.{layer}": sum_ for name, sums in self._sums.items() for layer, sum_ in sums.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the sums from a result of `tensors()`."""
        for name, sum_ in self.tensors().items():
            sum_.copy_(tensors[name])


def accumulate(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    method: str,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    *,
    prune_classifier: bool = False,
) -> Accumulated:
    """Accumulate at every step of `optimizer` what the scores of `method` read; the result is an argument of `prune`.

    Call `clear()` on the result after a pruning step. `include`, `exclude` and `prune_classifier` are those of `prune`.

    Raises:
        PruningError: the scores of this method do not accumulate.
    """
    names = methods.accumulates(method)
    if not names:
        raise PruningError(
            f"Method {method} accumulates nothing during training: call prune without accumulated."
        )
    accumulated = Accumulated(
        names, prunable_layers(model, include, exclude, prune_classifier=prune_classifier)
    )
    accumulated.follow(optimizer)
    return accumulated


def sums_for_method(
    method: str, accumulated: Mapping[str, Mapping[str, Tensor]], layers: Sequence[Layer]
) -> dict[str, Mapping[str, Tensor]]:
    """Return accumulator -> layer name -> sum, on the layer's device, of what a method reads.

    Raises:
        PruningError: the sum of a layer is missing or has another shape.
    """
    found: dict[str, Mapping[str, Tensor]] = {}
    for name in methods.accumulates(method):
        sums = accumulated.get(name, {})
        for layer in layers:
            if layer.name not in sums or tuple(sums[layer.name].shape) != layer.shape:
                raise PruningError(
                    f"Method {method} needs the {name} of {layer.name}, accumulated during training: "
                    f"give accumulated, a result of pruning.accumulate(model, optimizer, {method!r})."
                )
        found[name] = {layer.name: sums[layer.name].to(layer.parameter.device) for layer in layers}
    return found


@ACCUMULATORS.register("movement", source="Sanh et al. 2020, arXiv 2005.07683")
def add_movement(sums: list[Tensor], weights: list[Tensor], gradients: list[Tensor]) -> None:
    """- w x dL/dw: positive for a weight that the step moves away from zero

    Pruned weights are zero and add nothing.
    """
    torch._foreach_addcmul_(sums, weights, gradients, value=-1)


def _step_hook(
    accumulator: Callable[[list[Tensor], list[Tensor], list[Tensor]], None],
    sums: Mapping[str, Tensor],
    layers: Sequence[Layer],
) -> Callable[..., None]:
    """Return a hook that adds one optimizer step to the sums."""

    @torch.no_grad()
    def add(optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if any(argument is not None for argument in (*args[1:], kwargs.get("closure"))):
            raise PruningError(
                "step(closure) computes the gradients inside the step, but they are accumulated before it: call "
                "backward() and then step() without a closure."
            )
        terms = [
            (sums[layer.name], layer.parameter, layer.parameter.grad)
            for layer in layers
            if layer.parameter.grad is not None
        ]
        if terms:
            accumulator(*map(list, zip(*terms, strict=True)))

    return add
