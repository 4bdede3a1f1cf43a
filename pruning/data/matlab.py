"""Read numeric arrays from MATLAB's level 5 files (.mat), the format of SVHN.

Read by hand, because torchvision's SVHN needs SciPy, which is not a dependency.

A file has a header of 128 bytes and a list of elements. An element has a type and a length (32 bits each), then
its bytes, padded to 8. A compressed element (15) is a matrix element (14) compressed by zlib. A matrix is a
list of elements again: flags, dimensions, name, values (MathWorks, "MAT-File Format", level 5). Values are in
column-major order.
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
from pruning.utils.text import format_shape

INT32, MATRIX, COMPRESSED = 5, 14, 15
DTYPES = {1: torch.int8, 2: torch.uint8, 3: torch.int16, 5: torch.int32, 7: torch.float32, 9: torch.float64}
MAX_MATRIX_BYTES = 1 << 32


def read_matrices(path: Path) -> dict[str, Tensor]:
    """Return the arrays in a .mat file by name.

    Raises:
        PruningError: for a file that is damaged, of another format, or has values that are not numbers.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PruningError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        if content[126:128] != b"IM":
            raise ValueError("it has no header of level 5")
        return dict(_matrix(kind, data) for kind, data in _elements(memoryview(content)[128:]))
    except (ValueError, struct.error, zlib.error) as error:
        raise PruningError(f"{path} is not a valid MATLAB file of arrays: {error}.") from error


def _elements(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    while data:
        kind, length = struct.unpack_from("<II", data)
        start = 8
        if kind >> 16:  # Up to four bytes are stored instead of the length.
            kind, length, start = kind & 0xFFFF, kind >> 16, 4
        if start + length > len(data):
            raise ValueError("it is cut short")
        yield kind, data[start : start + length]
        end = start + length if kind == COMPRESSED else -(-(start + length) // 8) * 8
        data = data[end:]


def _matrix(kind: int, data: memoryview) -> tuple[str, Tensor]:
    if kind == COMPRESSED:
        stream = zlib.decompressobj()
        unpacked = stream.decompress(data, min(MAX_MATRIX_BYTES, 1032 * len(data)))
        if not stream.eof:
            raise ValueError("it is cut short")
        ((kind, data),) = _elements(memoryview(unpacked))
    if kind != MATRIX:
        raise ValueError(f"it has an element of type {kind}, not a matrix ({MATRIX})")
    (_, _), (sizes_kind, sizes), (_, name), (values_kind, values) = _elements(data)
    if sizes_kind != INT32 or values_kind not in DTYPES:
        raise ValueError("it has values that are not numbers")
    dtype = DTYPES[values_kind]
    shape = struct.unpack(f"<{len(sizes) // 4}i", sizes)
    if not 1 <= len(shape) <= 4 or min(shape) < 1 or math.prod(shape) * dtype.itemsize != len(values):
        raise ValueError(f"a matrix of {format_shape(shape)} has {len(values):,} bytes")
    flat = torch.frombuffer(bytearray(values), dtype=dtype)
    transposed = flat.view(*reversed(shape))
    return bytes(name).decode("latin1"), transposed.permute(*reversed(range(len(shape))))
