"""Safe YAML reading for untrusted option files: no tags, no aliases, no repeated keys."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from pruning.errors import PruningError

MAX_BYTES = 1_000_000  # no configuration is this long


def read_yaml(file: Path) -> dict[str, Any]:
    """Read the mapping in a YAML file.

    Raises:
        PruningError: The file is missing, too large, not text, not valid YAML, or not a mapping with string keys.
    """
    try:
        if file.stat().st_size > MAX_BYTES:
            raise PruningError(f"{file}: larger than {MAX_BYTES:,} bytes, so it is not a configuration.")
        text = file.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise PruningError(f"{file}: YAML aliases (*name) are not accepted. Write the value out.")
        _check_repeated_keys(file, text)
        values = yaml.safe_load(text)
    except FileNotFoundError:
        raise PruningError(f"{file}: no such file.") from None
    except OSError as error:
        raise PruningError(f"{file}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise PruningError(f"{file}: not a text file. Give YAML with one `option: value` per line.") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).replace(' in "<unicode string>",', ",").split())
        raise PruningError(f"{file}: not valid YAML ({reason}).") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise PruningError(
            f"{file}: holds no options. Write one `option: value` per line, such as `arch: my`."
        )
    return values


def _check_repeated_keys(file: Path, text: str) -> None:
    """Raise PruningError for a repeated key at the top level; PyYAML would silently use the last value."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if isinstance(root, yaml.MappingNode):
        counts = Counter(str(key.value) for key, _ in root.value)
        repeated = [key for key, count in counts.items() if count > 1]
        if repeated:
            raise PruningError(f"{file}: {repeated[0]} is given twice. Remove one of the values.")
