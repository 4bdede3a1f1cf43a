"""Masks: which weights are kept, held through training, saved and loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pruning.errors import PruningError

FORMAT = {"format": "pruning masks 1"}  # one entry: with several, safetensors writes them in any order
ALONG = "along:"  # before the name of what goes along with removed filters, in files


@dataclass(frozen=True)
class LayerMask:
    """One line of `Masks.layers()`: `weights` of them all, `nonzero` of them kept."""

    name: str
    shape: tuple[int, ...]
    weights: int
    nonzero: int

    @property
    def sparsity(self) -> float:
        """The fraction removed, 0 to 1."""
        return (self.weights - self.nonzero) / self.weights


class Masks(Mapping[str, Tensor]):
    """Parameter name -> bool tensor of the parameter's shape, True where the weight is kept.

    `apply` sets removed weights to zero and binds the masks to a model; `hold` keeps the weights of the bound model
    removed through training. The masks themselves never change.

    `along` are masks of biases and normalisations that go with removed filters: applied and held like the others, but
    not counted, as they are no prunable weights.
    """

    def __init__(self, masks: Mapping[str, Tensor], along: Mapping[str, Tensor] | None = None) -> None:
        """Raises PruningError for a mask that is not of bools."""
        self.along = dict(along or {})
        for name, mask in [*masks.items(), *self.along.items()]:
            if mask.dtype != torch.bool:
                raise PruningError(
                    f"The mask of {name} is {mask.dtype}: masks are of bools, True where kept."
                )
        self._masks = dict(masks)
        self._bound: list[tuple[nn.Parameter, Tensor]] = []  # each with where it is kept

    def __getitem__(self, name: str) -> Tensor:
        return self._masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __eq__(self, other: object) -> bool:
        """The same names with the same masks, wherever they lie."""
        if not isinstance(other, Masks):
            return NotImplemented
        own, others = self.tensors(), other.tensors()
        return own.keys() == others.keys() and all(
            torch.equal(mask.cpu(), others[name].cpu()) for name, mask in own.items()
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Masks({self.removed:,} of {self.total:,} weights removed in {len(self)} layers)"

    @cached_property
    def _layers(self) -> list[LayerMask]:
        return [
            LayerMask(name, tuple(mask.shape), mask.numel(), int(mask.count_nonzero()))
            for name, mask in self._masks.items()
        ]

    def layers(self) -> list[LayerMask]:
        """Per layer its name, shape, weights, those kept, and sparsity."""
        return list(self._layers)

    @property
    def total(self) -> int:
        """How many weights the masks decide on."""
        return sum(layer.weights for layer in self._layers)

    @property
    def removed(self) -> int:
        """How many of them are removed."""
        return sum(layer.weights - layer.nonzero for layer in self._layers)

    @property
    def sparsity(self) -> float:
        """The fraction removed, 0 to 1."""
        return self.removed / self.total if self.total else 0.0

    def apply(self, model: nn.Module) -> Masks:
        """Sets the removed weights of `model` to zero, in place, and binds these masks to it; returns them.

        Raises PruningError, before anything is changed, if a mask fits no parameter of the model by name and shape.
        """
        parameters = dict(model.named_parameters(remove_duplicate=False))
        every = {**self._masks, **self.along}
        for name, mask in every.items():
            if name not in parameters:
                raise PruningError(
                    f"These masks are of another network: {type(model).__name__} has no parameter {name}."
                )
            if parameters[name].shape != mask.shape:
                raise PruningError(
                    f"These masks are of another network: the mask of {name} is {_size(mask)}, "
                    f"the parameter of {type(model).__name__} is {_size(parameters[name])}."
                )
        self._bound = [(parameters[name], mask.to(parameters[name].device)) for name, mask in every.items()]
        with torch.no_grad():
            for parameter, kept in self._bound:
                parameter.masked_fill_(~kept, 0)
        return self

    def hold(self, optimizer: torch.optim.Optimizer) -> RemovableHandle:
        """Zeroes the removed weights now and after every step of `optimizer`; the handle's `remove()` ends that.

        Costs a copy of the masks in the weights' dtype, and one multiplication a step. A weight that a step turned
        into NaN or infinity becomes NaN, removed or not: the training has diverged, and that isn't hidden.

        Raises PruningError if the masks are not bound to a model, or the optimizer has none of their weights.
        """
        if not self._bound:
            raise PruningError(
                "These masks are not bound to a model yet: call apply(model) before hold(optimizer)."
            )
        stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        held = [(parameter, mask) for parameter, mask in self._bound if id(parameter) in stepped]
        if not held:
            raise PruningError(
                "The optimizer has none of the weights that these masks are bound to: "
                "make it from the parameters of the model that was pruned."
            )
        parameters: list[Tensor] = [parameter for parameter, _ in held]
        # Laid out like the weights, which may have been laid out anew since the masks were made.
        factors = tuple(torch.empty_like(parameter).copy_(mask) for parameter, mask in held)

        @torch.no_grad()
        def zero_removed(*_: Any) -> None:
            torch._foreach_mul_(parameters, factors)

        zero_removed()
        return optimizer.register_step_post_hook(zero_removed)

    def tensors(self) -> dict[str, Tensor]:
        """All masks as one mapping, for files: those of `along` under their names after "along:"."""
        return {**self._masks, **{ALONG + name: mask for name, mask in self.along.items()}}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Masks:
        """The masks that `tensors` gave."""
        return cls(
            {name: mask for name, mask in tensors.items() if not name.startswith(ALONG)},
            {name.removeprefix(ALONG): mask for name, mask in tensors.items() if name.startswith(ALONG)},
        )

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file of bools, a byte per weight. Raises PruningError if it can't be written."""
        tensors = {name: mask.detach().cpu().contiguous() for name, mask in self.tensors().items()}
        try:
            save_file(tensors, path, metadata=FORMAT)
        except (OSError, SafetensorError) as error:
            raise PruningError(f"Can't write masks to {path}: {error}.") from error

    @classmethod
    def load(cls, path: str | Path) -> Masks:
        """Masks that `save` wrote, on the CPU and bound to no model yet.

        Raises PruningError if the file is missing, is no safetensors file, or holds something else than masks.
        """
        try:
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get("format") != FORMAT["format"]:
                    raise PruningError(f"{path} holds no masks: give a file that Masks.save wrote.")
                return cls.from_tensors({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise PruningError(f"Can't read masks from {path}: {error}.") from error


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a single number"
