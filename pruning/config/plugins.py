"""The user's own scores, structures, allocations, ...: a Python file that registers them as `registry` describes.

    from pruning.registry import SCORES

    @SCORES.register("signed", source="mine")
    def signed(weights):
        \"\"\"w: negative weights are removed first\"\"\"
        return weights.value

`--plugin my_scores.py --method global_signed` prunes with it, `list methods --plugin my_scores.py` shows it. The file
is executed, so it must be trusted.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path
from typing import Any

from pruning import registry
from pruning.errors import PruningError, concerning
from pruning.registry import Entry, Registry
from pruning.utils.digests import file_digest

_loaded: dict[Path, str] = {}  # digest of the contents that were loaded from a file


def load(file: Path) -> None:
    """Execute the file, once per contents, so that options can name what it registers.

    Raises:
        PruningError: the file is missing, fails, registers nothing, or registers an existing name.
    """
    with concerning("plugin"):
        digest = _digest(file)
        if _loaded.get(file.resolve()) == digest:
            return
        before = _all_entries()
        _execute(file)
        new = {key: entry for key, entry in _all_entries().items() if _is_new(entry, before.get(key), file)}
        for kind, name in new:
            existing = before.get((kind, name))
            if existing is not None and existing.module != _module_name(file):
                raise PruningError(
                    f"--plugin {file}: the {kind} {name!r} already exists. Choose another name."
                )
        if not new:
            raise PruningError(
                f"--plugin {file} registers nothing. Decorate a function, for example with @SCORES.register(...)."
            )
        _loaded[file.resolve()] = digest


def _is_new(entry: Entry[Any], existing: Entry[Any] | None, file: Path) -> bool:
    """Whether the plugin registered it. A module that the plugin imports registers its own entries a second time."""
    if existing is None or entry.module == _module_name(file):
        return entry is not existing
    return entry.module != existing.module


def _digest(file: Path) -> str:
    try:
        return file_digest(file)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise PruningError(f"--plugin {str(file)!r} cannot be read ({reason}).") from None


def _all_entries() -> dict[tuple[str, str], Entry[Any]]:
    """Every registered choice by kind and name."""
    registries = [value for value in vars(registry).values() if isinstance(value, Registry)]
    return {(one.kind, name): entry for one in registries for name, entry in one.entries().items()}


def _module_name(file: Path) -> str:
    return f"pruning_plugin_{file.stem}"


def _execute(file: Path) -> None:
    spec = importlib.util.spec_from_file_location(_module_name(file), file)
    if spec is None or spec.loader is None:
        raise PruningError(f"--plugin {file} is not a Python file: its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except PruningError:
        raise
    except Exception as error:  # the user's code can raise anything
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == file.resolve()]
        line = error.lineno if isinstance(error, SyntaxError) else (lines or [None])[-1]
        message = " ".join(str(error).split())
        raise PruningError(f"--plugin {file}, line {line}: {type(error).__name__}: {message}.") from None
