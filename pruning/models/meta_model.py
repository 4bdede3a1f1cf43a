"""Networks without memory: made on torch's meta device, to be counted or tried in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from pruning.models import from_torchvision, names
from pruning.registry import ARCHITECTURES, unknown

FLOPS_PER_MULTIPLY_ADD = 2
CLASSES = 10  # of the data sets that our own architectures are made for


def blueprint(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """The network `name` on the meta device, in evaluation mode, and the shape of image that it was made for.

    Ours have 10 classes, torchvision's 1000 and the resolution of their published weights. Raises
    PruningError for a name that is neither.
    """
    if name in ARCHITECTURES.names():
        shape = ARCHITECTURES.entry(name).spec.input_shape
        return unallocated(lambda: ARCHITECTURES.get(name)(CLASSES, shape[0])), shape
    if name not in from_torchvision.NAMES:
        raise unknown("architecture", name, names())
    model = unallocated(lambda: from_torchvision.make(name, from_torchvision.CLASSES, 3, pretrained=False))
    return model, (3, *from_torchvision.resolution(name, model))


def facts(name: str) -> dict[str, Any]:
    """Of the network `name`: `input` ("3x32x32"), `parameters` and `macs` (counts); errors as of `blueprint`.

    `macs` are the multiply-adds for one such image, as torch's flop counter counts them.
    """
    model, shape = blueprint(name)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"input": "x".join(map(str, shape)), "parameters": parameters, "macs": _macs(model, shape)}


def _macs(model: nn.Module, shape: tuple[int, int, int]) -> int:
    from torch.utils.flop_counter import FlopCounterMode  # which takes a second to load

    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it fuses products that the counter would not see
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(torch.empty(1, *shape, device="meta"))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return counter.get_total_flops() // FLOPS_PER_MULTIPLY_ADD


def unallocated(make: Callable[[], nn.Module]) -> nn.Module:
    """What `make` builds, on the meta device and in evaluation mode; random state is left as it was."""
    with torch.random.fork_rng(devices=[]), _EmptyOnMeta():
        return make().to("meta").eval()


class _EmptyOnMeta(TorchFunctionMode):
    """Within, torch.empty, from which layers take their weights, allocates nothing.

    A `with torch.device("meta")` would also move the tensors that some networks calculate their widths with.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is torch.empty:
            kwargs = {**kwargs, "device": "meta"}
        return function(*args, **kwargs)
