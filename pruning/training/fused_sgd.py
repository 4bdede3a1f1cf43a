"""SGD that calls torch's fused kernel without the overhead of torch.optim.SGD.

torch.optim.SGD(fused=True) is bit-identical. It imports torch._dynamo at its first use, and its Python code takes
several times as long as the kernel where a network is small. The figures are in the class.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks


class FusedSGD(torch.optim.Optimizer):
    """Stochastic gradient descent with Nesterov momentum and weight decay.

    Keeps what other code uses of `torch.optim.Optimizer`: `param_groups`, `state` ("momentum_buffer" of every
    parameter, zero before the first step) and the hooks before and after a step.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, lr: float, momentum: float, weight_decay: float
    ) -> None:
        """Args:
        parameters: All on one device. There is one parameter group per dtype, because the kernel takes one dtype.
        momentum: Above 0, because the kernel needs a momentum buffer.

        Raises:
        ValueError: `momentum` is not above 0.
        """
        if momentum <= 0:
            raise ValueError(f"momentum {momentum} must be above 0")
        by_dtype: dict[torch.dtype, list[nn.Parameter]] = {}
        for parameter in parameters:
            by_dtype.setdefault(parameter.dtype, []).append(parameter)
        groups = [{"params": group} for group in by_dtype.values()]
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in by_dtype.values():
            for parameter in group:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set all gradients to None."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for hook in (*_global_optimizer_pre_hooks.values(), *self._optimizer_step_pre_hooks.values()):
            hook(self, (self,), {})
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                torch._fused_sgd_(
                    parameters,
                    [parameter.grad for parameter in parameters],
                    [self.state[parameter]["momentum_buffer"] for parameter in parameters],
                    lr=group["lr"],
                    momentum=group["momentum"],
                    weight_decay=group["weight_decay"],
                    nesterov=True,
                    dampening=0.0,
                    maximize=False,
                    is_first_step=False,
                )
        for hook in (*self._optimizer_step_post_hooks.values(), *_global_optimizer_post_hooks.values()):
            hook(self, (self,), {})

    step.hooked = True  # type: ignore[attr-defined]  # otherwise torch wraps `step` for its profiler
