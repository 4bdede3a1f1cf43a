"""Digests: SHA-256 of sorted JSON and of the bytes of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pruning.utils.digests import digest, file_digest


def test_the_digest_of_values_is_the_sha256_of_their_json_with_sorted_keys() -> None:
    assert digest({"b": 1, "a": [None, 0.5]}) == hashlib.sha256(b'{"a": [null, 0.5], "b": 1}').hexdigest()
    assert digest({"a": {"y": 1, "x": 2}}) == digest({"a": {"x": 2, "y": 1}})
    assert digest([1, 2]) != digest([2, 1])


def test_the_digest_of_a_file_is_the_sha256_of_its_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert file_digest(tmp_path / "file") == hashlib.sha256(content).hexdigest()
    with pytest.raises(FileNotFoundError):
        file_digest(tmp_path / "none")
