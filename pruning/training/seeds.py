"""Seeds: everything random in a run is drawn from a generator that is seeded by the run's seed and the position."""

from __future__ import annotations

import hashlib
import random
import sys

import torch


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed for one purpose, such as `derive_seed(seed, "shuffle", epoch)`.

    Because every draw has its own seed, no generator state outlives a batch and a checkpoint stores none.
    """
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


def seed_everything(seed: int, device: torch.device) -> None:
    """Seed torch, Python and NumPy, from which a network may draw in its forward pass (dropout, stochastic depth).

    torch.manual_seed also seeds every other device, which takes 0.1 ms: too long for every batch.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)
