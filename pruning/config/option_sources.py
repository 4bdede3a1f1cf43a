"""Name the YAML file in errors about options that were not given on the command line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pruning.config.options import flag
from pruning.errors import PruningError
from pruning.utils.yaml_files import read_yaml

# Values of options without effect; a run's own config.yaml holds many of them.
UNSET: tuple[Any, ...] = (None, False, [])


@contextlib.contextmanager
def annotate_option_source(options: Mapping[str, Any], file: Path | None) -> Iterator[None]:
    """Extend a PruningError by those of its options whose values are from the YAML `file`.

    `options` are those of the command line, which override the file's.
    """
    try:
        yield
    except PruningError as error:
        values = {} if file is None or not error.options else read_yaml(file)
        named = [
            f"{flag(name)} {values[name]}"
            for name in error.options
            if name not in options and values.get(name) not in UNSET
        ]
        if not named:
            raise
        raise PruningError(
            f"{error} (From {file}: {', '.join(named)}. Change it there or override it on the command line.)",
            options=error.options,
        ) from error
