"""The benchmark: every section runs, its numbers are times, and its contenders do the same job."""

from __future__ import annotations

import pytest
import torch

from pruning.measure import bench


def small_weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"a": torch.randn(40, 30), "b": torch.randn(8, 3, 5, 5)}


def test_our_masks_are_those_of_the_other_ways() -> None:
    weights = small_weights()
    ours = bench.MASK_MAKERS["pruning"](weights)()
    partition = bench.MASK_MAKERS["numpy.partition"](weights)()
    for mask, other in zip(ours.values(), partition, strict=True):
        assert torch.equal(mask, torch.from_numpy(other))
    model = bench._Weights(weights)
    bench._torch_global_unstructured(model)
    for mask, module in zip(ours.values(), model.children(), strict=True):
        assert torch.equal(mask, module.weight_mask.bool())


def test_ratios_are_taken_turn_by_turn() -> None:
    section = bench._section("title", {"first": [1.0, 2.0, 4.0], "other": [2.0, 4.0, 8.0]})
    assert [timing.ratio for timing in section.timings] == [1, 2]
    assert [timing.median for timing in section.timings] == [2, 4]


@pytest.mark.parametrize(("arch", "shape"), [("my", (1, 28, 28)), ("lenet5", (1, 28, 28))])
def test_a_finetuning_step_is_timed_dense_held_and_parametrised(
    arch: str, shape: tuple[int, int, int]
) -> None:
    section = bench.finetuning_step(arch, shape, turns=2)
    assert [timing.name for timing in section.timings] == ["dense", "masks held", "torch.nn.utils.prune"]
    assert all(timing.median > 0 and timing.turns == 2 for timing in section.timings)


def test_an_epoch_is_timed_with_and_without_a_loader() -> None:
    section = bench.epoch(images=256, turns=2)
    assert len(section.timings) == 3


def test_extra_memory_of_the_floor_is_four_bytes_a_weight() -> None:
    extra = bench._extra_memory_in_fresh_process("squeezenet1_1", "abs() of the weights")
    weights = sum(weight.numel() for weight in bench._weights("squeezenet1_1").values())
    assert extra is None or extra == pytest.approx(4 * weights, rel=0.25)


def test_a_shrunk_network_is_timed_beside_the_masked_and_the_dense_one() -> None:
    pytest.importorskip("torch_pruning", reason="the extra shrink is not installed")
    section = bench.shrunk_network("resnet18", turns=2, batch=1)
    assert section.title == "resnet18 without half of its filters, batch 1, 3.75x fewer multiply-adds"
    assert [timing.name for timing in section.timings] == ["dense", "masked", "shrunk"]
