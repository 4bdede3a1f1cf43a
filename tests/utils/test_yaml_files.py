"""YAML files of options: a mapping, or one sentence; nothing in them is expanded or run."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.errors import PruningError
from pruning.utils.yaml_files import read_yaml


def test_yaml_that_explodes_is_not_expanded(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12))]
    file = tmp_path / "bomb.yaml"
    file.write_text("\n".join(lines))
    with pytest.raises(PruningError, match="aliases"):
        read_yaml(file)


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_bytes_are_a_mapping_or_refused(content: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "any.yaml"
        file.write_bytes(content)
        try:
            assert isinstance(read_yaml(file), dict)
        except PruningError as error:
            assert str(file) in str(error)
