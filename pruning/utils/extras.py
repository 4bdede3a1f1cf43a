"""Check for optional dependencies (the extras of pyproject.toml) without importing them."""

from __future__ import annotations

import importlib.util

from pruning.errors import PruningError


def require_extra(feature: str, package: str, extra: str) -> None:
    """Raise PruningError, with the command that installs `extra`, unless `package` can be imported.

    Args:
        feature: what the user asked for, such as `--tensorboard`.
        package: the name to import.
        extra: the extra of this project that installs the package.
    """
    if importlib.util.find_spec(package) is None:
        raise PruningError(f"{feature} needs the package {package}. Run pip install -e '.[{extra}]'.")
