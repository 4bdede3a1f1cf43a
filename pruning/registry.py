"""Registries: every choice that a run can name (scores, allocations, schedules, architectures, data sets, ...).

A choice is a decorated function in the registry's home, which is a module or any file of a package::

    @SCORES.register("mag", elementwise=True, source="Janowsky 1989")
    def magnitude(weights):
        \"\"\"abs(w)\"\"\"

The decorator's keywords are the attributes of the registry's spec, a frozen dataclass (`ScoreSpec` for scores); an
attribute that the spec does not have is a TypeError at import. Name, spec and the docstring's first paragraph are read
from the home's *source* (the keywords must be literals), so that `--help`, `list` and unknown-name errors need no
import of torch. `Registry.get` imports the home and returns the function. Registrations at run time, for example by a
plugin, are added to those in the source.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, get_args

from pruning.errors import PruningError

F = TypeVar("F", bound=Callable[..., Any])
GroupReduction = Literal["mean", "root mean square", "first"]
GROUP_REDUCTIONS = get_args(GroupReduction)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Attributes that every choice can have.

    source: the paper that the choice comes from.
    aliases: other names that are accepted and resolve to this choice, but are not listed.
    pattern, example: for numbers in the name. With pattern ``(\\d+):(\\d+)`` the name ``2:4`` is accepted, and
        `Registry.get` binds 2 and 4 as the function's first arguments. `example` is one such name.
    """

    source: str = ""
    aliases: tuple[str, ...] = ()
    pattern: str | None = None
    example: str | None = None

    def __post_init__(self) -> None:
        for attribute in fields(self):
            value = getattr(self, attribute.name)
            if str(attribute.type).startswith("tuple") and not isinstance(value, tuple):
                raise TypeError(f"{attribute.name}={value!r} must be a tuple of names, such as ('name',)")


@dataclass(frozen=True, kw_only=True)
class ScoreSpec(Spec):
    """Attributes of a score.

    statistics: names in `STATISTICS` of the statistics that the score reads; without any, no batches are needed.
    accumulates: names in `ACCUMULATORS` of the sums over the training steps since the last pruning step that it reads.
    elementwise: the score of a weight depends on that weight alone. Such a score is computed on flat slices of a layer,
        without a copy of all scores; any other score receives the whole layer in its own shape.
    zero_is_lowest: zero weights, and only those, have the lowest possible score.
    group_reduction: how the scores of a group of weights that are removed together are reduced to one. "root mean
        square" is the L2 norm for groups of equal size; "first" is the score of the first weight.
    allocation: the only allocation that the score is defined for; the method then has the score's own name.
    structures: the only structures that the score is defined for; all if empty.
    reason: why `structures` are the only ones, for the error message.
    iterations: number of iterations of one pruning step; each scores the weights that the last one kept.
    correction: name in `CORRECTIONS` of the update of the kept weights after a pruning step.
    """

    statistics: tuple[str, ...] = ()
    accumulates: tuple[str, ...] = ()
    elementwise: bool = False
    zero_is_lowest: bool = False
    group_reduction: GroupReduction = "mean"
    allocation: str | None = None
    structures: tuple[str, ...] = ()
    reason: str = ""
    iterations: int = 1
    correction: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group_reduction not in GROUP_REDUCTIONS:
            raise TypeError(
                f"group_reduction={self.group_reduction!r} must be one of {', '.join(GROUP_REDUCTIONS)}"
            )


@dataclass(frozen=True, kw_only=True)
class StatisticSpec(Spec):
    """Attributes of a statistic that scores read.

    over_channels: computed from channel groups, by ``(model, layers, groups)``; otherwise from batches of data, by
        ``(model, layers, batches, loss)``.
    reads_layer_inputs: observes the inputs of every layer, so that only convolution and linear layers have it.
    """

    over_channels: bool = False
    reads_layer_inputs: bool = False


@dataclass(frozen=True, kw_only=True)
class AccumulatorSpec(Spec):
    """Attributes of an accumulator of training steps: none besides those of every choice."""


@dataclass(frozen=True, kw_only=True)
class CorrectionSpec(Spec):
    """Attributes of a correction of kept weights: none besides those of every choice."""


@dataclass(frozen=True, kw_only=True)
class StructureSpec(Spec):
    """Attributes of a structure.

    coupled: groups are filters, and the filters of all layers that write the same channel are one group.
    fixed_sparsity: the numbers in the name determine the sparsity (N:M).
    allocations: the only allocations that the structure works with; all if empty.
    reason: why `allocations` are the only ones, for the error message.
    """

    coupled: bool = False
    fixed_sparsity: bool = False
    allocations: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class AllocationSpec(Spec):
    """Attributes of an allocation: none besides those of every choice."""


@dataclass(frozen=True, kw_only=True)
class ScheduleSpec(Spec):
    """Attributes of a schedule.

    rounds: the only number of rounds that the schedule allows; any if None.
    default_rounds: number of rounds if --rounds is not given; the general default if None.
    during_finetuning: the pruning steps are inside the fine-tuning of a single round; False: one per round.
    searches: there is no target; the accuracy of the rounds so far determines the next sparsity (--max-drop).
    """

    rounds: int | None = None
    default_rounds: int | None = None
    during_finetuning: bool = False
    searches: bool = False


@dataclass(frozen=True, kw_only=True)
class FinetuneSpec(Spec):
    """Attributes of a fine-tuning policy.

    trains: False if there is no training after a pruning step.
    replays_dense_training: trains by the dense recipe from --rewind-epoch to its end, not by --finetune-epochs and
        --finetune-lr.
    needs_rewind_state: needs the dense network's state after --rewind-epoch.
    needs_teacher: needs the trained dense network.
    """

    trains: bool = True
    replays_dense_training: bool = False
    needs_rewind_state: bool = False
    needs_teacher: bool = False


@dataclass(frozen=True, kw_only=True)
class ArchitectureSpec(Spec):
    """Attributes of an architecture.

    input: shape of the images that it was designed for, channels x height x width, such as "1x28x28".
    """

    input: str

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return _shape(self.input)


@dataclass(frozen=True, kw_only=True)
class DatasetSpec(Spec):
    """Attributes of a data set.

    classes: number of classes; None if it depends on the user's files.
    input: shape of its images, channels x height x width, such as "1x28x28"; None if it depends on the user's files.
    """

    classes: int | None
    input: str | None

    @property
    def input_shape(self) -> tuple[int, int, int] | None:
        return None if self.input is None else _shape(self.input)


S = TypeVar("S", bound=Spec)


@dataclass(frozen=True)
class Entry(Generic[S]):
    """A registered choice: its name, the module that defines it, a one-line summary and its spec."""

    name: str
    module: str
    summary: str
    spec: S

    def numbers(self, name: str) -> tuple[int, ...] | None:
        """Return the numbers in `name`, or None if `name` does not match this choice's pattern."""
        match = re.fullmatch(self.spec.pattern, name) if self.spec.pattern is not None else None
        return tuple(int(number) for number in match.groups()) if match else None


class Registry(Generic[S]):
    """The choices of one kind.

    Args:
        kind: singular noun for messages, such as "score".
        home: module or package whose source is read for decorated functions.
        spec_type: dataclass of the facts about a choice.
    """

    def __init__(self, kind: str, home: str, spec_type: type[S]) -> None:
        self.kind = kind
        self.home = home
        self.spec_type = spec_type
        self._functions: dict[str, Callable[..., Any]] = {}
        self._entries: dict[str, Entry[S]] = {}
        self._read: dict[str, Entry[S]] | None = None

    def register(self, name: str, **attributes: Any) -> Callable[[F], F]:
        """Return a decorator that registers a function as `name`. `attributes` are those of the registry's spec."""
        spec = self._spec(name, attributes)

        def decorate(function: F) -> F:
            self._functions[name] = function
            summary = _first_paragraph(function.__doc__)
            self._entries[name] = Entry(name, function.__module__, summary, spec)
            return function

        return decorate

    def unregister(self, name: str) -> None:
        """Remove a choice that was registered at run time."""
        del self._functions[name], self._entries[name]

    def entries(self) -> dict[str, Entry[S]]:
        """Return every choice by name, in the order of the source, without importing any of them."""
        if self._read is None:
            self._read = {
                entry.name: entry
                for path, module in _sources(self.home)
                for entry in self._scan(path, module)
            }
        return {**self._read, **self._entries}

    def names(self) -> list[str]:
        """Return the names of all choices, without aliases."""
        return list(self.entries())

    def entry(self, name: str) -> Entry[S]:
        """Return the entry for a name or alias.

        Raises:
            PruningError: unknown name; the message lists the nearest names and then all.
        """
        entries = self.entries()
        if name in entries:
            return entries[name]
        for entry in entries.values():
            if name in entry.spec.aliases or entry.numbers(name) is not None:
                return entry
        raise unknown(self.kind, name, entries)

    def canonical(self, name: str) -> str:
        """Return the listed name for an alias; any other name is returned unchanged."""
        return next((entry.name for entry in self.entries().values() if name in entry.spec.aliases), name)

    def get(self, name: str) -> Callable[..., Any]:
        """Return the registered function, importing its module first if necessary.

        The numbers in `name` are bound as its first arguments if the choice has a pattern.

        Raises:
            PruningError: unknown name, or the name of a choice with a pattern without its numbers.
        """
        entry = self.entry(name)
        if entry.name not in self._functions:
            importlib.import_module(entry.module)
        function = self._functions[entry.name]
        if entry.spec.pattern is None:
            return function
        numbers = entry.numbers(name)
        if numbers is None:
            raise PruningError(f"{self.kind} {name} needs numbers: write {entry.spec.example}, for example.")
        return partial(function, *numbers)

    def _spec(self, name: str, attributes: Mapping[str, Any]) -> S:
        try:
            return self.spec_type(**attributes)
        except TypeError as error:
            known = ", ".join(attribute.name for attribute in fields(self.spec_type))
            raise TypeError(
                f"{self.kind} {name!r}: {error}. A {self.kind} has the attributes {known}."
            ) from None

    def _scan(self, path: Path, module: str) -> list[Entry[S]]:
        """Return the entries of all decorated functions and classes in a source file."""
        found = []
        for node in ast.parse(path.read_bytes()).body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                continue
            for call in filter(self._is_registration, node.decorator_list):
                assert isinstance(call, ast.Call)
                name = ast.literal_eval(call.args[0])
                attributes = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
                summary = _first_paragraph(ast.get_docstring(node))
                found.append(Entry(name, module, summary, self._spec(name, attributes)))
        return found

    @staticmethod
    def _is_registration(decorator: ast.expr) -> bool:
        return (
            isinstance(decorator, ast.Call)
            and isinstance(decorator.func, ast.Attribute)
            and decorator.func.attr == "register"
            and bool(decorator.args)
        )


def unknown(kind: str, name: str, names: Iterable[str]) -> PruningError:
    """Return the error for a name that is not among `names`: the nearest names, then all of them."""
    known = list(names)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    suggestion = f" Did you mean {' or '.join(near)}?" if near else ""
    return PruningError(f"Unknown {kind} {name!r}.{suggestion} Known: {', '.join(known)}.")


def _shape(text: str) -> tuple[int, int, int]:
    channels, height, width = (int(size) for size in text.split("x"))
    return channels, height, width


def _first_paragraph(doc: str | None) -> str:
    return " ".join((doc or "").strip().split("\n\n")[0].split())


def _sources(home: str) -> list[tuple[Path, str]]:
    """Return the source files of a module or package with their module names."""
    spec = importlib.util.find_spec(home)
    assert spec is not None and spec.origin is not None, home
    origin = Path(spec.origin)
    if spec.submodule_search_locations is None:
        return [(origin, home)]
    files = sorted(path for path in origin.parent.glob("*.py") if path != origin)
    return [(origin, home), *((path, f"{home}.{path.stem}") for path in files)]


STRUCTURES = Registry("structure", "pruning.axes.structure", StructureSpec)
SCORES = Registry("score", "pruning.axes.scoring", ScoreSpec)
STATISTICS = Registry("statistic", "pruning.core.statistics", StatisticSpec)
ACCUMULATORS = Registry("accumulator", "pruning.core.accumulation", AccumulatorSpec)
CORRECTIONS = Registry("correction", "pruning.core.corrections", CorrectionSpec)
ALLOCATIONS = Registry("allocation", "pruning.axes.allocation", AllocationSpec)
SCHEDULES = Registry("schedule", "pruning.axes.scheduling", ScheduleSpec)
FINETUNINGS = Registry("fine-tuning policy", "pruning.axes.finetuning", FinetuneSpec)
ARCHITECTURES = Registry("architecture", "pruning.models", ArchitectureSpec)
DATASETS = Registry("data set", "pruning.data", DatasetSpec)

_OF_OPTIONS: dict[str, Registry[Any]] = {
    "arch": ARCHITECTURES,
    "dataset": DATASETS,
    "finetune": FINETUNINGS,
    "schedule": SCHEDULES,
}


def canonical_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's options with every alias replaced by the listed name, to compare or show old records."""
    return {
        name: _OF_OPTIONS[name].canonical(value) if name in _OF_OPTIONS else value
        for name, value in options.items()
    }
