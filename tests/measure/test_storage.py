"""Sparse storage: lossless, in the smallest encoding; damaged files are rejected."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from pruning.errors import PruningError
from pruning.measure import storage
from pruning.models import build

INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}


def same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    bits = INTEGERS[first.element_size()]
    alike = first.dtype == second.dtype and first.shape == second.shape
    return alike and torch.equal(first.reshape(-1).view(bits), second.reshape(-1).view(bits))


def encodings(content: bytes) -> dict[str, str]:
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return {row[0]: row[4] for row in json.loads(header["__metadata__"]["layout"])}


def sparse(count: int, kept: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    tensor = torch.zeros(count, dtype=dtype)
    tensor[torch.randperm(count, generator=torch.Generator().manual_seed(0))[:kept]] = 1
    return tensor


@pytest.fixture
def lenet_at_95_percent() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = build("my", classes=10, shape=(1, 28, 28))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            removed = torch.randperm(parameter.numel())[: round(0.95 * parameter.numel())]
            parameter.data.view(-1)[removed] = 0
    return model.state_dict()


def test_a_network_at_95_percent_sparsity_needs_a_tenth_of_the_dense_file(
    lenet_at_95_percent: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    stored = storage.save(lenet_at_95_percent, tmp_path / "sparse")
    assert stored.stored_bytes == (tmp_path / "sparse").stat().st_size
    assert stored.dense_bytes == len(save(lenet_at_95_percent))
    assert stored.stored_bytes <= stored.dense_bytes / 10
    nonzero = sum(int((tensor != 0).sum()) for tensor in lenet_at_95_percent.values())
    assert stored.nonzero_bytes == 4 * nonzero
    loaded = storage.load(tmp_path / "sparse")
    assert list(loaded) == list(lenet_at_95_percent)
    assert all(same_bits(loaded[name], tensor) for name, tensor in lenet_at_95_percent.items())


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_tensor_is_restored_bit_for_bit(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(list(storage.TYPES.values())))
    shape = data.draw(st.lists(st.integers(0, 7), max_size=3))
    kept = data.draw(st.floats(0, 1))
    bits = torch.randint(0, 256, (*shape, dtype.itemsize), dtype=torch.uint8)
    if dtype == torch.bool:
        bits = bits % 2
    tensor = (bits * (torch.rand(*shape, 1) < kept)).contiguous().view(dtype).reshape(shape)
    assert same_bits(storage.unpack(storage.pack({"weight": tensor}))["weight"], tensor)


def test_negative_zeros_denormals_nan_and_infinity_are_restored() -> None:
    special = torch.tensor([0.0, -0.0, 1e-45, float("nan"), float("inf"), -float("inf"), 0.0, 0.0])
    assert same_bits(storage.unpack(storage.pack({"weight": special}))["weight"], special)


@pytest.mark.parametrize(
    ("tensor", "encoding"),
    [
        (torch.ones(1000), "dense"),
        (sparse(1000, 500), "bitmask"),
        (sparse(4000, 200), "gaps8"),
        (torch.zeros(1000).index_fill(0, torch.tensor([0, 900]), 1), "gaps16"),
        (torch.zeros(100_000).index_fill(0, torch.tensor([99_999]), 1), "gaps32"),
        (torch.zeros(1000), "gaps8"),
    ],
)
def test_each_tensor_has_the_smallest_encoding(tensor: torch.Tensor, encoding: str) -> None:
    content = storage.pack({"weight": tensor})
    assert encodings(content) == {"weight": encoding}
    assert same_bits(storage.unpack(content)["weight"], tensor)


def test_the_bytes_of_a_bitmask_equal_a_hand_encoding() -> None:
    content = storage.pack({"mask": torch.tensor([0, 3, 0, 0, 5], dtype=torch.uint8)})
    # The bitmask 0b10010 is smaller than two gaps of one byte each: three bytes in all, the values 3 and 5 last.
    assert encodings(content) == {"mask": "bitmask"}
    assert content[-3:] == bytes([0b10010, 3, 5])


def test_tied_tensors_are_stored_once() -> None:
    weight = torch.randn(50, 50)
    twice = storage.pack({"encoder": weight, "decoder": weight})
    assert len(twice) < 50 * 50 * 4 + 500
    assert same_bits(storage.unpack(twice)["decoder"], weight)


def test_half_rounds_to_float16_and_restores_the_dtype() -> None:
    weight = sparse(4000, 400) * 0.1
    packed = storage.pack({"weight": weight, "steps": torch.tensor(3)}, half=True)
    loaded = storage.unpack(packed)
    assert same_bits(loaded["weight"], weight.half().float())
    assert same_bits(loaded["steps"], torch.tensor(3))
    assert len(storage.pack({"weight": weight})) - len(packed) > 700


def test_half_does_not_round_tensors_with_values_too_large_for_float16() -> None:
    large = torch.tensor([1e6, 1.0001])
    assert same_bits(storage.unpack(storage.pack({"variance": large}, half=True))["variance"], large)


def test_a_transposed_tensor_keeps_its_order() -> None:
    weight = torch.arange(12.0).view(3, 4).t()
    assert same_bits(storage.unpack(storage.pack({"weight": weight}))["weight"], weight.contiguous())


def test_a_complex_tensor_is_rejected_with_its_name_and_dtype() -> None:
    with pytest.raises(PruningError, match="angles is complex64"):
        storage.pack({"angles": torch.zeros(2, dtype=torch.complex64)})


def test_a_missing_file_is_rejected_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(PruningError, match=r"absent .*No such file"):
        storage.load(tmp_path / "absent")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no safetensors",
        save({"data": torch.zeros(3, dtype=torch.uint8)}),
        save({"weight": torch.zeros(3)}),
    ],
)
def test_other_files_are_rejected_with_their_path(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(PruningError, match=str(tmp_path / "other")):
        storage.load(tmp_path / "other")


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_damaged_byte_gives_tensors_or_an_error_of_this_program(place: int, byte: int) -> None:
    content = bytearray(storage.pack({"weight": sparse(400, 60), "bias": torch.ones(5)}))
    content[place % len(content)] = byte
    try:
        loaded = storage.unpack(bytes(content))
    except PruningError:
        return
    assert all(isinstance(tensor, torch.Tensor) for tensor in loaded.values())
