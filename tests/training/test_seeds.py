"""Seeds: different for every purpose, and set for every generator that a network may draw from."""

from __future__ import annotations

import random

import numpy
import torch

from pruning.training.seeds import derive_seed, seed_everything


def test_seeds_for_different_purposes_differ() -> None:
    seeds = {derive_seed(0, "shuffle", epoch) for epoch in range(1000)}
    seeds |= {derive_seed(0, "augment", 0), derive_seed(1)}
    assert len(seeds) == 1002
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeding_determines_torch_python_and_numpy() -> None:
    drawn = []
    for _ in range(2):
        seed_everything(derive_seed(5), torch.device("cpu"))
        drawn.append((float(torch.rand(1)), random.random(), numpy.random.rand()))
    assert drawn[0] == drawn[1]
