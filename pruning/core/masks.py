"""Masks: which weights are kept. They are applied to a model, held during training, saved and loaded."""

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

FORMAT = {"format": "pruning masks 1"}  # one entry, because safetensors writes several in any order
DEPENDENT_PREFIX = "along:"  # of the names of dependent masks in files; fixed by the file format


@dataclass(frozen=True)
class LayerMask:
    """Summary of one layer's mask.

    Attributes:
        weights: Number of weights.
        nonzero: Number of kept weights.
    """

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
    removed during training. The masks themselves never change.

    Attributes:
        dependent_masks: Masks of biases and normalisations that are removed with filters. They are applied and held
            like the others, but not counted, because their parameters are not prunable.
    """

    def __init__(
        self, masks: Mapping[str, Tensor], dependent_masks: Mapping[str, Tensor] | None = None
    ) -> None:
        """
        Raises:
            PruningError: a mask is not bool.
        """
        self.dependent_masks = dict(dependent_masks or {})
        for name, mask in [*masks.items(), *self.dependent_masks.items()]:
            if mask.dtype != torch.bool:
                raise PruningError(
                    f"The mask of {name} is {mask.dtype}, but masks are torch.bool, True where a weight is kept."
                )
        self._masks = dict(masks)
        self._bound: list[tuple[nn.Parameter, Tensor]] = []  # parameter and mask

    def __getitem__(self, name: str) -> Tensor:
        return self._masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __eq__(self, other: object) -> bool:
        """Return whether names and masks are equal, on any device."""
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
        """Return a summary of each layer's mask."""
        return list(self._layers)

    @property
    def total(self) -> int:
        """Number of weights that have a mask."""
        return sum(layer.weights for layer in self._layers)

    @property
    def removed(self) -> int:
        """Number of removed weights."""
        return sum(layer.weights - layer.nonzero for layer in self._layers)

    @property
    def sparsity(self) -> float:
        """The fraction removed, 0 to 1."""
        return self.removed / self.total if self.total else 0.0

    def apply(self, model: nn.Module) -> Masks:
        """Set the removed weights of `model` to zero, in place, bind these masks to it, and return them.

        Raises:
            PruningError: a mask fits no parameter by name and shape; nothing is changed.
        """
        parameters = dict(model.named_parameters(remove_duplicate=False))
        every = {**self._masks, **self.dependent_masks}
        for name, mask in every.items():
            if name not in parameters:
                raise PruningError(
                    f"These masks belong to another network: {type(model).__name__} has no parameter {name}."
                )
            if parameters[name].shape != mask.shape:
                raise PruningError(
                    f"These masks belong to another network: the mask of {name} is {_size(mask)}, "
                    f"but the parameter of {type(model).__name__} is {_size(parameters[name])}."
                )
        self._bound = [(parameters[name], mask.to(parameters[name].device)) for name, mask in every.items()]
        with torch.no_grad():
            for parameter, kept in self._bound:
                parameter.masked_fill_(~kept, 0)
        return self

    def hold(self, optimizer: torch.optim.Optimizer) -> RemovableHandle:
        """Set the removed weights to zero now and after every step of `optimizer`, until the handle is removed.

        Costs a copy of the masks in the weights' dtype, and one multiplication per step. A weight that a step set to
        NaN or infinity becomes NaN, removed or not, so that diverged training shows.

        Raises:
            PruningError: the masks are not bound to a model, or the optimizer has none of the model's masked weights.
        """
        if not self._bound:
            raise PruningError(
                "These masks are not bound to a model: call apply(model) before hold(optimizer)."
            )
        stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        optimized = [(parameter, mask) for parameter, mask in self._bound if id(parameter) in stepped]
        if not optimized:
            raise PruningError(
                "The optimizer has none of the weights that these masks are bound to: "
                "create it with the parameters of the pruned model."
            )
        parameters: list[Tensor] = [parameter for parameter, _ in optimized]
        # In the weights' memory format, which may have changed since the masks were computed.
        factors = tuple(torch.empty_like(parameter).copy_(mask) for parameter, mask in optimized)

        @torch.no_grad()
        def zero_removed(*_: Any) -> None:
            torch._foreach_mul_(parameters, factors)

        zero_removed()
        return optimizer.register_step_post_hook(zero_removed)

    def tensors(self) -> dict[str, Tensor]:
        """Return all masks as one mapping, for files; the names of dependent masks have a prefix."""
        dependent = {DEPENDENT_PREFIX + name: mask for name, mask in self.dependent_masks.items()}
        return {**self._masks, **dependent}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Masks:
        """Return the masks of a result of `tensors()`."""
        dependent = {name for name in tensors if name.startswith(DEPENDENT_PREFIX)}
        return cls(
            {name: mask for name, mask in tensors.items() if name not in dependent},
            {name.removeprefix(DEPENDENT_PREFIX): tensors[name] for name in tensors if name in dependent},
        )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file of bools, one byte per weight.

        Raises:
            PruningError: the file cannot be written.
        """
        tensors = {name: mask.detach().cpu().contiguous() for name, mask in self.tensors().items()}
        try:
            save_file(tensors, path, metadata=FORMAT)
        except (OSError, SafetensorError) as error:
            raise PruningError(f"Cannot write masks to {path}: {error}.") from error

    @classmethod
    def load(cls, path: str | Path) -> Masks:
        """Read masks that `save` wrote, on the CPU and not bound to a model.

        Raises:
            PruningError: the file is missing, is not a safetensors file, or does not contain masks.
        """
        try:
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get("format") != FORMAT["format"]:
                    raise PruningError(f"{path} contains no masks: give a file that Masks.save wrote.")
                return cls.from_tensors({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise PruningError(f"Cannot read masks from {path}: {error}.") from error


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a single number"
