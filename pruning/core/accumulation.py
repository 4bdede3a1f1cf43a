"""What scores need to know of a training: added up at every step of its optimizer.

An accumulator is a function ``(sums, weights, gradients) -> None`` over lists of tensors, one for each layer, that adds
one step to the sums, in place; it is entered under its name in `ACCUMULATORS`, and a score names what it `accumulates`.
It is called right before a step: with the weights that the gradients are of, and gradients as the optimizer gets them,
which is before weight decay and momentum and, where several batches make one step, of all of them.

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
from pruning.registry import unknown


class Accumulated(Mapping[str, Mapping[str, Tensor]]):
    """What was added up -> layer name -> the sum, a float32 tensor of the layer's shape and on its device."""

    def __init__(self, names: Iterable[str], layers: Sequence[Layer]) -> None:
        """Sums over no step yet. PruningError for a name that is not in `ACCUMULATORS`."""
        self._layers = layers
        self._sums: dict[str, dict[str, Tensor]] = {}
        for name in names:
            if name not in ACCUMULATORS:
                raise unknown("accumulator of a score", name, ACCUMULATORS)
            self._sums[name] = {
                layer.name: torch.zeros_like(layer.parameter, dtype=torch.float32, requires_grad=False)
                for layer in layers
            }

    def __getitem__(self, name: str) -> Mapping[str, Tensor]:
        return self._sums[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sums)

    def __len__(self) -> int:
        return len(self._sums)

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Adds up at every step of `optimizer` from now on; if nothing is to be added up, the steps are left alone.

        A layer without a gradient does not take part in a step. Gradients that a GradScaler has scaled are to be
        unscaled (`unscale_`) before the step. A step that is given a closure, which computes its gradients within it,
        raises PruningError.
        """
        for name, sums in self._sums.items():
            optimizer.register_step_pre_hook(_adding(ACCUMULATORS[name], sums, self._layers))

    def clear(self) -> None:
        """Begins all sums anew, as is due after a pruning."""
        for sum_ in self.tensors().values():
            sum_.zero_()

    def tensors(self) -> dict[str, Tensor]:
        """All sums as one mapping, for files: `name.layer`."""
        return {f"{name}.{layer}": sum_ for name, sums in self._sums.items() for layer, sum_ in sums.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Goes on from the sums that `tensors` gave."""
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
    """Adds up what `method` goes by at every step of `optimizer` from now on, for `prune` to be given afterwards.

    `include`, `exclude` and `prune_classifier` are those of `prune`. After a pruning, `clear()` begins anew.
    PruningError for a method that goes by nothing of the kind.
    """
    names = methods.accumulates(method)
    if not names:
        raise PruningError(f"{method} goes by nothing that adds up over training: prune with it as it is.")
    accumulated = Accumulated(
        names, prunable_layers(model, include, exclude, prune_classifier=prune_classifier)
    )
    accumulated.follow(optimizer)
    return accumulated


def add_movement(sums: list[Tensor], weights: list[Tensor], gradients: list[Tensor]) -> None:
    """- w x dL/dw: positive for a weight that the step moves away from zero (Sanh et al. 2020, arXiv 2005.07683).

    A removed weight is zero, and adds nothing.
    """
    torch._foreach_addcmul_(sums, weights, gradients, value=-1)


ACCUMULATORS: dict[str, Callable[[list[Tensor], list[Tensor], list[Tensor]], None]] = {
    "movement": add_movement,
}


def _adding(
    accumulator: Callable[[list[Tensor], list[Tensor], list[Tensor]], None],
    sums: Mapping[str, Tensor],
    layers: Sequence[Layer],
) -> Callable[..., None]:
    """A hook that adds one step of the layers to their sums."""

    @torch.no_grad()
    def add(optimizer: torch.optim.Optimizer, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        if any(argument is not None for argument in (*given[1:], named.get("closure"))):
            raise PruningError(
                "What adds up over training goes by the gradients before a step, which a step with a closure computes "
                "within it: call step() without one, after backward()."
            )
        moved = [
            (sums[layer.name], layer.parameter, layer.parameter.grad)
            for layer in layers
            if layer.parameter.grad is not None
        ]
        if moved:
            accumulator(*map(list, zip(*moved, strict=True)))

    return add
