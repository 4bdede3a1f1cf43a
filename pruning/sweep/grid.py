"""The language of a sweep's file::

    options:                                   # the same for every run, as in the file of a single run
      arch: my
      epochs: 10
    grid:                                      # every combination of these values is a run
      method: [global_mag, random]
      compression:                             # options that go together: a value can bring others with it
        - {compression: 2, rounds: 1}
        - {compression: 4, rounds: 2}
      seed: [0, 1, 2]
    exclude:                                   # leave out every run that agrees with one of these
      - {method: random, compression: 4}
    override:                                  # give some of the runs other options
      - when: {compression: [2, 4]}            # a list means any of these
        set: {finetune_epochs: 5}

Everything is checked before anything is run; what is wrong is refused in one sentence that names the file and the item.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from pruning.config.resolution import resolve
from pruning.config.run_config import RunConfig
from pruning.errors import PruningError
from pruning.registry import unknown
from pruning.utils.digests import digest
from pruning.utils.yaml_files import read_yaml

KEYS = ("options", "grid", "exclude", "override")
MOST_RUNS = 10_000
REFUSED = {
    "name": "every run gets a name of its own, made from its options",
    "runs_dir": "give --runs-dir to the sweep",
    "share_rounds": "a sweep shares whatever rounds its runs have in common",
    "save_model": "the runs would write to the same file; every run's folder holds its network",
    "save_path": "the runs would write to the same file; every run's folder holds its network",
}

Options = dict[str, Any]


@dataclass(frozen=True)
class Grid:
    """A file as read: the axes hold, for every option varied, the options that each of its values sets."""

    file: Path
    options: Options
    axes: Mapping[str, Sequence[Options]]
    exclude: Sequence[Options]
    override: Sequence[tuple[Options, Options]]


@dataclass(frozen=True)
class Chosen:
    """One run of a grid: what tells it from the others, by option, and the whole configuration."""

    choices: Mapping[str, Any]
    config: RunConfig


def read(file: Path, settings: Sequence[str] = ()) -> Grid:
    """The grid in a file. `settings` are `NAME=VALUE`: options for all runs, over those of the file.

    PruningError, naming the file and the item, for anything that is not of the language.
    """
    values = read_yaml(file)
    for key in values:
        if key not in KEYS:
            raise PruningError(
                f"{file}: {key!r} is no part of a grid, which has {', '.join(KEYS)}; "
                "the file of a single run is for --config."
            )
    axes = _axes(file, values.get("grid"))
    varied = {name for entries in axes.values() for entry in entries for name in entry}
    options = _mapping(file, "options", values.get("options") or {})
    for name in varied & options.keys():
        raise PruningError(f"{file}: {name} is in both options and grid; leave it in one of them.")
    for setting in settings:
        name, value = _setting(setting)
        if name in varied:
            raise PruningError(f"--set {setting}: {name} is varied by the grid of {file}; change it there.")
        options[name] = value
    known = varied | options.keys()
    return Grid(
        file,
        options,
        axes,
        [_pattern(file, place, item, known) for place, item in _items(file, "exclude", values)],
        [_override(file, place, item, known) for place, item in _items(file, "override", values)],
    )


def runs(grid: Grid, runs_dir: Path) -> list[Chosen]:
    """Every run of the grid, in the order of the file, the last axis fastest; records go to `runs_dir`.

    PruningError, naming the run, if one makes no experiment; for no runs at all, one run twice, an exclusion or
    override that fits no run.
    """
    given = _without_excluded(grid, _combinations(grid))
    for number, (when, changes) in enumerate(grid.override, start=1):
        fitting = [options for _, options in given if _fits(when, options)]
        if not fitting:
            raise PruningError(
                f"{grid.file}: override {number}: no run has {_words(when)}; mend or remove it."
            )
        for options in fitting:
            options |= changes
    names = distinguishing_options([choices for choices, _ in given])
    found = []
    for choices, options in given:
        told = {name: choices[name] for name in names if name in choices}
        found.append(Chosen(told, _resolved(grid, told, options, runs_dir)))
    _refuse_repeated(grid, found)
    return found


def words(choices: Mapping[str, Any]) -> str:
    """What was chosen for a run, in a few words: `method global_mag, compression 4, seed 0`."""
    return _words(choices) or "the only one"


def distinguishing_options(given: Sequence[Mapping[str, Any]]) -> list[str]:
    """The options by which these choices differ, less those that only come along with another one."""
    kept: list[str] = []
    for name in dict.fromkeys(name for choices in given for name in choices):
        if not any(_follows(name, leader, given) for leader in kept):
            kept.append(name)
    return kept


def _follows(name: str, leader: str, given: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the value of `leader`, which varies, tells that of `name`."""
    values = {(repr(choices.get(leader)), repr(choices.get(name))) for choices in given}
    leading = {of_leader for of_leader, _ in values}
    return len(values) == len(leading) > 1


def _combinations(grid: Grid) -> list[tuple[Options, Options]]:
    """For every combination its choices, and all its options."""
    count = math.prod(len(entries) for entries in grid.axes.values())
    if count > MOST_RUNS:
        raise PruningError(f"{grid.file}: the grid makes {count:,} runs; at most {MOST_RUNS:,} are possible.")
    choices = [
        {k: v for entry in entries for k, v in entry.items()} for entries in product(*grid.axes.values())
    ]
    return [(one, {**grid.options, **one}) for one in choices]


def _without_excluded(grid: Grid, given: list[tuple[Options, Options]]) -> list[tuple[Options, Options]]:
    for number, pattern in enumerate(grid.exclude, start=1):
        if not any(_fits(pattern, options) for _, options in given):
            raise PruningError(
                f"{grid.file}: exclude {number}: no run has {_words(pattern)}; mend or remove it."
            )
    left = [one for one in given if not any(_fits(pattern, one[1]) for pattern in grid.exclude)]
    if not left:
        raise PruningError(f"{grid.file}: exclude leaves 0 of {len(given)} runs; remove some of it.")
    return left


def _resolved(grid: Grid, choices: Options, options: Options, runs_dir: Path) -> RunConfig:
    try:
        return resolve({**options, "runs_dir": runs_dir})
    except PruningError as error:
        raise PruningError(f"{grid.file}: the run with {words(choices)}: {error}") from None


def _refuse_repeated(grid: Grid, found: Iterable[Chosen]) -> None:
    first: dict[str, Chosen] = {}
    for one in found:
        before = first.setdefault(digest(one.config.config_key()), one)
        if before is not one:
            same = words(one.choices)
            both = f"{same} twice" if words(before.choices) == same else f"{words(before.choices)} and {same}"
            raise PruningError(f"{grid.file}: {both} are the same run; leave one of them out.")


def _fits(pattern: Options, options: Options) -> bool:
    """Do the options agree with the pattern in all that it names? A list in a pattern means any of its values."""
    return all(
        options.get(name) == wanted or (isinstance(wanted, list) and options.get(name) in wanted)
        for name, wanted in pattern.items()
    )


# --- what a file may hold -------------------------------------------------------------------------------------------


def _axes(file: Path, given: Any) -> dict[str, list[Options]]:
    if given is None or given == {}:
        raise PruningError(
            f"{file}: there is no grid, so 0 runs; write `grid:` and below it `seed: [0, 1, 2]`, say."
        )
    axes = {}
    setters: dict[str, str] = {}
    for name, values in _mapping(file, "grid", given).items():
        if not isinstance(values, list):
            raise PruningError(
                f"{file}: grid: {name} is {_plain(values)}, not a list; write `{name}: [...]`."
            )
        if not values:
            raise PruningError(f"{file}: grid: {name} has no values, so 0 runs; give it some, or remove it.")
        axes[name] = [_entry(file, name, value) for value in values]
        for other in {option for entry in axes[name] for option in entry}:
            if setters.setdefault(other, name) != name:
                raise PruningError(
                    f"{file}: grid: {setters[other]} and {name} both set {other}; leave it in one."
                )
    return axes


def _entry(file: Path, name: str, value: Any) -> Options:
    """The options that one value of an axis sets."""
    if not isinstance(value, dict):
        return {name: value}
    entry = _mapping(file, f"grid: {name}", value)
    if name not in entry:
        raise PruningError(
            f"{file}: grid: {name}: {_plain(value)} does not say which {name} it is for; "
            f"write {{{name}: ..., {', '.join(value)}: ...}}."
        )
    return {name: entry[name], **entry}


def _items(file: Path, key: str, values: Options) -> list[tuple[str, Any]]:
    """The items of a list, each with the words that name it in an error."""
    items = values.get(key) or []
    if not isinstance(items, list):
        raise PruningError(f"{file}: {key} is {_plain(items)}, not a list; begin each item with `- `.")
    return [(f"{key} {number}", item) for number, item in enumerate(items, start=1)]


def _pattern(file: Path, place: str, item: Any, known: Iterable[str]) -> Options:
    """A partial match: it may name only what the file gives the runs, since it is compared with that."""
    pattern = _mapping(file, place, item)
    if not pattern:
        raise PruningError(f"{file}: {place} names no option, and so fits every run; name one, or remove it.")
    for name in pattern:
        if name not in known:
            raise PruningError(
                f"{file}: {place}: {name} is in neither options nor grid; what is there: {', '.join(sorted(known))}."
            )
    return pattern


def _override(file: Path, place: str, item: Any, known: Iterable[str]) -> tuple[Options, Options]:
    if not isinstance(item, dict) or set(item) != {"when", "set"}:
        raise PruningError(f"{file}: {place} is {_plain(item)}; write `when: {{...}}` and `set: {{...}}`.")
    changes = _mapping(file, f"{place}: set", item["set"])
    if not changes:
        raise PruningError(f"{file}: {place}: sets no option; name one, or remove it.")
    return _pattern(file, f"{place}: when", item["when"], known), changes


def _mapping(file: Path, place: str, given: Any) -> Options:
    """Options by name. PruningError unless all of them are options that a grid may hold."""
    if not isinstance(given, dict):
        raise PruningError(f"{file}: {place} is {_plain(given)}, not options; write `name: value`.")
    for name in given:
        _check_name(f"{file}: {place}", name)
    return dict(given)


def _setting(text: str) -> tuple[str, Any]:
    name, is_there, value = text.partition("=")
    if not is_there:
        raise PruningError(f"--set {text}: write an option and its value, such as --set data=DIR.")
    name = name.strip().replace("-", "_")
    _check_name(f"--set {text}", name)
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError:
        return name, value


def _check_name(place: str, name: Any) -> None:
    if name not in RunConfig.model_fields:
        raise PruningError(f"{place}: {unknown('option', str(name), RunConfig.model_fields)}")
    if name in REFUSED:
        raise PruningError(f"{place}: {name} has no place in a grid: {REFUSED[name]}.")


def _words(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_plain(value)}" for name, value in options.items())


def _plain(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")
