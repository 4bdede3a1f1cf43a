"""Batches: every image once, normalised, in the given order, from any start; augmented by seed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pruning.data import Split
from pruning.data.splits import batch_generator, crop_and_flip

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def split_of(count: int, size: int = 16, augmentation: str | None = None) -> Split:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    return Split(inputs, torch.arange(count), MEAN, STD, augmentation)


def concatenate(batches: object) -> tuple[Tensor, Tensor]:
    inputs, targets = zip(*batches, strict=True)  # type: ignore[call-overload]
    return torch.cat(inputs), torch.cat(targets)


def test_inputs_are_scaled_to_0_to_1_and_normalised_per_channel() -> None:
    split = split_of(7)
    inputs, targets = concatenate(split.batches(3))
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(inputs, (split.inputs / 255 - mean) / std)
    assert inputs.dtype == torch.float32
    assert targets.tolist() == list(range(7))


def test_the_last_batch_has_the_remaining_images() -> None:
    assert [len(targets) for _, targets in split_of(10).batches(4)] == [4, 4, 2]
    assert [len(targets) for _, targets in split_of(8).batches(4)] == [4, 4]


@given(st.integers(0, 40), st.integers(1, 50), st.integers(0, 2**31))
def test_any_order_yields_every_image_once_in_that_order(count: int, batch_size: int, seed: int) -> None:
    split = Split(torch.zeros(count, 1, 2, 2, dtype=torch.uint8), torch.arange(count), (0.5,), (0.5,))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    seen = [target for _, targets in split.batches(batch_size, order=order) for target in targets.tolist()]
    assert seen == order.tolist()


def test_batches_without_order_equal_batches_in_ascending_order() -> None:
    split = split_of(10)
    by_slice, by_index = split.batches(4), split.batches(4, order=torch.arange(10))
    for (left, _), (right, _) in zip(by_slice, by_index, strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("augmentation", [None, "crop_and_flip"])
@pytest.mark.parametrize("start", [0, 1, 3, 4])
def test_an_epoch_resumed_at_any_batch_is_bit_identical(start: int, augmentation: str | None) -> None:
    split, order = split_of(30, augmentation=augmentation), torch.randperm(30)
    whole = list(split.batches(8, order=order, augmentation_seed=5))
    rest = list(split.batches(8, order=order, augmentation_seed=5, start=start))
    assert len(rest) == 4 - start
    for (left, left_targets), (right, right_targets) in zip(whole[start:], rest, strict=True):
        assert torch.equal(left, right)
        assert torch.equal(left_targets, right_targets)


def test_batches_do_not_change_the_images_or_the_random_state() -> None:
    split = split_of(9, augmentation="crop_and_flip")
    before, state = split.inputs.clone(), torch.get_rng_state()
    for inputs, _ in split.batches(4, augmentation_seed=1):
        inputs.zero_()
    assert torch.equal(split.inputs, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_channels_last_changes_only_the_memory_format() -> None:
    split = split_of(6)
    for (plain, _), (last, _) in zip(split.batches(4), split.batches(4, channels_last=True), strict=True):
        assert torch.equal(plain, last)
        assert last.is_contiguous(memory_format=torch.channels_last)


def test_images_are_augmented_only_with_a_seed_and_an_augmentation() -> None:
    plain, _ = concatenate(split_of(12).batches(5))
    assert torch.equal(concatenate(split_of(12).batches(5, augmentation_seed=3))[0], plain)
    assert torch.equal(concatenate(split_of(12, augmentation="crop_and_flip").batches(5))[0], plain)
    augmented = split_of(12, augmentation="crop_and_flip")
    one, other = (
        concatenate(augmented.batches(5, augmentation_seed=3))[0],
        concatenate(augmented.batches(5, augmentation_seed=4))[0],
    )
    assert not torch.equal(one, plain)
    assert not torch.equal(one, other)


def test_crop_and_flip_is_a_window_of_the_padded_image_or_its_mirror_image() -> None:
    """Reference: for each image padded by an eighth, compare every window and its mirror image."""
    inputs = torch.randint(1, 256, (40, 3, 16, 16), dtype=torch.uint8)
    padded = torch.nn.functional.pad(inputs, (2, 2, 2, 2))
    found = set()
    for image, result in zip(padded, crop_and_flip(inputs, torch.Generator().manual_seed(0)), strict=True):
        matches = [
            (down, right, mirrored)
            for down in range(5)
            for right in range(5)
            for mirrored in (False, True)
            for window in [image[:, down : down + 16, right : right + 16]]
            if torch.equal(window.flip(2) if mirrored else window, result)
        ]
        assert len(matches) == 1
        found.update(matches)
    assert {down for down, _, _ in found} == {right for _, right, _ in found} == set(range(5))
    assert {mirrored for _, _, mirrored in found} == {False, True}


def test_every_seed_and_batch_has_its_own_random_numbers() -> None:
    draws = {
        tuple(torch.randint(0, 1 << 30, (2,), generator=batch_generator(seed, index)).tolist())
        for seed in range(30)
        for index in range(30)
    }
    assert len(draws) == 900


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
def test_batches_on_a_gpu_equal_those_on_the_cpu() -> None:
    host = split_of(20, augmentation="crop_and_flip")
    device = Split(host.inputs.cuda(), host.targets.cuda(), MEAN, STD, "crop_and_flip")
    order = torch.randperm(20)
    pairs = zip(
        host.batches(8, order=order, augmentation_seed=1),
        device.batches(8, order=order, augmentation_seed=1),
        strict=True,
    )
    for (left, left_targets), (right, right_targets) in pairs:
        assert right.is_cuda
        torch.testing.assert_close(left, right.cpu())
        assert torch.equal(left_targets, right_targets.cpu())
