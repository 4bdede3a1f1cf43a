"""Name -> thing, for every choice that a run can name: scores, allocations, schedules, architectures, data sets, ...

A new choice is one decorated function in its axis' home (a module, or any file of a package)::

    @SCORES.register("mag", source="Janowsky 1989")
    def magnitude(weights):
        \"\"\"abs(w)\"\"\"

Name, decorator arguments (literals) and the docstring's first paragraph are read from the home's *source*, so that
the help, `list` and a typo in a name are answered at once, without importing torch. `get` imports the home and hands
out the function itself. A registration made while running, by a plugin say, is found as well.

A choice may take numbers in its name: one registered with ``pattern=r"(\\d+):(\\d+)"`` answers to 2:4, and `get` hands
out its function with 2 and 4 as first arguments.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pruning.errors import PruningError

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry:
    """What is known of a choice without running it: its name, the module that defines it, one line, and its facts."""

    name: str
    module: str
    summary: str
    about: dict[str, Any] = field(default_factory=dict)

    def numbers(self, name: str) -> tuple[int, ...] | None:
        """The numbers in `name` if that is a spelling of this choice; None if it is not, or takes no numbers."""
        found = re.fullmatch(self.about["pattern"], name) if "pattern" in self.about else None
        return tuple(int(number) for number in found.groups()) if found else None


class Registry:
    """The choices of one kind. `kind` is the singular noun used in messages; `home` the module or package to read."""

    def __init__(self, kind: str, home: str) -> None:
        self.kind = kind
        self.home = home
        self._functions: dict[str, Callable[..., Any]] = {}
        self._entries: dict[str, Entry] = {}
        self._read: dict[str, Entry] | None = None

    def register(self, name: str, **about: Any) -> Callable[[F], F]:
        """Decorator: make a function available as `name`; `about` are literals that `entry(name).about` gives back."""

        def decorate(function: F) -> F:
            self._functions[name] = function
            summary = _first_paragraph(function.__doc__)
            self._entries[name] = Entry(name, function.__module__, summary, about)
            return function

        return decorate

    def entries(self) -> dict[str, Entry]:
        """Every choice by name, in the order of the source, without importing any of them."""
        if self._read is None:
            self._read = {
                entry.name: entry for path, module in _sources(self.home) for entry in _scan(path, module)
            }
        return {**self._read, **self._entries}

    def names(self) -> list[str]:
        return list(self.entries())

    def entry(self, name: str) -> Entry:
        """The entry called `name`; an unknown name raises PruningError with the nearest names first, then all."""
        entries = self.entries()
        for entry in entries.values():
            if entry.name == name or entry.numbers(name) is not None:
                return entry
        raise unknown(self.kind, name, entries)

    def get(self, name: str) -> Callable[..., Any]:
        """The registered function itself; its module is imported if it was not yet.

        With the numbers in `name` as first arguments, for a choice that takes any; without them PruningError.
        """
        entry = self.entry(name)
        if entry.name not in self._functions:
            importlib.import_module(entry.module)
        function = self._functions[entry.name]
        if "pattern" not in entry.about:
            return function
        numbers = entry.numbers(name)
        if numbers is None:
            raise PruningError(
                f"The {self.kind} {name} needs numbers: write {entry.about['example']}, for one."
            )
        return partial(function, *numbers)


def unknown(kind: str, name: str, names: Iterable[str]) -> PruningError:
    """The error for a name that is not among `names`: what was probably meant, then everything there is."""
    known = list(names)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    meant = f" Did you mean {' or '.join(near)}?" if near else ""
    return PruningError(f"Unknown {kind} {name!r}.{meant} Known: {', '.join(known)}.")


def _first_paragraph(doc: str | None) -> str:
    return " ".join((doc or "").strip().split("\n\n")[0].split())


def _sources(home: str) -> list[tuple[Path, str]]:
    spec = importlib.util.find_spec(home)
    assert spec is not None and spec.origin is not None, home
    origin = Path(spec.origin)
    if spec.submodule_search_locations is None:
        return [(origin, home)]
    files = sorted(path for path in origin.parent.glob("*.py") if path != origin)
    return [(origin, home), *((path, f"{home}.{path.stem}") for path in files)]


def _scan(path: Path, module: str) -> list[Entry]:
    found = []
    for node in ast.parse(path.read_bytes()).body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        for call in node.decorator_list:
            if (
                isinstance(call, ast.Call)
                and isinstance(call.func, ast.Attribute)
                and call.func.attr == "register"
                and call.args
            ):
                about = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
                name = ast.literal_eval(call.args[0])
                found.append(Entry(name, module, _first_paragraph(ast.get_docstring(node)), about))
    return found


STRUCTURES = Registry("structure", "pruning.axes.structure")
SCORES = Registry("score", "pruning.axes.scoring")
ALLOCATIONS = Registry("allocation", "pruning.axes.allocation")
SCHEDULES = Registry("schedule", "pruning.axes.scheduling")
FINETUNINGS = Registry("fine-tuning policy", "pruning.axes.finetuning")
ARCHITECTURES = Registry("architecture", "pruning.models")
DATASETS = Registry("data set", "pruning.data")
