"""Measured latency and peak memory of networks on this machine.

The networks take turns, batch by batch, so that other load on the machine affects all of them alike. Times are medians
with quartiles, after warm-up turns that are not counted.
"""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from pruning.errors import PruningError
from pruning.measure.environment import environment
from pruning.utils.modules import EagerDispatchMode, eval_mode, zero_images

MIN_TURNS, MAX_TURNS, WARM_UP_TURNS = 10, 1000, 5


def compare(
    networks: Mapping[str, nn.Module],
    shape: tuple[int, int, int],
    batch_sizes: Sequence[int] = (1, 64),
    seconds: float = 2.0,
) -> dict[str, Any]:
    """Time `networks` in turns on random images; the first network is the reference.

    Args:
        networks: Networks on one device; they are timed in evaluation mode, and return to their own mode.
        shape: (channels, height, width) of an image.
        seconds: Time for each batch size, with at least 10 turns and at most 1000.

    Returns:
        Values for JSON::

        {"device": "cpu", "device_name": ..., "threads": 2, "dtype": "float32", "batches": [
            {"batch_size": 1, "turns": 210, "networks": {
                "dense": {"median_ms": .., "lower_quartile_ms": .., "upper_quartile_ms": ..,
                          "images_per_second": .., "measured_speedup": 1.0,
                          "peak_memory_bytes": .., "peak_memory_of": "live tensors"},
                "pruned": {...}}}]}

        `measured_speedup` is the first network's median / this network's median. `peak_memory_bytes` includes
        weights and activations: measured by the allocator on CUDA, elsewhere the sum of the tensors alive at once.

    Raises:
        PruningError: There is no network, they are on several devices, or a batch size is below 1.
    """
    device = _common_device(networks)
    if min(batch_sizes, default=0) < 1:
        raise PruningError(
            f"Batch sizes {list(batch_sizes)} are not all positive. Give at least one, such as 1 64."
        )
    record = environment(device)
    with eval_mode(*networks.values()):
        batches = [_batch(networks, shape, size, seconds, device) for size in batch_sizes]
    images = zero_images(next(iter(networks.values())), 1, shape)
    stated = {key: record[key] for key in ("device", "device_name", "threads")}
    return {**stated, "dtype": str(images.dtype).removeprefix("torch."), "batches": batches}


def time_in_turns(
    actions: Mapping[str, Callable[[], Any]], device: torch.device, seconds: float
) -> dict[str, list[float]]:
    """Return the seconds of each action in each turn; every turn runs all actions, starting with the next one."""
    names, timer = list(actions), _cuda_seconds if device.type == "cuda" else _seconds
    for _ in range(WARM_UP_TURNS):
        for name in names:
            timer(actions[name], device)
    taken: dict[str, list[float]] = {name: [] for name in names}
    end = time.perf_counter() + seconds
    for turn in range(MAX_TURNS):
        if turn >= MIN_TURNS and time.perf_counter() > end:
            break
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            taken[name].append(timer(actions[name], device))
    return taken


def _common_device(networks: Mapping[str, nn.Module]) -> torch.device:
    tensors = [tensor for network in networks.values() for tensor in _tensors(network)]
    devices = {tensor.device for tensor in tensors}
    if len(devices) != 1:
        named = ", ".join(sorted(str(device) for device in devices)) or "no device"
        raise PruningError(f"The networks are on {named}. Move them to one device to compare them.")
    return devices.pop()


def _tensors(network: nn.Module) -> list[torch.Tensor]:
    return [*network.parameters(), *network.buffers()]


def _batch(
    networks: Mapping[str, nn.Module],
    shape: tuple[int, int, int],
    batch_size: int,
    seconds: float,
    device: torch.device,
) -> dict[str, Any]:
    inputs = {name: _random_images(network, batch_size, shape) for name, network in networks.items()}

    def action(name: str) -> Callable[[], Any]:
        return lambda: networks[name](inputs[name])

    with torch.inference_mode():
        taken = time_in_turns({name: action(name) for name in networks}, device, seconds)
    reference = statistics.median(next(iter(taken.values())))
    rows = {}
    for name, network in networks.items():
        memory, how = _peak_memory(network, inputs[name], device)
        rows[name] = {
            **_summary(taken[name], batch_size),
            "measured_speedup": reference / statistics.median(taken[name]),
            "peak_memory_bytes": memory,
            "peak_memory_of": how,
        }
    return {"batch_size": batch_size, "turns": len(taken[name]), "networks": rows}


def _random_images(network: nn.Module, batch_size: int, shape: tuple[int, int, int]) -> torch.Tensor:
    like = zero_images(network, batch_size, shape)
    numbers = torch.randn(like.shape, generator=torch.Generator().manual_seed(0))
    return numbers.to(like)


def _summary(taken: list[float], batch_size: int) -> dict[str, float]:
    lower, median, upper = statistics.quantiles(taken, n=4, method="inclusive")
    return {
        "median_ms": 1000 * median,
        "lower_quartile_ms": 1000 * lower,
        "upper_quartile_ms": 1000 * upper,
        "images_per_second": batch_size / median,
    }


def _seconds(action: Callable[[], Any], device: torch.device) -> float:
    start = time.perf_counter()
    action()
    if device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter() - start


def _cuda_seconds(action: Callable[[], Any], device: torch.device) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    with torch.cuda.device(device):
        start.record()
        action()
        end.record()
        end.synchronize()
    return float(start.elapsed_time(end)) / 1000


def _peak_memory(network: nn.Module, images: torch.Tensor, device: torch.device) -> tuple[int, str]:
    """Return the peak bytes of the network, one batch and its activations together, and the way of measuring."""
    permanent = sum(_bytes(tensor) for tensor in [*_tensors(network), images])
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        network(images)
        torch.cuda.synchronize(device)
        return permanent + torch.cuda.max_memory_allocated(device) - before, "CUDA allocator"
    with _LiveTensors() as live:
        network(images)
    return permanent + live.peak, "live tensors"


def _bytes(tensor: torch.Tensor) -> int:
    if tensor.layout == torch.sparse_csr:
        return sum(_bytes(part) for part in (tensor.crow_indices(), tensor.col_indices(), tensor.values()))
    return tensor.numel() * tensor.element_size()


class _LiveTensors(EagerDispatchMode):
    """Tracks the memory of every tensor that an operation creates, until it is freed.

    Attributes:
        peak: Most bytes alive at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {
            _storage_address(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)
        }
        result = operation(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided:
                self._track(leaf.untyped_storage(), given)
        return result

    def _track(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        if storage in self._seen or storage.data_ptr() in given:
            return
        self._seen.add(storage)
        self._alive += storage.nbytes()
        self.peak = max(self.peak, self._alive)
        weakref.finalize(storage, self._free, storage.nbytes())

    def _free(self, count: int) -> None:
        self._alive -= count


def _storage_address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0
