"""Benchmark: contenders do the same job, every section runs, and ratios are computed turn by turn."""

from __future__ import annotations

import sys

import pytest
import torch

from pruning.measure.bench.processes import extra_memory, worker
from pruning.measure.bench.pruning_step import MASK_MAKERS, random_weights
from pruning.measure.bench.shrunk_network import time_shrunk_network
from pruning.measure.bench.startup import time_startup
from pruning.measure.bench.timing import Section, run_in_turns, summarize
from pruning.measure.bench.training import (
    epoch_from_memory,
    repeated_dataset,
    time_epoch,
    time_finetuning_step,
)


def names(section: Section) -> list[str]:
    return [timing.name for timing in section.timings]


def assert_timed(section: Section, turns: int) -> None:
    """Every contender took some time in every turn, and the first is its own reference."""
    assert all(0 < timing.lower <= timing.median <= timing.upper for timing in section.timings)
    assert {timing.turns for timing in section.timings} == {turns}
    assert section.timings[0].ratio == 1


def test_all_mask_makers_make_the_same_masks() -> None:
    torch.manual_seed(0)
    weights = {"a": torch.randn(40, 30), "b": torch.randn(8, 3, 5, 5)}
    masks = list(MASK_MAKERS["pruning"](weights)().values())
    partition = MASK_MAKERS["numpy.partition"](weights)()
    pruned = MASK_MAKERS["torch.nn.utils.prune"](weights)().children()
    assert len(masks) == len(weights)
    for mask, other, layer in zip(masks, partition, pruned, strict=True):
        assert torch.equal(mask, torch.from_numpy(other))
        assert torch.equal(mask, layer.weight_mask.bool())


def test_contenders_run_in_another_order_each_turn_and_the_warm_up_is_not_counted() -> None:
    calls: list[str] = []

    def contender(name: str) -> float:
        calls.append(name)
        return len(calls)

    times = run_in_turns({name: lambda name=name: contender(name) for name in "abc"}, turns=6)
    turns = ["".join(calls[first : first + 3]) for first in range(0, len(calls), 3)]
    assert [sorted(turn) for turn in turns] == [["a", "b", "c"]] * 7
    assert len(set(turns)) > 1
    assert times["a"] == [3 * turn + order.index("a") + 1 for turn, order in enumerate(turns) if turn > 0]


def test_ratios_are_computed_turn_by_turn() -> None:
    # Ratio of the medians: 5 / 2. Median of the ratios 5, 1 and 2: 2.
    section = summarize("title", {"first": [1.0, 2.0, 4.0], "other": [5.0, 2.0, 8.0]})
    assert [timing.ratio for timing in section.timings] == [1, 2]
    assert [timing.median for timing in section.timings] == [2, 5]


@pytest.mark.parametrize(("arch", "shape"), [("my", (1, 28, 28)), ("lenet5", (1, 28, 28))])
def test_a_finetuning_step_is_timed_dense_with_masks_and_parametrised(
    arch: str, shape: tuple[int, int, int]
) -> None:
    section = time_finetuning_step(arch, shape, turns=2)
    assert names(section) == ["dense", "masks held", "torch.nn.utils.prune"]
    assert_timed(section, turns=2)


def test_an_epoch_is_timed_from_memory_and_from_a_loader_with_and_without_workers() -> None:
    section = time_epoch(images=256, turns=2)
    assert names(section) == ["images held in memory", "DataLoader, no workers", "DataLoader, 2 workers"]
    assert_timed(section, turns=2)


def test_a_repeated_dataset_has_the_given_number_of_images_and_can_be_trained() -> None:
    images = repeated_dataset(300)
    assert len(images.train) == 300
    epoch_from_memory(images)()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports the peak memory of a process")
def test_extra_memory_of_abs_is_four_bytes_per_weight() -> None:
    weights = sum(weight.numel() for weight in random_weights("squeezenet1_1").values())
    assert extra_memory("squeezenet1_1", "abs() of the weights") == pytest.approx(4 * weights, rel=0.25)


def test_a_worker_that_fails_is_an_error() -> None:
    # The worker's message is lost if the worker ends before the request is written.
    with (
        worker("mask", "no_such_network", "pruning") as contender,
        pytest.raises((RuntimeError, BrokenPipeError)),
    ):
        contender()


def test_a_shrunk_network_is_timed_next_to_the_masked_and_the_dense_one() -> None:
    pytest.importorskip("torch_pruning", reason="the extra shrink is not installed")
    section = time_shrunk_network("resnet18", turns=2, batch=1)
    assert section.title == "resnet18 without half of its filters, batch 1, 3.75x fewer MACs"
    assert names(section) == ["dense", "masked", "shrunk"]
    assert_timed(section, turns=2)


def test_startup_times_whole_processes() -> None:
    section = time_startup(turns=2)
    assert names(section) == ["import torch", "--help", "list methods", "a run's first batch"]
    assert_timed(section, turns=2)
