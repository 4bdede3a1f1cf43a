"""Read the YAML file of a sweep and expand its grid into runs.

The file::

    options:                                   # the same for every run, as in the file of a single run
      arch: my
      epochs: 10
    grid:                                      # every combination of these values is a run
      method: [global_mag, random]
      compression:                             # a value can set other options, too
        - {compression: 2, rounds: 1}
        - {compression: 4, rounds: 2}
      seed: [0, 1, 2]
    exclude:                                   # leave out every run that matches one of these patterns
      - {method: random, compression: 4}
    override:                                  # change options of the runs that match a pattern
      - when: {compression: [2, 4]}            # a list matches any of its values
        set: {finetune_epochs: 5}

The file is checked before any run starts. A PruningError names the file, the item and the fix.
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

SECTIONS = ("options", "grid", "exclude", "override")
MAX_RUNS = 10_000
# Options that a grid may not set, and why.
FORBIDDEN = {
    "name": "every run is named after its options",
    "runs_dir": "pass --runs-dir to the sweep",
    "share_rounds": "a sweep always shares the rounds that its runs have in common",
    "save_model": "all runs would write to the same file; the folder of each run holds its network",
    "save_path": "all runs would write to the same file; the folder of each run holds its network",
}

Options = dict[str, Any]


@dataclass(frozen=True)
class Grid:
    """A parsed file.

    Attributes:
        file: the file, for error messages.
        options: options that every run has.
        axes: for each varied option, the options that each of its values sets.
        exclude: patterns of runs to leave out.
        override: pairs of a pattern and the options that matching runs get.
    """

    file: Path
    options: Options
    axes: Mapping[str, Sequence[Options]]
    exclude: Sequence[Options]
    override: Sequence[tuple[Options, Options]]


@dataclass(frozen=True)
class GridRun:
    """One combination of a grid: the choices that distinguish it from the others, and its whole configuration."""

    choices: Mapping[str, Any]
    config: RunConfig

    @property
    def label(self) -> str:
        return choices_label(self.choices)


def read_grid(file: Path, settings: Sequence[str] = ()) -> Grid:
    """Read and check a grid file.

    Args:
        file: the YAML file.
        settings: `NAME=VALUE` of --set; these options override those of the file, for all runs.

    Raises:
        PruningError: the file does not follow the format, or a setting is not an option that a grid may set.
    """
    values = read_yaml(file)
    for key in values:
        if key not in SECTIONS:
            raise PruningError(
                f"{file}: {key!r} is not a section of a grid ({', '.join(SECTIONS)}). "
                "Pass the file of a single run to --config."
            )
    axes = _parse_axes(file, values.get("grid"))
    varied = {name for entries in axes.values() for entry in entries for name in entry}
    options = _parse_options(file, "options", values.get("options") or {})
    for name in varied & options.keys():
        raise PruningError(f"{file}: {name} is in both options and grid. Remove it from one of them.")
    for setting in settings:
        name, value = _parse_setting(setting)
        if name in varied:
            raise PruningError(f"--set {setting}: the grid of {file} varies {name}. Change its values there.")
        options[name] = value
    known = varied | options.keys()
    return Grid(
        file,
        options,
        axes,
        [_parse_pattern(file, place, item, known) for place, item in _list_items(file, "exclude", values)],
        [_parse_override(file, place, item, known) for place, item in _list_items(file, "override", values)],
    )


def expand_grid(grid: Grid, runs_dir: Path) -> list[GridRun]:
    """Return every run of the grid, in the order of the file, the last axis fastest.

    Args:
        grid: the parsed file.
        runs_dir: the folder for the records of all runs.

    Raises:
        PruningError: a run is invalid or repeated, no run is left, or an exclusion or override matches no run.
    """
    combinations = _without_excluded(grid, _combinations(grid))
    for number, (when, changes) in enumerate(grid.override, start=1):
        matching = [options for _, options in combinations if _matches(when, options)]
        if not matching:
            raise PruningError(
                f"{grid.file}: override {number} matches no run: no run has {_format_options(when)}. "
                "Correct or remove it."
            )
        for options in matching:
            options |= changes
    names = distinguishing_options([choices for choices, _ in combinations])
    runs = []
    for choices, options in combinations:
        distinguishing = {name: choices[name] for name in names if name in choices}
        runs.append(GridRun(distinguishing, _resolve(grid, distinguishing, options, runs_dir)))
    _refuse_repeated(grid, runs)
    return runs


def choices_label(choices: Mapping[str, Any]) -> str:
    """Return the choices of a run as text: `method global_mag, compression 4, seed 0`."""
    return _format_options(choices) or "the only run"


def distinguishing_options(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the options in which runs differ, without those that follow from an option before them.

    Args:
        runs: the choices of each run, by option.
    """
    kept: list[str] = []
    for name in dict.fromkeys(name for choices in runs for name in choices):
        if not any(_is_determined_by(name, other, runs) for other in kept):
            kept.append(name)
    return kept


def _is_determined_by(name: str, other: str, runs: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether `other` varies and each of its values occurs with only one value of `name`."""
    pairs = {(repr(choices.get(other)), repr(choices.get(name))) for choices in runs}
    values = {value for value, _ in pairs}
    return len(pairs) == len(values) > 1


def _combinations(grid: Grid) -> list[tuple[Options, Options]]:
    """Return, for every combination, its choices and all its options."""
    count = math.prod(len(entries) for entries in grid.axes.values())
    if count > MAX_RUNS:
        raise PruningError(f"{grid.file}: the grid has {count:,} runs; at most {MAX_RUNS:,} are possible.")
    combinations = [
        {name: value for entry in entries for name, value in entry.items()}
        for entries in product(*grid.axes.values())
    ]
    return [(choices, {**grid.options, **choices}) for choices in combinations]


def _without_excluded(
    grid: Grid, combinations: list[tuple[Options, Options]]
) -> list[tuple[Options, Options]]:
    for number, pattern in enumerate(grid.exclude, start=1):
        if not any(_matches(pattern, options) for _, options in combinations):
            raise PruningError(
                f"{grid.file}: exclude {number} matches no run: no run has {_format_options(pattern)}. "
                "Correct or remove it."
            )
    kept = [pair for pair in combinations if not any(_matches(pattern, pair[1]) for pattern in grid.exclude)]
    if not kept:
        raise PruningError(
            f"{grid.file}: exclude leaves 0 of {len(combinations)} runs. Remove some of its items."
        )
    return kept


def _resolve(grid: Grid, choices: Options, options: Options, runs_dir: Path) -> RunConfig:
    try:
        return resolve({**options, "runs_dir": runs_dir})
    except PruningError as error:
        raise PruningError(f"{grid.file}: the run with {choices_label(choices)}: {error}") from None


def _refuse_repeated(grid: Grid, runs: Iterable[GridRun]) -> None:
    first: dict[str, GridRun] = {}
    for run in runs:
        earlier = first.setdefault(digest(run.config.config_key()), run)
        if earlier is not run:
            one, other = earlier.label, run.label
            both = f"{one} is there twice" if one == other else f"{one} and {other} are the same run"
            raise PruningError(f"{grid.file}: {both}. Remove one of them.")


def _matches(pattern: Options, options: Options) -> bool:
    """Return whether the options have every value of the pattern; a list in a pattern matches any of its values."""
    return all(
        options.get(name) == wanted or (isinstance(wanted, list) and options.get(name) in wanted)
        for name, wanted in pattern.items()
    )


# --- parse the sections of the file ---------------------------------------------------------------------------------


def _parse_axes(file: Path, section: Any) -> dict[str, list[Options]]:
    if section is None or section == {}:
        raise PruningError(
            f"{file}: the section grid is empty, which makes 0 runs. Add an axis such as `seed: [0, 1, 2]`."
        )
    axes = {}
    axis_of: dict[str, str] = {}
    for name, values in _parse_options(file, "grid", section).items():
        if not isinstance(values, list):
            raise PruningError(
                f"{file}: grid: {name} is {_format_value(values)}, not a list. Write `{name}: [...]`."
            )
        if not values:
            raise PruningError(
                f"{file}: grid: {name} has no values, which makes 0 runs. Add values or remove it."
            )
        axes[name] = [_parse_axis_value(file, name, value) for value in values]
        for option in {option for entry in axes[name] for option in entry}:
            if axis_of.setdefault(option, name) != name:
                raise PruningError(
                    f"{file}: grid: {axis_of[option]} and {name} both set {option}. Remove it from one of them."
                )
    return axes


def _parse_axis_value(file: Path, name: str, value: Any) -> Options:
    """Return the options that one value of the axis `name` sets, the axis itself first."""
    if not isinstance(value, dict):
        return {name: value}
    entry = _parse_options(file, f"grid: {name}", value)
    if name not in entry:
        raise PruningError(
            f"{file}: grid: {name}: {_format_value(value)} has no value of {name}. "
            f"Write {{{name}: ..., {', '.join(value)}: ...}}."
        )
    return {name: entry[name], **entry}


def _list_items(file: Path, section: str, values: Options) -> list[tuple[str, Any]]:
    """Return the items of a section that is a list, each with its name for error messages."""
    items = values.get(section) or []
    if not isinstance(items, list):
        raise PruningError(
            f"{file}: {section} is {_format_value(items)}, not a list. Begin each item with `- `."
        )
    return [(f"{section} {number}", item) for number, item in enumerate(items, start=1)]


def _parse_pattern(file: Path, place: str, item: Any, known: Iterable[str]) -> Options:
    """Return a pattern. It may name only options that the file sets, because it is compared with those."""
    pattern = _parse_options(file, place, item)
    if not pattern:
        raise PruningError(
            f"{file}: {place} has no options and would match every run. Add an option or remove it."
        )
    for name in pattern:
        if name not in known:
            raise PruningError(
                f"{file}: {place}: {name} is in neither options nor grid. Choose one of {', '.join(sorted(known))}."
            )
    return pattern


def _parse_override(file: Path, place: str, item: Any, known: Iterable[str]) -> tuple[Options, Options]:
    if not isinstance(item, dict) or set(item) != {"when", "set"}:
        raise PruningError(
            f"{file}: {place} is {_format_value(item)}. Write `when: {{...}}` and `set: {{...}}`."
        )
    changes = _parse_options(file, f"{place}: set", item["set"])
    if not changes:
        raise PruningError(f"{file}: {place}: set has no options. Add an option or remove the override.")
    return _parse_pattern(file, f"{place}: when", item["when"], known), changes


def _parse_options(file: Path, place: str, values: Any) -> Options:
    """Return options by name. PruningError unless a grid may set all of them."""
    if not isinstance(values, dict):
        raise PruningError(f"{file}: {place} is {_format_value(values)}, not a mapping. Write `name: value`.")
    for name in values:
        _check_option(f"{file}: {place}", name)
    return dict(values)


def _parse_setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise PruningError(f"--set {text} has no value. Write NAME=VALUE, such as --set epochs=5.")
    name = name.strip().replace("-", "_")
    _check_option(f"--set {text}", name)
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError:
        return name, value


def _check_option(place: str, name: Any) -> None:
    if name not in RunConfig.model_fields:
        raise PruningError(f"{place}: {unknown('option', str(name), RunConfig.model_fields)}")
    if name in FORBIDDEN:
        raise PruningError(f"{place}: {name} is not allowed in a grid: {FORBIDDEN[name]}.")


def _format_options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_format_value(value)}" for name, value in options.items())


def _format_value(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")
