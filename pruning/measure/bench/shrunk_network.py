"""Benchmark of inference without half of the filters: dense, masked, shrunk."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from pruning import models
from pruning.core.prune import prune
from pruning.measure import shrink
from pruning.measure.bench.timing import Contender, Section, run_in_turns, summarize, timed
from pruning.measure.macs import count_macs

SHAPE = (3, 224, 224)


def time_shrunk_network(arch: str, turns: int, batch: int = 8) -> Section:
    """Time torchvision's `arch` with half of every layer's filters pruned by their L1 norms."""
    torch.manual_seed(0)
    dense = models.build(arch, classes=1000, shape=SHAPE).eval().to(memory_format=torch.channels_last)
    images = torch.randn(batch, *SHAPE).contiguous(memory_format=torch.channels_last)
    masked = copy.deepcopy(dense)
    prune(masked, "layer_l1", 0.5, structure="filter", batches=[(images, torch.zeros(batch))])
    small = shrink.shrink(masked, images).model
    networks = {"dense": dense, "masked": masked, "shrunk": small}
    speedup = count_macs(dense, SHAPE).macs / count_macs(small, SHAPE).macs
    contenders = {name: _inference(network, images) for name, network in networks.items()}
    title = f"{arch} without half of its filters, batch {batch}, {speedup:.2f}x fewer MACs"
    return summarize(title, run_in_turns(contenders, turns))


def _inference(network: nn.Module, images: Tensor) -> Contender:
    return timed(torch.inference_mode()(lambda: network(images)))
