"""The optimizer that runs train with: torch's fused SGD kernel, and next to nothing around it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks


class SGD(torch.optim.Optimizer):
    """Stochastic gradient descent with Nesterov momentum and weight decay, the numbers of torch.optim.SGD.

    What torch.optim.SGD does around its kernel takes several times as long as the kernel where a network is small, and
    imports torch._dynamo at its first use, for a third of the time to a run's first batch. Of `torch.optim.Optimizer`
    this keeps what the rest of the program goes by: `param_groups`, and hooks before and after a step.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, lr: float, momentum: float, weight_decay: float
    ) -> None:
        """`parameters` are all on one device."""
        of_a_type: dict[torch.dtype, list[nn.Parameter]] = {}
        for parameter in parameters:
            of_a_type.setdefault(parameter.dtype, []).append(parameter)
        groups = [
            {"params": group, "momenta": [torch.zeros_like(parameter) for parameter in group]}
            for group in of_a_type.values()
        ]
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def momenta(self) -> list[Tensor]:
        """Of all parameters, always in the same order; zero before the first step."""
        return [momentum for group in self.param_groups for momentum in group["momenta"]]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Go on by the gradients; a parameter that has none stays as it is."""
        for before in (*_global_optimizer_pre_hooks.values(), *self._optimizer_step_pre_hooks.values()):
            before(self, (self,), {})
        for group in self.param_groups:
            every = zip(group["params"], group["momenta"], strict=True)
            moved = [(one, one.grad, momentum) for one, momentum in every if one.grad is not None]
            if moved:
                parameters, gradients, momenta = map(list, zip(*moved, strict=True))
                torch._fused_sgd_(
                    parameters,
                    gradients,
                    momenta,
                    lr=group["lr"],
                    momentum=group["momentum"],
                    weight_decay=group["weight_decay"],
                    nesterov=True,
                    dampening=0.0,
                    maximize=False,
                    is_first_step=False,
                )
        for after in (*self._optimizer_step_post_hooks.values(), *_global_optimizer_post_hooks.values()):
            after(self, (self,), {})

    step.hooked = True  # type: ignore[attr-defined]  # else torch wraps it, to record it for its profiler
