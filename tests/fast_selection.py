"""Select the tests of `pytest -m fast`: those that start no process, do no whole run and take no seconds.

The rule reads the code of a test, of its fixtures and of the helpers in `tests/` that they call. A test is slow if any
of them uses a module or function of `SLOW`, if `SLOW_TESTS` lists it, or if it is a case for one of `SLOW_METHODS`.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent
SLOW = {
    "multiprocessing",
    "subprocess",
    "pruning.cli.app.execute",
    "pruning.experiment.runner.run",
    "pruning.sweep.runner.run_sweep",
}

# Tests that take seconds each: large networks, figures, exports; and methods that score a network many times.
SLOW_TESTS = (
    "axes/test_combinations.py::test_magnitude_masks_equal_those_of_torch",
    "axes/test_combinations.py::test_synflow_empties_no_layer_of_vgg16",
    "core/test_torchvision_networks.py::",
    "measure/test_bench.py::",
    "measure/test_export.py::test_a_file_of_every_format",
    "models/test_models_torchvision.py::",
    "report/test_report.py::",
)
SLOW_METHODS = ("second_order", "synflow")


def is_fast(test: pytest.Function) -> bool:
    """Return whether a test is not listed as slow, and neither it nor its fixtures and helpers use `SLOW`."""
    if f"{test.path.relative_to(TESTS).as_posix()}::{test.name}".startswith(SLOW_TESTS):
        return False
    if any(method in test.name.partition("[")[2] for method in SLOW_METHODS):
        return False
    conftest = test.config.pluginmanager.getplugin(str(TESTS / "conftest.py"))
    scope = {**vars(conftest), **vars(test.module)}
    fixtures = [scope[name] for name in test.fixturenames if name in scope]
    return SLOW.isdisjoint(_used_names([test.function, *fixtures]))


def _used_names(objects: list[Any]) -> set[str]:
    """Return the dotted names of everything that `objects` use, following the helpers that `tests/` defines."""
    names: set[str] = set()
    seen: set[int] = set()
    while objects:
        one = inspect.unwrap(objects.pop())
        if id(one) in seen:
            continue
        seen.add(id(one))
        names.add(_dotted_name(one))
        if not _is_defined_in_tests(one):
            continue
        if inspect.isfunction(one):
            objects += [
                one.__globals__[name] for name in _global_names(one.__code__) if name in one.__globals__
            ]
        elif inspect.isclass(one):
            objects += [value for value in vars(one).values() if inspect.isfunction(value)]
    return names


def _is_defined_in_tests(one: Any) -> bool:
    file = getattr(sys.modules.get(getattr(one, "__module__", "")), "__file__", None)
    return file is not None and Path(file).is_relative_to(TESTS)


def _global_names(code: types.CodeType) -> Iterator[str]:
    """The names that a function uses, including those of the functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


def _dotted_name(one: Any) -> str:
    if inspect.ismodule(one):
        return one.__name__
    return f"{getattr(one, '__module__', None)}.{getattr(one, '__qualname__', None)}"
