"""Arrays of numbers in MATLAB's level 5 files (.mat), as SVHN is published; read strictly, without SciPy.

A file is a header of 128 bytes and a list of elements, each a type and a length (32 bits each) and that many
bytes, padded to 8. A compressed element (15) is one matrix element (14) under zlib. A matrix is a list of
elements again: flags, dimensions, name, values (MathWorks, "MAT-File Format", level 5). Values lie column by
column.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from pruning.errors import PruningError

_INTEGERS, _MATRIX, _COMPRESSED = 5, 14, 15
_NUMBERS = {1: torch.int8, 2: torch.uint8, 3: torch.int16, 5: torch.int32, 7: torch.float32, 9: torch.float64}
_MOST_BYTES = 1 << 32


def read_matrices(path: Path) -> dict[str, Tensor]:
    """The arrays in a .mat file by name. Raises PruningError naming the file if it is anything else."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PruningError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        if content[126:128] != b"IM":
            raise ValueError("its header is not that of a level 5 file")
        return dict(_matrix(kind, data) for kind, data in _elements(memoryview(content)[128:]))
    except (ValueError, struct.error, zlib.error) as error:
        raise PruningError(f"{path} is not a sound MATLAB file of arrays: {error}.") from error


def _elements(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    while data:
        kind, length = struct.unpack_from("<II", data)
        begin = 8
        if kind >> 16:  # Four bytes or less are packed into the place of the length.
            kind, length, begin = kind & 0xFFFF, kind >> 16, 4
        if begin + length > len(data):
            raise ValueError("it is cut short")
        yield kind, data[begin : begin + length]
        end = begin + length if kind == _COMPRESSED else -(-(begin + length) // 8) * 8
        data = data[end:]


def _matrix(kind: int, data: memoryview) -> tuple[str, Tensor]:
    if kind == _COMPRESSED:
        stream = zlib.decompressobj()
        unpacked = stream.decompress(data, min(_MOST_BYTES, 1032 * len(data)))
        if not stream.eof:
            raise ValueError("it is cut short")
        ((kind, data),) = _elements(memoryview(unpacked))
    if kind != _MATRIX:
        raise ValueError(f"it holds an element of type {kind}, not a matrix")
    (_, _), (sizes_kind, sizes), (_, name), (values_kind, values) = _elements(data)
    if sizes_kind != _INTEGERS or values_kind not in _NUMBERS:
        raise ValueError("it holds values that are not numbers")
    dtype = _NUMBERS[values_kind]
    shape = struct.unpack(f"<{len(sizes) // 4}i", sizes)
    if not 1 <= len(shape) <= 4 or min(shape) < 1 or math.prod(shape) * dtype.itemsize != len(values):
        raise ValueError(f"a matrix of {'x'.join(map(str, shape))} holds {len(values):,} bytes")
    flat = torch.frombuffer(bytearray(values), dtype=dtype)
    columns_first = flat.view(*reversed(shape))
    return bytes(name).decode("latin1"), columns_first.permute(*reversed(range(len(shape))))
