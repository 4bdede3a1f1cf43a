"""SHA-256 digests of values and files, for records and cache keys."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def digest(values: Any) -> str:
    """Return the hexadecimal SHA-256 of JSON-serialisable values. The order of keys does not matter."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
