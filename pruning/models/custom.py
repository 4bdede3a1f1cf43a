"""The user's own networks, as `path/to/net.py:factory` or `package.module:factory`."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pruning.errors import PruningError
from pruning.registry import unknown

if TYPE_CHECKING:
    from torch import nn


MODULE_PREFIX = "custom_model_"  # of the names of modules that are loaded from files


def matches(arch: str) -> bool:
    """Whether `arch` is a path to a network, not a name."""
    return ":" in arch or arch.endswith(".py")


def find(arch: str) -> tuple[ModuleSpec, str]:
    """Return the module, not yet run, and the name of the factory in it.

    Raises:
        PruningError: if `arch` has no factory, or the file or module does not exist.
    """
    place, _, factory = arch.rpartition(":")
    if not place or not factory:
        raise PruningError(
            f"--arch {arch} does not name the function that builds the network. "
            "Write path/to/net.py:factory or package.module:factory."
        )
    return (_find_file(place) if place.endswith(".py") else _find_module(place)), factory


def build(arch: str, num_classes: int, in_channels: int) -> nn.Module:
    """Call the user's factory and return its network.

    The factory is called with those of the keyword arguments `num_classes`, `classes`, `in_channels` and
    `channels` that its signature has. A file can import the files in its folder.

    Raises:
        PruningError: if the code does not load, the factory is missing or fails, or returns no nn.Module.
    """
    from torch import nn

    spec, name = find(arch)
    with _sibling_imports(spec):
        factory = _factory(_load(spec), name, arch)
        try:
            model = factory(**_arguments(factory, num_classes, in_channels))
        except (Exception, SystemExit) as error:
            raise PruningError(f"{arch} failed: {_describe(error, spec)}.") from error
    if not isinstance(model, nn.Module):
        raise PruningError(f"{arch} returned {type(model).__name__}, not a torch.nn.Module.")
    return model


def source_files(arch: str) -> set[Path]:
    """Return the factory's file and, after `build`, the files in its folder that it imports from."""
    spec, _ = find(arch)
    if spec.origin is None:
        return set()
    folder = Path(spec.origin).parent
    files = {Path(spec.origin)}
    queue = [sys.modules[spec.name]] if spec.name in sys.modules else []
    while queue:
        for value in vars(queue.pop()).values():
            module = value if isinstance(value, ModuleType) else _defining_module(value)
            file = Path(getattr(module, "__file__", None) or "")
            in_folder = file.is_relative_to(folder) and "site-packages" not in file.parts
            if module is not None and in_folder and file not in files:
                files.add(file)
                queue.append(module)
    return files


def _defining_module(value: Any) -> ModuleType | None:
    name = getattr(value, "__module__", None)
    return sys.modules.get(name) if isinstance(name, str) else None


def _find_file(place: str) -> ModuleSpec:
    try:
        path = Path(place).expanduser()
        exists = path.is_file()
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).rstrip(".")
        raise PruningError(f"The file {place} of --arch does not exist: {reason}.") from error
    if not exists:
        raise PruningError(f"The file {place} of --arch does not exist.")
    spec = importlib.util.spec_from_file_location(MODULE_PREFIX + path.stem, path.resolve())
    assert spec is not None, path
    return spec


def _find_module(place: str) -> ModuleSpec:
    try:
        spec = importlib.util.find_spec(place)
    except (Exception, SystemExit) as error:
        raise PruningError(f"{place} cannot be imported: {type(error).__name__}: {error}.") from error
    if spec is None:
        raise PruningError(
            f"The module {place} of --arch does not exist. Write a file as path/to/net.py:factory."
        )
    return spec


@contextlib.contextmanager
def _sibling_imports(spec: ModuleSpec) -> Iterator[None]:
    """Add the file's folder to sys.path, as `python file.py` would."""
    folder = [str(Path(spec.origin).parent)] if spec.origin and spec.name.startswith(MODULE_PREFIX) else []
    before = list(sys.path)
    sys.path[:0] = folder
    try:
        yield
    finally:
        sys.path[:] = before


def _load(spec: ModuleSpec) -> ModuleType:
    try:
        if not spec.name.startswith(MODULE_PREFIX):
            return importlib.import_module(spec.name)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses, for example, look up their module while it runs
        assert spec.loader is not None, spec
        spec.loader.exec_module(module)
        return module
    except (Exception, SystemExit) as error:
        raise PruningError(f"{spec.origin} cannot be loaded: {_describe(error, spec)}.") from error


def _factory(module: ModuleType, name: str, arch: str) -> Callable[..., Any]:
    from torch import nn

    if not hasattr(module, name):
        raise unknown(f"function of {arch.rpartition(':')[0]}", name, _public_functions(module))
    factory: Callable[..., Any] = getattr(module, name)
    if not callable(factory) or isinstance(factory, nn.Module):
        raise PruningError(
            f"{arch} is of type {type(factory).__name__}, not a function that returns a network."
        )
    return factory


def _public_functions(module: ModuleType) -> list[str]:
    own = [
        key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__
    ]
    return [key for key in own if callable(getattr(module, key)) and not key.startswith("_")] or ["none"]


def _arguments(factory: Callable[..., Any], num_classes: int, in_channels: int) -> dict[str, int]:
    offered = {
        "num_classes": num_classes,
        "classes": num_classes,
        "in_channels": in_channels,
        "channels": in_channels,
    }
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:
        return {}
    keywords = {one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    return {name: value for name, value in offered.items() if name in keywords}


def _describe(error: BaseException, spec: ModuleSpec) -> str:
    """Return the error of the user's code, with its line there, as one line of text."""
    if isinstance(error, SyntaxError):
        return f"syntax error in line {error.lineno} of {Path(error.filename or '?').name}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == spec.origin]
    line = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{line}"
