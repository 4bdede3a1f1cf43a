"""What tells contents apart: one SHA-256 for values and one for files, as records and caches hold them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def digest(values: Any) -> str:
    """Hexadecimal SHA-256 of JSON-able values, independent of the order of keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Hexadecimal SHA-256 of what is in the file. OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
