"""Errors in one's own words: what another error says, in one line."""

from __future__ import annotations

import pytest

from pruning.errors import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("  wrong\nand more"), "wrong"),
        (RuntimeError(), "RuntimeError"),
        (AssertionError(" \n "), "AssertionError"),
    ],
)
def test_the_first_line_of_an_error_or_else_its_type(error: Exception, line: str) -> None:
    assert first_line(error) == line
