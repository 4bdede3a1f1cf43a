"""Bytes: a network's tensors in a file that leaves the zeros out, and gives them back bit for bit.

The file is a safetensors file with one tensor of bytes; its metadata lists, in order, every tensor's
name, type, shape, form and number of values. The bytes of a tensor are where its values lie, then the
values themselves. Of these forms each tensor takes the smallest:

======== ================================================================================================
dense    every value, and no places
bitmask  one bit for each element, the first element in the lowest bit of the first byte
gaps8    for each value the number of zeros between it and the value before, one byte each; gaps16, gaps32
         alike with two and four bytes (Han et al., arXiv 1510.00149, store relative indices in this way)
same     nothing: the tensor is that of another name (tied parameters)
======== ================================================================================================

A zero is left out only if all of its bits are zero, so that -0.0 comes back as -0.0.
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
class Stored:
    """Bytes of the same tensors: as an ordinary safetensors file, their non-zero values alone, and packed."""

    dense_bytes: int
    nonzero_bytes: int
    stored_bytes: int


@dataclass(frozen=True)
class Entry:
    """One tensor in the file. `stored_type` is the type of its values there, `type` the one it is given
    back in.
    """

    name: str
    type: str
    stored_type: str
    shape: tuple[int, ...]
    form: str
    values: int
    same_as: str = ""

    @property
    def place_bytes(self) -> int:
        if self.form == "bitmask":
            return -(-prod(self.shape) // 8)
        return self.values * GAPS[self.form].itemsize if self.form in GAPS else 0

    @property
    def value_bytes(self) -> int:
        return self.values * TYPES[self.stored_type].itemsize


def save(tensors: Mapping[str, Tensor], path: Path, *, half: bool = False) -> Stored:
    """Write `tensors` (a state dict) to `path` without their zeros, and say what that saved.

    With `half` the floating-point values are rounded to 16 bits (float16), except in tensors that hold a
    number too large for it. They come back as their own type. Raises PruningError for tensors of a type
    that can't be stored (complex, quantised, sparse).
    """
    content = pack(tensors, half=half)
    files.write_bytes_atomic(path, content)
    return _weigh(tensors, len(content))


def load(path: Path) -> dict[str, Tensor]:
    """The tensors of a file written by `save`, on the CPU. PruningError if it is missing or damaged."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PruningError(f"{path} can't be read: {error.strerror or error}.") from error
    try:
        return unpack(content)
    except PruningError as error:
        raise PruningError(f"{path}: {error}") from error


def weigh(tensors: Mapping[str, Tensor], *, half: bool = False) -> Stored:
    """What `save` would write, counted from the packed bytes themselves."""
    return _weigh(tensors, len(pack(tensors, half=half)))


def pack(tensors: Mapping[str, Tensor], *, half: bool = False) -> bytes:
    """The content of the file that `save` writes."""
    entries, parts = [], []
    first_names: dict[Any, str] = {}
    for name, tensor in tensors.items():
        known = first_names.setdefault(_identity(tensor), name)
        entry, pieces = _same(name, tensor, known) if known != name else _smallest(name, tensor, half)
        entries.append(entry)
        parts += pieces
    data = torch.cat(parts) if parts else torch.empty(0, dtype=torch.uint8)
    layout = json.dumps([list(vars(entry).values()) for entry in entries], separators=(",", ":"))
    return to_safetensors({"data": data}, metadata={**FORMAT, "layout": layout})


def unpack(content: bytes) -> dict[str, Tensor]:
    """The tensors of a file's content. Raises PruningError if it is not what `pack` makes, or damaged."""
    entries, data = _read(content)
    tensors: dict[str, Tensor] = {}
    offset = 0
    for entry in entries:
        end = offset + entry.place_bytes + entry.value_bytes
        try:
            tensors[entry.name] = _restore(entry, data[offset:end], tensors)
        except (RuntimeError, ValueError, KeyError, IndexError, TypeError, OverflowError) as error:
            raise PruningError(f"The tensor {entry.name} is damaged: store it again.") from error
        offset = end
    return tensors


def _weigh(tensors: Mapping[str, Tensor], stored_bytes: int) -> Stored:
    once = {_identity(tensor): (name, tensor) for name, tensor in tensors.items()}
    distinct = {name: tensor.detach().cpu().contiguous() for name, tensor in once.values()}
    nonzero = sum(int(tensor.count_nonzero()) * tensor.element_size() for tensor in distinct.values())
    return Stored(len(to_safetensors(distinct)), nonzero, stored_bytes)


def _identity(tensor: Tensor) -> Hashable:
    """Equal for two names of one tensor; an empty tensor has no memory to tell it by."""
    return (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()) if tensor.numel() else object()


def _same(name: str, tensor: Tensor, known: str) -> tuple[Entry, list[Tensor]]:
    kind = _type_name(name, tensor)
    return Entry(name, kind, kind, tuple(tensor.shape), "same", 0, known), []


def _smallest(name: str, tensor: Tensor, half: bool) -> tuple[Entry, list[Tensor]]:
    kind = _type_name(name, tensor)
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if half:
        flat = _rounded(flat)
    places = flat.view(BITS[flat.element_size()]).nonzero().reshape(-1)
    gaps = places.diff(prepend=torch.tensor([-1])) - 1
    widest = int(gaps.max()) if len(gaps) else 0
    gap_form = next(form for form, dtype in GAPS.items() if widest <= torch.iinfo(dtype).max)
    shape, stored = tuple(tensor.shape), str(flat.dtype).removeprefix("torch.")
    candidates = [
        Entry(name, kind, stored, shape, "dense", flat.numel()),
        Entry(name, kind, stored, shape, "bitmask", len(places)),
        Entry(name, kind, stored, shape, gap_form, len(places)),
    ]
    entry = min(candidates, key=lambda candidate: candidate.place_bytes + candidate.value_bytes)
    if entry.form == "dense":
        return entry, [_as_bytes(flat)]
    where = _bitmask(places, flat.numel()) if entry.form == "bitmask" else gaps.to(GAPS[entry.form])
    return entry, [_as_bytes(where), _as_bytes(flat[places])]


def _type_name(name: str, tensor: Tensor) -> str:
    kind = str(tensor.dtype).removeprefix("torch.")
    if kind not in TYPES or tensor.layout != torch.strided:
        raise PruningError(
            f"The tensor {name} is {kind}, {tensor.layout}, and can't be stored: "
            f"strided tensors of {', '.join(TYPES)} can."
        )
    return kind


def _rounded(flat: Tensor) -> Tensor:
    if flat.dtype not in (torch.float32, torch.float64):
        return flat
    rounded = flat.to(torch.float16)
    return flat if bool((rounded.isinf() & ~flat.isinf()).any()) else rounded


def _as_bytes(flat: Tensor) -> Tensor:
    return flat.view(torch.uint8)


def _bitmask(places: Tensor, count: int) -> Tensor:
    bits = torch.zeros(-(-count // 8) * 8, dtype=torch.uint8)
    bits[places] = 1
    return (bits.view(-1, 8) << torch.arange(8, dtype=torch.uint8)).sum(1, dtype=torch.uint8)


def _bits(mask: Tensor, count: int) -> Tensor:
    bits = (mask.unsqueeze(1) >> torch.arange(8, dtype=torch.uint8)) & 1
    return bits.view(-1)[:count].nonzero().view(-1)


def _restore(entry: Entry, data: Tensor, earlier: Mapping[str, Tensor]) -> Tensor:
    if entry.form == "same":
        return earlier[entry.same_as].view(entry.shape)
    values = data[entry.place_bytes :].clone().view(TYPES[entry.stored_type])
    if entry.form == "dense":
        flat = values
    else:
        flat = torch.zeros(prod(entry.shape), dtype=values.dtype)
        places = _places(entry, data[: entry.place_bytes].clone(), flat.numel())
        flat.view(BITS[flat.element_size()])[places] = values.view(BITS[flat.element_size()])
    return flat.to(TYPES[entry.type]).view(entry.shape)


def _places(entry: Entry, where: Tensor, count: int) -> Tensor:
    if entry.form == "bitmask":
        return _bits(where, count)
    return (where.view(GAPS[entry.form]).to(torch.int64) + 1).cumsum(0) - 1


def _entry(row: list[Any]) -> Entry:
    name, kind, stored, shape, form, values, same_as = row
    return Entry(name, kind, stored, tuple(shape), form, values, same_as)


def _read(content: bytes) -> tuple[list[Entry], Tensor]:
    wrong = "not a file of sparse tensors, or a damaged one: store the network again."
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        about = header["__metadata__"]
        entries = [_entry(row) for row in json.loads(about["layout"])]
        data = from_safetensors(content)["data"].reshape(-1).view(torch.uint8)
        total = sum(entry.place_bytes + entry.value_bytes for entry in entries)
    except (ValueError, KeyError, TypeError, OverflowError, SafetensorError) as error:
        raise PruningError(wrong) from error
    if {key: about.get(key) for key in FORMAT} != FORMAT or total != data.numel():
        raise PruningError(wrong)
    return entries, data
