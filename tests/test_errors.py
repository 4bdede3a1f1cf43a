"""Quoting another error in a message of one line."""

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
def test_first_line_is_the_first_line_of_the_message_or_the_type_if_it_is_empty(
    error: Exception, line: str
) -> None:
    assert first_line(error) == line
