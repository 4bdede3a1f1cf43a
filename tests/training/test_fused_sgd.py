"""FusedSGD: the bits of torch.optim.SGD, its state, and the hooks around a step."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from pruning.training.fused_sgd import FusedSGD

HYPERPARAMETERS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}


def parameters(*types: torch.dtype) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 3), (7,), (4, 2, 3, 3)]
    return [
        nn.Parameter(torch.randn(shape, generator=generator).to(kind)) for kind in types for shape in shapes
    ]


def set_gradients(seed: int, *lists: list[nn.Parameter], without: int | None = None) -> None:
    """Set the same random gradients in every list, and none for the parameter at index `without`."""
    for group in lists:
        generator = torch.Generator().manual_seed(seed)
        for index, parameter in enumerate(group):
            gradient = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            parameter.grad = None if index == without else gradient


@pytest.mark.parametrize("types", [(torch.float32,), (torch.float32, torch.float64)], ids=str)
def test_every_step_equals_torch_optim_sgd_to_the_bit(types: tuple[torch.dtype, ...]) -> None:
    ours, theirs = parameters(*types), parameters(*types)
    optimizer = FusedSGD(ours, **HYPERPARAMETERS)
    torchs = torch.optim.SGD(theirs, **HYPERPARAMETERS, nesterov=True, fused=True)
    for step in range(5):
        set_gradients(step, ours, theirs)
        for group in (*optimizer.param_groups, *torchs.param_groups):
            group["lr"] = 0.1 / (step + 1)
        optimizer.step()
        torchs.step()
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_parameter_without_a_gradient_is_not_updated() -> None:
    ours = parameters(torch.float32)
    before = [parameter.detach().clone() for parameter in ours]
    optimizer = FusedSGD(ours, **HYPERPARAMETERS)
    set_gradients(0, ours, without=1)
    optimizer.step()
    assert [torch.equal(a, b) for a, b in zip(ours, before, strict=True)] == [False, True, False]
    optimizer.zero_grad()
    optimizer.step()
    assert all(parameter.grad is None for parameter in ours)


def test_steps_continue_from_restored_momentum_buffers() -> None:
    whole, halves = parameters(torch.float32), parameters(torch.float32)
    first, optimizer = FusedSGD(whole, **HYPERPARAMETERS), FusedSGD(halves, **HYPERPARAMETERS)
    for step in range(4):
        set_gradients(step, whole, halves)
        first.step()
        optimizer.step()
        if step == 1:
            kept = [optimizer.state[parameter]["momentum_buffer"].clone() for parameter in halves]
            optimizer = FusedSGD(halves, **HYPERPARAMETERS)
            buffers = [optimizer.state[parameter]["momentum_buffer"] for parameter in halves]
            assert not any(buffer.any() for buffer in buffers)
            for buffer, old in zip(buffers, kept, strict=True):
                buffer.copy_(old)
    assert all(torch.equal(a, b) for a, b in zip(whole, halves, strict=True))


def test_own_and_global_hooks_are_called_before_and_after_every_step() -> None:
    ours = parameters(torch.float32)
    optimizer = FusedSGD(ours, **HYPERPARAMETERS)
    before = ours[0].detach().clone()
    called: list[tuple[str, bool]] = []

    def hook(name: str) -> object:
        return lambda stepped, *_: called.append(
            (name, stepped is optimizer and torch.equal(ours[0], before))
        )

    handles = [
        register_optimizer_step_pre_hook(hook("all, before")),
        optimizer.register_step_pre_hook(hook("before")),
        optimizer.register_step_post_hook(hook("after")),
        register_optimizer_step_post_hook(hook("all, after")),
    ]
    try:
        set_gradients(0, ours)
        optimizer.step()
    finally:
        for handle in handles:
            handle.remove()
    optimizer.step()
    assert called == [("all, before", True), ("before", True), ("after", False), ("all, after", False)]


@pytest.mark.parametrize("momentum", [0.0, -0.5])
def test_a_momentum_that_is_not_above_zero_is_refused(momentum: float) -> None:
    with pytest.raises(ValueError, match=str(momentum)):
        FusedSGD(parameters(torch.float32), lr=0.1, momentum=momentum, weight_decay=0.0)
