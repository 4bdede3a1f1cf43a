"""YAML files of options, which may come from anywhere: read without running or expanding anything in them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from pruning.errors import PruningError

LARGEST_CONFIG_FILE = (
    1_000_000  # bytes; no configuration is as long, and a larger file is a mistake or an attack
)


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file; PruningError when the file is not one (missing, binary, tabs, a list, ...)."""
    try:
        if file.stat().st_size > LARGEST_CONFIG_FILE:
            raise PruningError(f"{file}: larger than {LARGEST_CONFIG_FILE:,} bytes; not a configuration.")
        text = file.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise PruningError(f"{file}: YAML aliases (*name) are not accepted; write the value out.")
        _refuse_repeated_keys(file, text)
        values = yaml.safe_load(text)
    except FileNotFoundError:
        raise PruningError(f"{file}: no such file.") from None
    except OSError as error:
        raise PruningError(f"{file}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise PruningError(f"{file}: not a text file; give YAML with one `option: value` a line.") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).replace(' in "<unicode string>",', ",").split())
        raise PruningError(f"{file}: not valid YAML ({reason}).") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise PruningError(f"{file}: holds no options; write one `option: value` a line, such as `arch: my`.")
    return values


def _refuse_repeated_keys(file: Path, text: str) -> None:
    """YAML forbids them, but PyYAML silently takes the last."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if isinstance(root, yaml.MappingNode):
        counts = Counter(str(key.value) for key, _ in root.value)
        repeated = [key for key, count in counts.items() if count > 1]
        if repeated:
            raise PruningError(f"{file}: {repeated[0]} is given twice; which of its values holds is unclear.")
