"""The user's own scores, structures, allocations, ...: a file that registers them with the decorators of `registry`.

    from pruning.registry import SCORES

    @SCORES.register("signed", source="mine")
    def signed(weights):
        \"\"\"w: negative weights go first\"\"\"
        return weights.value

Then `--plugin my_scores.py --method global_signed` prunes with it, and `list methods --plugin my_scores.py` shows it.
The file is the user's program: it is run, like a network of one's own.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path
from typing import Any

from pruning import registry
from pruning.errors import PruningError
from pruning.registry import Entry, Registry
from pruning.utils.digests import file_digest

_loaded: dict[Path, str] = {}


def load(file: Path) -> None:
    """Run the file, once for each content, so that what it registers can be named.

    Raises PruningError if it is missing, fails, registers nothing, or takes a name that there is already.
    """
    try:
        contents = file_digest(file)
    except OSError as error:
        raise PruningError(f"--plugin {file}: cannot be read ({error.strerror}).") from None
    if _loaded.get(file.resolve()) == contents:
        return
    before = _everything()
    _run(file)
    new = {key: entry for key, entry in _everything().items() if before.get(key) is not entry}
    for kind, name in new:
        known = before.get((kind, name))
        if known is not None and known.module != _module_name(file):
            raise PruningError(f"--plugin {file}: there is a {kind} {name!r} already; choose another name.")
    if not new:
        raise PruningError(
            f"--plugin {file}: registers nothing; decorate a function with @SCORES.register(...), say."
        )
    _loaded[file.resolve()] = contents


def _everything() -> dict[tuple[str, str], Entry[Any]]:
    kinds = [thing for thing in vars(registry).values() if isinstance(thing, Registry)]
    return {(kind.kind, name): entry for kind in kinds for name, entry in kind.entries().items()}


def _module_name(file: Path) -> str:
    return f"pruning_plugin_{file.stem}"


def _run(file: Path) -> None:
    spec = importlib.util.spec_from_file_location(_module_name(file), file)
    if spec is None or spec.loader is None:
        raise PruningError(f"--plugin {file}: not a Python file; its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except PruningError:
        raise
    except Exception as error:  # it is the user's program
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == file.resolve()]
        line = error.lineno if isinstance(error, SyntaxError) else (lines or [None])[-1]
        what = " ".join(str(error).split())
        raise PruningError(f"--plugin {file}, line {line}: {type(error).__name__}: {what}.") from None
