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


def matches(arch: str) -> bool:
    """Whether `arch` says where a network is, rather than naming one."""
    return ":" in arch or arch.endswith(".py")


def find(arch: str) -> tuple[ModuleSpec, str]:
    """The module that `arch` points to, not yet run, and the name of the factory in it; PruningError if there is none."""
    where, _, factory = arch.rpartition(":")
    if not where or not factory:
        raise PruningError(
            f"{arch!r} does not say which function makes the network: give path/to/net.py:factory or package.module:factory."
        )
    return (_file(where) if where.endswith(".py") else _module(where)), factory


def make(arch: str, classes: int, channels: int) -> nn.Module:
    """The network that the user's factory returns.

    Of the keyword arguments `num_classes` or `classes` and `in_channels` or `channels`, the factory is given those that
    its signature names. A file may import its neighbours. Raises PruningError when the code does not load, has no such
    factory, or the factory fails or returns no nn.Module.
    """
    from torch import nn

    spec, name = find(arch)
    with _importable(Path(spec.origin or ".").parent):
        factory = _factory(_run(spec), name, arch)
        try:
            model = factory(**_arguments(factory, classes, channels))
        except (Exception, SystemExit) as error:
            raise PruningError(f"{arch} failed: {_told(error, spec)}.") from error
    if not isinstance(model, nn.Module):
        raise PruningError(f"{arch} returned {type(model).__name__}, not a torch.nn.Module.")
    return model


def _file(where: str) -> ModuleSpec:
    path = Path(where).expanduser()
    if not path.is_file():
        raise PruningError(f"There is no file {where} to take an architecture from.")
    spec = importlib.util.spec_from_file_location(f"users_own_{path.stem}", path.resolve())
    assert spec is not None, path
    return spec


def _module(where: str) -> ModuleSpec:
    try:
        spec = importlib.util.find_spec(where)
    except (Exception, SystemExit) as error:
        raise PruningError(
            f"The module {where} cannot be imported: {type(error).__name__}: {error}."
        ) from error
    if spec is None:
        raise PruningError(
            f"There is no module {where} to take an architecture from (a file is given as path/to/net.py:factory)."
        )
    return spec


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _run(spec: ModuleSpec) -> ModuleType:
    try:
        if spec.name in sys.modules and not spec.name.startswith("users_own_"):
            return sys.modules[spec.name]
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses, for one, look their module up while it runs
        assert spec.loader is not None, spec
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(spec.name, None)
        raise PruningError(f"{spec.origin} cannot be loaded: {_told(error, spec)}.") from error
    return module


def _factory(module: ModuleType, name: str, arch: str) -> Callable[..., Any]:
    from torch import nn

    found = getattr(module, name, None)
    if found is None:
        own = [
            key
            for key, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", "") == module.__name__
        ]
        raise unknown(f"function of {arch.rpartition(':')[0]}", name, own)
    if not callable(found) or isinstance(found, nn.Module):
        raise PruningError(f"{arch} is a {type(found).__name__}, not a function that makes a network.")
    factory: Callable[..., Any] = found
    return factory


def _arguments(factory: Callable[..., Any], classes: int, channels: int) -> dict[str, int]:
    offered = {"num_classes": classes, "classes": classes, "in_channels": channels, "channels": channels}
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:
        return {}
    by_name = {one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    return {name: value for name, value in offered.items() if name in by_name}


def _told(error: BaseException, spec: ModuleSpec) -> str:
    """What went wrong in the user's code, with the last line of it that took part."""
    if isinstance(error, SyntaxError):
        return f"syntax error in line {error.lineno}: {error.msg}"
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == spec.origin
    ]
    line = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {error}{line}"
