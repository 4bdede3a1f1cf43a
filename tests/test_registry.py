"""Registries: typed specs, entries read from source without an import, aliases, unknown names."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pruning import registry
from pruning.axes import methods
from pruning.errors import PruningError
from pruning.registry import FINETUNINGS, SCORES, Registry, Spec, canonical_options


@dataclass(frozen=True, kw_only=True)
class ChoiceSpec(Spec):
    statistics: tuple[str, ...] = ()
    rounds: int | None = None


HOME = '''
raise_on_import = {}["imported"]

@CHOICES.register("first", statistics=("x",), aliases=("old_first",), source="a paper")
def first():
    """The summary,
    in two lines.

    Not this."""

@CHOICES.register("second")
def second():
    """Another."""
'''


@pytest.fixture
def make_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Registry[ChoiceSpec]]:
    def make(source: str) -> Registry[ChoiceSpec]:
        (tmp_path / "home_of_choices.py").write_text(source)
        monkeypatch.syspath_prepend(str(tmp_path))
        return Registry("choice", "home_of_choices", ChoiceSpec)

    return make


@pytest.fixture
def choices(make_choices: Callable[[str], Registry[ChoiceSpec]]) -> Registry[ChoiceSpec]:
    return make_choices(HOME)


def test_names_specs_and_summaries_are_read_without_importing_the_home(choices: Registry[ChoiceSpec]) -> None:
    assert choices.names() == ["first", "second"]
    entry = choices.entry("first")
    assert entry.summary == "The summary, in two lines."
    assert entry.spec == ChoiceSpec(statistics=("x",), aliases=("old_first",), source="a paper")
    assert "home_of_choices" not in sys.modules


def test_an_unknown_name_is_refused_with_the_nearest_names_then_all(choices: Registry[ChoiceSpec]) -> None:
    with pytest.raises(PruningError, match=r"'frist'.*first.*first, second"):
        choices.get("frist")


def test_a_registration_at_run_time_is_found_until_it_is_unregistered(choices: Registry[ChoiceSpec]) -> None:
    @choices.register("third", rounds=3)
    def third() -> int:
        """The third."""
        return 3

    assert choices.names() == ["first", "second", "third"]
    assert choices.entry("third").spec.rounds == choices.get("third")() == 3
    choices.unregister("third")
    assert choices.names() == ["first", "second"]


@pytest.mark.parametrize("attributes", [{"needs": ("x",)}, {"statistics": "x"}, {"statistics": ["x"]}])
def test_an_attribute_that_the_spec_does_not_allow_is_an_error_at_registration_and_when_read_from_source(
    attributes: dict[str, Any],
    choices: Registry[ChoiceSpec],
    make_choices: Callable[[str], Registry[ChoiceSpec]],
) -> None:
    (name,) = attributes
    with pytest.raises(TypeError, match=f"choice 'wrong'.*{name}"):
        choices.register("wrong", **attributes)
    words = ", ".join(f"{key}={value!r}" for key, value in attributes.items())
    source = f'@CHOICES.register("wrong", {words})\ndef wrong(): ...\n'
    with pytest.raises(TypeError, match=f"choice 'wrong'.*{name}"):
        make_choices(source).names()


def test_an_unknown_group_reduction_is_an_error_at_registration() -> None:
    with pytest.raises(TypeError, match=r"group_reduction='sum'.*mean"):
        SCORES.register("wrong", group_reduction="sum")


def test_numbers_in_a_name_are_bound_as_first_arguments(choices: Registry[ChoiceSpec]) -> None:
    @choices.register("NofM", pattern=r"(\d+)of(\d+)", example="2of4")
    def n_of_m(n: int, m: int, noun: str) -> str:
        """N of M."""
        return f"{n} of {m} {noun}"

    assert choices.get("3of8")("things") == "3 of 8 things"
    assert choices.entry("3of8").name == "NofM"
    with pytest.raises(PruningError, match=r"NofM.*2of4"):
        choices.get("NofM")
    with pytest.raises(PruningError, match="Unknown choice '3of'"):
        choices.get("3of")


def test_an_alias_resolves_to_the_listed_choice_and_is_not_listed(choices: Registry[ChoiceSpec]) -> None:
    assert choices.entry("old_first") == choices.entry("first")
    assert choices.canonical("old_first") == "first"
    assert choices.canonical("unknown") == "unknown"
    assert "old_first" not in choices.names()


def test_go_on_is_an_alias_of_the_policy_continue_in_options_and_records() -> None:
    assert FINETUNINGS.get("go_on") is FINETUNINGS.get("continue")
    options = {"finetune": "go_on", "dataset": "mnist", "epochs": 3}
    assert canonical_options(options) == {"finetune": "continue", "dataset": "mnist", "epochs": 3}


def test_an_alias_of_a_score_is_accepted_in_method_names() -> None:
    @SCORES.register("of_this_test", aliases=("old_score",))
    def of_this_test() -> None:
        """A score."""

    try:
        assert methods.split("layer_old_score") == ("layer", "of_this_test")
        assert "layer_old_score" not in methods.names()
    finally:
        SCORES.unregister("of_this_test")


REGISTRIES = [thing for thing in vars(registry).values() if isinstance(thing, Registry)]


@pytest.mark.parametrize("one", REGISTRIES, ids=lambda one: one.kind)
def test_entries_read_from_source_equal_the_registered_ones(one: Registry[Any]) -> None:
    read = Registry(one.kind, one.home, one.spec_type).entries()
    assert read
    for name, entry in read.items():
        assert entry.summary, f"{name} has no docstring for `list`"
        assert callable(one.get(entry.spec.example or name))  # imports the home
        assert one.entry(name) == entry


@pytest.mark.parametrize("one", REGISTRIES, ids=lambda one: one.kind)
def test_no_alias_is_also_a_name(one: Registry[Any]) -> None:
    aliases = [alias for entry in one.entries().values() for alias in entry.spec.aliases]
    assert len(aliases) == len(set(aliases))
    assert not set(aliases) & set(one.names())


def test_reading_all_names_imports_no_torch() -> None:
    code = "import sys; from pruning import registry as r\n"
    code += "for one in vars(r).values():\n    isinstance(one, r.Registry) and one.names()\n"
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
