"""Latency: networks take turns, and values are finite and complete. No test asserts a speed."""

from __future__ import annotations

import json
import re

import pytest
import torch
from torch import nn

from pruning.errors import PruningError
from pruning.measure import latency

SHAPE = (1, 4, 4)


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def test_every_network_is_timed_with_quartiles_at_every_batch_size() -> None:
    result = latency.compare({"dense": small(), "pruned": small()}, SHAPE, (1, 3), seconds=0.01)
    assert result["device"] == "cpu"
    assert result["threads"] == torch.get_num_threads()
    assert result["dtype"] == "float32"
    assert [batch["batch_size"] for batch in result["batches"]] == [1, 3]
    for batch in result["batches"]:
        assert list(batch["networks"]) == ["dense", "pruned"]
        assert batch["turns"] >= latency.MIN_TURNS
        assert batch["networks"]["dense"]["measured_speedup"] == 1.0
        for row in batch["networks"].values():
            assert 0 < row["lower_quartile_ms"] <= row["median_ms"] <= row["upper_quartile_ms"]
            assert row["images_per_second"] == pytest.approx(1000 * batch["batch_size"] / row["median_ms"])


def test_the_result_survives_strict_json() -> None:
    result = latency.compare({"dense": small()}, SHAPE, (1,), seconds=0.01)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_actions_take_turns_and_start_turns_equally_often() -> None:
    calls: list[str] = []
    actions = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    taken = latency.time_in_turns(actions, torch.device("cpu"), seconds=0.0)
    warm_up = 2 * latency.WARM_UP_TURNS
    assert calls[:warm_up] == ["a", "b"] * latency.WARM_UP_TURNS
    assert "".join(calls[warm_up:]) == "abba" * (latency.MIN_TURNS // 2)
    assert len(taken["a"]) == len(taken["b"]) == latency.MIN_TURNS


def test_timing_changes_neither_mode_nor_statistics() -> None:
    model = small().train()
    statistics = model[1].running_mean.clone()
    latency.compare({"dense": model}, SHAPE, (2,), seconds=0.0)
    assert model.training and model[1].training
    assert torch.equal(model[1].running_mean, statistics)


def test_peak_memory_equals_a_hand_count_of_live_tensors() -> None:
    model = nn.Sequential(
        nn.Linear(16, 100, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(100, 1, bias=False)
    )
    result = latency.compare({"dense": model}, (1, 1, 16), (8,), seconds=0.0)
    row = result["batches"][0]["networks"]["dense"]
    # Peak: weights, images, the first layer's output and the ReLU's output (8 x 100 each).
    weights, images, hidden = 16 * 100 + 100 * 1, 8 * 16, 8 * 100
    assert row["peak_memory_bytes"] == 4 * (weights + images + 2 * hidden)
    assert row["peak_memory_of"] == "live tensors"


@pytest.mark.parametrize("batch_sizes", [(), (0,), (1, -2)])
def test_batch_sizes_that_are_not_positive_are_rejected(batch_sizes: tuple[int, ...]) -> None:
    with pytest.raises(PruningError, match=re.escape(str(list(batch_sizes)))):
        latency.compare({"dense": small()}, SHAPE, batch_sizes)


def test_networks_on_several_devices_are_rejected_with_the_devices() -> None:
    with pytest.raises(PruningError, match="cpu, meta"):
        latency.compare({"dense": small(), "pruned": small().to("meta")}, SHAPE)


@pytest.mark.cuda
def test_on_a_gpu_memory_is_measured_by_the_cuda_allocator() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    result = latency.compare({"dense": small().cuda()}, SHAPE, (4,), seconds=0.01)
    row = result["batches"][0]["networks"]["dense"]
    assert result["device"].startswith("cuda")
    assert row["median_ms"] > 0
    assert row["peak_memory_of"] == "CUDA allocator"
