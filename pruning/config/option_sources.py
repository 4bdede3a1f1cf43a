"""Where options are from: an error that names options which nobody typed also says which file they are in."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pruning.config.options import flag
from pruning.errors import PruningError
from pruning.utils.yaml_files import read_yaml

# What a resolved configuration has for options that play no part.
NOT_SAID: tuple[Any, ...] = (None, False, [])


@contextlib.contextmanager
def told(options: Mapping[str, Any], file: Path | None) -> Iterator[None]:
    """While entered, a PruningError says of the options that it names which of them come from the YAML `file`.

    `options` are those of the command line, which go before the file's.
    """
    try:
        yield
    except PruningError as error:
        if file is None or str(file) in str(error):
            raise
        named = _named(str(error), {**read_yaml(file), **dict.fromkeys(options)})
        if not named:
            raise
        raise PruningError(
            f"{error} ({', '.join(named)}: from {file}; change that there or on the command line, which goes first.)"
        ) from error


def _named(sentence: str, values: Mapping[str, Any]) -> list[str]:
    """The options with a value that a sentence names, as one would type them."""
    words = re.findall(r"--[a-z][a-z-]*", sentence)
    return [
        f"{flag(name)} {value}"
        for name, value in values.items()
        if flag(name) in words and value not in NOT_SAID
    ]
