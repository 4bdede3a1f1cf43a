"""Sparse storage: a state dict in a file without its zeros, lossless bit for bit.

The file is a safetensors file with one tensor of bytes. Its metadata lists, in order, the name, dtype, shape, encoding
and number of values of every tensor. The bytes of a tensor are the indices of its values, then the values. Each tensor
has the smallest of these encodings:

======== ================================================================================================
dense    all values, no indices
bitmask  one bit per element, the first element in the lowest bit of the first byte
gaps8    per value the number of zeros since the previous value, in one byte; gaps16 and gaps32 in two and four bytes
         (relative indices of Han et al., arXiv 1510.00149)
same     nothing: a tied parameter, stored under another name
======== ================================================================================================

A zero is omitted only if all of its bits are zero, so that -0.0 is restored as -0.0.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor

from pruning.errors import PruningError
from pruning.utils import files

FORMAT = {"format": "pruning sparse tensors", "version": "1"}
GAPS = {"gaps8": torch.uint8, "gaps16": torch.uint16, "gaps32": torch.uint32}
TYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}
BITS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}


@dataclass(frozen=True)
class StorageSizes:
    """Bytes of a state dict: as a plain safetensors file, its nonzero values alone, and as a sparse file."""

    dense_bytes: int
    nonzero_bytes: int
    stored_bytes: int


@dataclass(frozen=True)
class TensorEntry:
    """Description of one tensor in the file; its fields, in this order, are the entry in the file's metadata.

    Attributes:
        type: dtype of the restored tensor.
        stored_type: dtype of the values in the file.
        encoding: See the module's docstring.
        values: Number of stored values.
        same_as: Name of the tensor that this one is tied to, for the encoding `same`.
    """

    name: str
    type: str
    stored_type: str
    shape: tuple[int, ...]
    encoding: str
    values: int
    same_as: str = ""

    @property
    def index_bytes(self) -> int:
        if self.encoding == "bitmask":
            return -(-prod(self.shape) // 8)
        return self.values * GAPS[self.encoding].itemsize if self.encoding in GAPS else 0

    @property
    def value_bytes(self) -> int:
        return self.values * TYPES[self.stored_type].itemsize


def save(tensors: Mapping[str, Tensor], path: Path, *, half: bool = False) -> StorageSizes:
    """Write `tensors` (a state dict) to `path` without their zeros, and return the sizes.

    Args:
        half: Round floating-point values to float16, except in tensors with a value too large for it. They are
            restored in their own dtype.

    Raises:
        PruningError: A tensor has a dtype or layout that cannot be stored (complex, quantised, sparse).
    """
    content = pack(tensors, half=half)
    files.write_bytes_atomic(path, content)
    return _sizes(tensors, len(content))


def load(path: Path) -> dict[str, Tensor]:
    """Read a file of `save` to the CPU. Raises PruningError if it is missing or damaged."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PruningError(f"{path} cannot be read: {error.strerror or error}.") from error
    try:
        return unpack(content)
    except PruningError as error:
        raise PruningError(f"{path}: {error}") from error


def measure_sizes(tensors: Mapping[str, Tensor], *, half: bool = False) -> StorageSizes:
    """Return the sizes that `save` would return, without writing a file."""
    return _sizes(tensors, len(pack(tensors, half=half)))


def pack(tensors: Mapping[str, Tensor], *, half: bool = False) -> bytes:
    """Return the content of the file that `save` writes."""
    entries, parts = [], []
    first_names: dict[Any, str] = {}
    for name, tensor in tensors.items():
        known = first_names.setdefault(_storage_key(tensor), name)
        entry, pieces = _tied(name, tensor, known) if known != name else _encode(name, tensor, half)
        entries.append(entry)
        parts += pieces
    data = torch.cat(parts) if parts else torch.empty(0, dtype=torch.uint8)
    layout = json.dumps([list(vars(entry).values()) for entry in entries], separators=(",", ":"))
    return to_safetensors({"data": data}, metadata={**FORMAT, "layout": layout})


def unpack(content: bytes) -> dict[str, Tensor]:
    """Return the tensors of the content of a file. Raises PruningError if it is damaged or not from `pack`."""
    entries, data = _read(content)
    tensors: dict[str, Tensor] = {}
    offset = 0
    for entry in entries:
        end = offset + entry.index_bytes + entry.value_bytes
        try:
            tensors[entry.name] = _restore(entry, data[offset:end], tensors)
        except (RuntimeError, ValueError, KeyError, IndexError, TypeError, OverflowError) as error:
            raise PruningError(f"The tensor {entry.name} is damaged. Export the network again.") from error
        offset = end
    return tensors


def _sizes(tensors: Mapping[str, Tensor], stored_bytes: int) -> StorageSizes:
    once = {_storage_key(tensor): (name, tensor) for name, tensor in tensors.items()}
    distinct = {name: tensor.detach().cpu().contiguous() for name, tensor in once.values()}
    nonzero = sum(int(tensor.count_nonzero()) * tensor.element_size() for tensor in distinct.values())
    return StorageSizes(len(to_safetensors(distinct)), nonzero, stored_bytes)


def _storage_key(tensor: Tensor) -> Hashable:
    """Return a key that is equal for tied tensors only; empty tensors have no address, so their keys are unique."""
    return (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()) if tensor.numel() else object()


def _tied(name: str, tensor: Tensor, known: str) -> tuple[TensorEntry, list[Tensor]]:
    kind = _type_name(name, tensor)
    return TensorEntry(name, kind, kind, tuple(tensor.shape), "same", 0, known), []


def _encode(name: str, tensor: Tensor, half: bool) -> tuple[TensorEntry, list[Tensor]]:
    kind = _type_name(name, tensor)
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if half:
        flat = _rounded(flat)
    indices = flat.view(BITS[flat.element_size()]).nonzero().reshape(-1)
    gaps = indices.diff(prepend=torch.tensor([-1])) - 1
    widest = int(gaps.max()) if len(gaps) else 0
    gap_encoding = next(encoding for encoding, dtype in GAPS.items() if widest <= torch.iinfo(dtype).max)
    shape, stored = tuple(tensor.shape), str(flat.dtype).removeprefix("torch.")
    candidates = [
        TensorEntry(name, kind, stored, shape, "dense", flat.numel()),
        TensorEntry(name, kind, stored, shape, "bitmask", len(indices)),
        TensorEntry(name, kind, stored, shape, gap_encoding, len(indices)),
    ]
    entry = min(candidates, key=lambda candidate: candidate.index_bytes + candidate.value_bytes)
    if entry.encoding == "dense":
        return entry, [_as_bytes(flat)]
    where = _bitmask(indices, flat.numel()) if entry.encoding == "bitmask" else gaps.to(GAPS[entry.encoding])
    return entry, [_as_bytes(where), _as_bytes(flat[indices])]


def _type_name(name: str, tensor: Tensor) -> str:
    kind = str(tensor.dtype).removeprefix("torch.")
    if kind not in TYPES or tensor.layout != torch.strided:
        raise PruningError(
            f"The tensor {name} is {kind} ({tensor.layout}), which cannot be stored. "
            f"Convert it to a strided tensor of {', '.join(TYPES)}."
        )
    return kind


def _rounded(flat: Tensor) -> Tensor:
    if flat.dtype not in (torch.float32, torch.float64):
        return flat
    rounded = flat.to(torch.float16)
    return flat if bool((rounded.isinf() & ~flat.isinf()).any()) else rounded


def _as_bytes(flat: Tensor) -> Tensor:
    return flat.view(torch.uint8)


def _bitmask(indices: Tensor, count: int) -> Tensor:
    bits = torch.zeros(-(-count // 8) * 8, dtype=torch.uint8)
    bits[indices] = 1
    return (bits.view(-1, 8) << torch.arange(8, dtype=torch.uint8)).sum(1, dtype=torch.uint8)


def _set_bits(mask: Tensor, count: int) -> Tensor:
    bits = (mask.unsqueeze(1) >> torch.arange(8, dtype=torch.uint8)) & 1
    return bits.view(-1)[:count].nonzero().view(-1)


def _restore(entry: TensorEntry, data: Tensor, earlier: Mapping[str, Tensor]) -> Tensor:
    if entry.encoding == "same":
        return earlier[entry.same_as].view(entry.shape)
    values = data[entry.index_bytes :].clone().view(TYPES[entry.stored_type])
    if entry.encoding == "dense":
        flat = values
    else:
        flat = torch.zeros(prod(entry.shape), dtype=values.dtype)
        indices = _indices(entry, data[: entry.index_bytes].clone(), flat.numel())
        flat.view(BITS[flat.element_size()])[indices] = values.view(BITS[flat.element_size()])
    return flat.to(TYPES[entry.type]).view(entry.shape)


def _indices(entry: TensorEntry, stored: Tensor, count: int) -> Tensor:
    if entry.encoding == "bitmask":
        return _set_bits(stored, count)
    return (stored.view(GAPS[entry.encoding]).to(torch.int64) + 1).cumsum(0) - 1


def _entry(row: list[Any]) -> TensorEntry:
    name, kind, stored, shape, encoding, values, same_as = row
    return TensorEntry(name, kind, stored, tuple(shape), encoding, values, same_as)


def _read(content: bytes) -> tuple[list[TensorEntry], Tensor]:
    wrong = "not a file of sparse tensors, or damaged. Export the network again."
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        about = header["__metadata__"]
        entries = [_entry(row) for row in json.loads(about["layout"])]
        data = from_safetensors(content)["data"].reshape(-1).view(torch.uint8)
        total = sum(entry.index_bytes + entry.value_bytes for entry in entries)
    except (ValueError, KeyError, TypeError, OverflowError, SafetensorError) as error:
        raise PruningError(wrong) from error
    if {key: about.get(key) for key in FORMAT} != FORMAT or total != data.numel():
        raise PruningError(wrong)
    return entries, data
