"""YAML option files: a mapping or a PruningError that names the file; aliases and tags are not expanded."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.errors import PruningError
from pruning.utils.yaml_files import read_yaml


def test_nested_aliases_are_rejected_before_they_are_expanded(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12))]
    file = tmp_path / "bomb.yaml"
    file.write_text("\n".join(lines))
    with pytest.raises(PruningError, match="aliases"):
        read_yaml(file)


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_bytes_give_a_mapping_or_an_error_that_names_the_file(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "any.yaml"
        file.write_bytes(content)
        try:
            assert isinstance(read_yaml(file), dict)
        except PruningError as error:
            assert str(file) in str(error)


@pytest.mark.parametrize(
    ("content", "value"),
    [
        ("seed: 1\nseed: 2", "seed"),
        ("- epochs", "option: value"),
        ("1: 2", "option: value"),
        ("epochs: !!python/object/apply:os.getcwd []", "line 1"),
        ("#" * 1_000_001, "1,000,000"),
    ],
    ids=["repeated key", "list", "number as key", "tag", "too large"],
)
def test_other_yaml_is_rejected_with_the_file_and_the_value(content: str, value: str, tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    file.write_text(content)
    with pytest.raises(PruningError, match=value) as rejected:
        read_yaml(file)
    assert str(rejected.value).startswith(f"{file}: ")
