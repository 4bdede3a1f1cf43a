"""The cache file of a folder's decoded images: one line of facts about them, then their bytes as they lie in
memory.

It is only ever a shortcut: a file that is missing, outdated or damaged reads as None, one that can't be
written is not written. The facts' line and the bytes each have their CRC-32, so that a damaged cache never
becomes a result.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """Where downloads and decoded images are kept: `pruning` in $XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pruning"


def load_facts(path: Path, key: str) -> dict[str, Any] | None:
    """The facts stored under `key`; None if there are none or they are of another key."""
    try:
        with path.open("rb") as file:
            header = _header(file.readline())
    except (OSError, ValueError):
        return None
    return header["facts"] if header["key"] == key else None


def load_pixels(path: Path, sizes: Sequence[int]) -> list[bytearray] | None:
    """The buffers of these sizes (bytes) stored with the facts; None unless they are there, unchanged."""
    try:
        with path.open("rb") as file:
            header = _header(file.readline())
            if path.stat().st_size != file.tell() + sum(sizes):
                return None
            buffers = [bytearray(size) for size in sizes]
            for buffer in buffers:
                file.readinto(buffer)
    except (OSError, ValueError):
        return None
    return buffers if _checksum(buffers) == header["crc32"] else None


def save(path: Path, key: str, facts: dict[str, Any], buffers: Sequence[bytearray] = ()) -> None:
    """Store `facts` and `buffers` under `key` in place of what was there; written beside, then renamed."""
    content = json.dumps({"key": key, "facts": facts, "crc32": _checksum(buffers)}).encode()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(b"%08x %b\n" % (zlib.crc32(content), content))
                for buffer in buffers:
                    file.write(buffer)
            Path(beside).replace(path)
        finally:
            Path(beside).unlink(missing_ok=True)


def _checksum(buffers: Sequence[bytearray]) -> int:
    checksum = 0
    for buffer in buffers:
        checksum = zlib.crc32(buffer, checksum)
    return checksum


def _header(line: bytes) -> dict[str, Any]:
    checksum, _, content = line.rstrip(b"\n").partition(b" ")
    if int(checksum, 16) != zlib.crc32(content):
        raise ValueError("damaged")
    return json.loads(content)
