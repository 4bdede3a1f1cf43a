"""Networks on the meta device: built without memory, to count parameters and MACs or to check shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from pruning.models import from_torchvision, names
from pruning.registry import ARCHITECTURES, unknown

FLOPS_PER_MAC = 2
NUM_CLASSES = 10  # for the architectures of this package


def build_meta_model(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """Return the network `name` on the meta device, in evaluation mode, and the image shape of its design.

    Registered architectures have 10 classes; torchvision's have 1000 and the resolution of their weights.
    """
    if name in ARCHITECTURES.names():
        shape = ARCHITECTURES.entry(name).spec.input_shape
        return on_meta_device(lambda: ARCHITECTURES.get(name)(NUM_CLASSES, shape[0])), shape
    if name not in from_torchvision.NAMES:
        raise unknown("architecture", name, names())
    model = on_meta_device(
        lambda: from_torchvision.build(name, from_torchvision.NUM_CLASSES, 3, pretrained=False)
    )
    return model, (3, *from_torchvision.resolution(name, model))


def count_stats(name: str) -> dict[str, Any]:
    """Return the network's `input` ("3x32x32"), `parameters`, and `macs` for one such image."""
    model, shape = build_meta_model(name)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"input": "x".join(map(str, shape)), "parameters": parameters, "macs": _count_macs(model, shape)}


def _count_macs(model: nn.Module, shape: tuple[int, int, int]) -> int:
    from torch.utils.flop_counter import FlopCounterMode  # takes a second to import

    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # FlopCounterMode does not count its fused operations
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(torch.empty(1, *shape, device="meta"))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return counter.get_total_flops() // FLOPS_PER_MAC


def on_meta_device(factory: Callable[[], nn.Module]) -> nn.Module:
    """Build a network on the meta device, in evaluation mode; the random state does not change."""
    with torch.random.fork_rng(devices=[]), _EmptyOnMeta():
        return factory().to("meta").eval()


class _EmptyOnMeta(TorchFunctionMode):
    """Create the tensors of torch.empty, which layers use for their weights, on the meta device.

    `torch.device("meta")` would also move the tensors from which some networks compute their widths.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is torch.empty:
            kwargs = {**kwargs, "device": "meta"}
        return function(*args, **kwargs)
