"""Cache files of decoded images: one line of metadata, then the pixels as they are in memory.

A cache file only saves time: one that is missing, outdated or damaged is read as None, and one that cannot be
written is skipped. Metadata and pixels each have a CRC-32, so that a damaged file is detected.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pruning.utils.files import atomic_file


def cache_folder() -> Path:
    """Return the folder of downloads and decoded images: `pruning` in $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pruning"


def load_metadata(path: Path, key: str) -> dict[str, Any] | None:
    """Return the metadata saved with `key`; None if there are none or their key differs."""
    try:
        with path.open("rb") as file:
            header = _parse_header(file.readline())
    except (OSError, ValueError):
        return None
    return header["facts"] if header["key"] == key else None


def load_buffers(path: Path, sizes: Sequence[int]) -> list[bytearray] | None:
    """Return the buffers of these sizes (bytes) that were saved with the metadata; None if they are damaged."""
    try:
        with path.open("rb") as file:
            header = _parse_header(file.readline())
            if path.stat().st_size != file.tell() + sum(sizes):
                return None
            buffers = [bytearray(size) for size in sizes]
            for buffer in buffers:
                file.readinto(buffer)
    except (OSError, ValueError):
        return None
    return buffers if _crc32(buffers) == header["crc32"] else None


def save(path: Path, key: str, metadata: dict[str, Any], buffers: Sequence[bytearray] = ()) -> None:
    """Write a cache file atomically; do nothing if it cannot be written."""
    header = json.dumps({"key": key, "facts": metadata, "crc32": _crc32(buffers)}).encode()
    with contextlib.suppress(OSError), atomic_file(path) as temporary, temporary.open("wb") as file:
        file.write(b"%08x %b\n" % (zlib.crc32(header), header))
        for buffer in buffers:
            file.write(buffer)


def _crc32(buffers: Sequence[bytearray]) -> int:
    checksum = 0
    for buffer in buffers:
        checksum = zlib.crc32(buffer, checksum)
    return checksum


def _parse_header(line: bytes) -> dict[str, Any]:
    checksum, _, header = line.rstrip(b"\n").partition(b" ")
    if int(checksum, 16) != zlib.crc32(header):
        raise ValueError("damaged header")
    return json.loads(header)
