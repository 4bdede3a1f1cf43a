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


OWN_NAMES = "users_own_"  # what the modules made from files are called, before the file's own name


def matches(arch: str) -> bool:
    """Whether `arch` says where a network is, rather than naming one."""
    return ":" in arch or arch.endswith(".py")


def find(arch: str) -> tuple[ModuleSpec, str]:
    """The module that `arch` points to, not yet run, and its factory's name; PruningError without one."""
    where, _, factory = arch.rpartition(":")
    if not where or not factory:
        raise PruningError(
            f"{arch!r} does not say which function makes the network: "
            "give path/to/net.py:factory or package.module:factory."
        )
    return (_file(where) if where.endswith(".py") else _module(where)), factory


def make(arch: str, classes: int, channels: int) -> nn.Module:
    """The network that the user's factory returns.

    Of the keyword arguments `num_classes`, `classes`, `in_channels` and `channels`, the factory is given
    those that its signature names. A file may import its neighbours. Raises PruningError when the code does
    not load or has no such factory, and when the factory fails or returns no nn.Module.
    """
    from torch import nn

    spec, name = find(arch)
    with _neighbours_importable(spec):
        factory = _factory(_loaded(spec), name, arch)
        try:
            model = factory(**_arguments(factory, classes, channels))
        except (Exception, SystemExit) as error:
            raise PruningError(f"{arch} failed: {_told(error, spec)}.") from error
    if not isinstance(model, nn.Module):
        raise PruningError(f"{arch} returned {type(model).__name__}, not a torch.nn.Module.")
    return model


def sources(arch: str) -> set[Path]:
    """The file of the factory and, once `make` has run it, those in its folder that it takes code from."""
    spec, _ = find(arch)
    if spec.origin is None:
        return set()
    folder = Path(spec.origin).parent
    found = {Path(spec.origin)}
    left = [sys.modules[spec.name]] if spec.name in sys.modules else []
    while left:
        for value in vars(left.pop()).values():
            module = value if isinstance(value, ModuleType) else _module_of(value)
            file = Path(getattr(module, "__file__", None) or "")
            own = file.is_relative_to(folder) and "site-packages" not in file.parts
            if module is not None and own and file not in found:
                found.add(file)
                left.append(module)
    return found


def _module_of(value: Any) -> ModuleType | None:
    name = getattr(value, "__module__", None)
    return sys.modules.get(name) if isinstance(name, str) else None


def _file(where: str) -> ModuleSpec:
    try:
        path = Path(where).expanduser()
        found = path.is_file()
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).rstrip(".")
        raise PruningError(f"There is no file {where} to take an architecture from: {reason}.") from error
    if not found:
        raise PruningError(f"There is no file {where} to take an architecture from.")
    spec = importlib.util.spec_from_file_location(OWN_NAMES + path.stem, path.resolve())
    assert spec is not None, path
    return spec


def _module(where: str) -> ModuleSpec:
    try:
        spec = importlib.util.find_spec(where)
    except (Exception, SystemExit) as error:
        raise PruningError(f"{where} cannot be imported: {type(error).__name__}: {error}.") from error
    if spec is None:
        raise PruningError(
            f"There is no module {where} to take an architecture from; "
            "a file is given as path/to/net.py:factory."
        )
    return spec


@contextlib.contextmanager
def _neighbours_importable(spec: ModuleSpec) -> Iterator[None]:
    """Within, a file can import the files beside it, as it could if Python had been started on it."""
    folder = [str(Path(spec.origin).parent)] if spec.origin and spec.name.startswith(OWN_NAMES) else []
    before = list(sys.path)
    sys.path[:0] = folder
    try:
        yield
    finally:
        sys.path[:] = before


def _loaded(spec: ModuleSpec) -> ModuleType:
    try:
        if not spec.name.startswith(OWN_NAMES):
            return importlib.import_module(spec.name)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses, for one, look their module up while it runs
        assert spec.loader is not None, spec
        spec.loader.exec_module(module)
        return module
    except (Exception, SystemExit) as error:
        raise PruningError(f"{spec.origin} cannot be loaded: {_told(error, spec)}.") from error


def _factory(module: ModuleType, name: str, arch: str) -> Callable[..., Any]:
    from torch import nn

    if not hasattr(module, name):
        raise unknown(f"function of {arch.rpartition(':')[0]}", name, _functions(module))
    factory: Callable[..., Any] = getattr(module, name)
    if not callable(factory) or isinstance(factory, nn.Module):
        raise PruningError(
            f"{arch} is of type {type(factory).__name__}, not a function that makes a network."
        )
    return factory


def _functions(module: ModuleType) -> list[str]:
    own = [
        key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__
    ]
    return [key for key in own if callable(getattr(module, key)) and not key.startswith("_")] or ["none"]


def _arguments(factory: Callable[..., Any], classes: int, channels: int) -> dict[str, int]:
    offered = {"num_classes": classes, "classes": classes, "in_channels": channels, "channels": channels}
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:
        return {}
    by_name = {one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    return {name: value for name, value in offered.items() if name in by_name}


def _told(error: BaseException, spec: ModuleSpec) -> str:
    """What went wrong in the user's code, and in which line of it, as one line of text."""
    if isinstance(error, SyntaxError):
        return f"syntax error in line {error.lineno} of {Path(error.filename or '?').name}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == spec.origin]
    line = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{line}"
