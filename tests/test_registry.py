"""Registries: names read from source without importing, unknown names answered with the nearest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pruning import registry
from pruning.errors import PruningError
from pruning.registry import Registry

HOME = '''
raise_on_import = {}["imported"]

@CHOICES.register("first", needs=["x"], source="a paper")
def first():
    """What it does,
    in two lines.

    Not this."""

@CHOICES.register("second")
def second():
    """Another."""
'''


@pytest.fixture
def choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    (tmp_path / "home_of_choices.py").write_text(HOME)
    monkeypatch.syspath_prepend(str(tmp_path))
    return Registry("choice", "home_of_choices")


def test_names_facts_and_summaries_are_read_without_importing_the_home(choices: Registry) -> None:
    assert choices.names() == ["first", "second"]
    entry = choices.entry("first")
    assert (entry.summary, entry.about) == (
        "What it does, in two lines.",
        {"needs": ["x"], "source": "a paper"},
    )
    assert "home_of_choices" not in sys.modules


def test_an_unknown_name_is_answered_with_what_was_meant_then_all(choices: Registry) -> None:
    with pytest.raises(PruningError) as error:
        choices.get("frist")
    assert str(error.value) == "Unknown choice 'frist'. Did you mean first? Known: first, second."


def test_a_registration_made_while_running_is_found(choices: Registry) -> None:
    @choices.register("third", needs=[])
    def third() -> int:
        """The third."""
        return 3

    assert choices.names() == ["first", "second", "third"]
    assert choices.get("third")() == 3


def test_a_choice_may_take_numbers_in_its_name(choices: Registry) -> None:
    @choices.register("NofM", pattern=r"(\d+)of(\d+)", example="2of4")
    def n_of_m(n: int, m: int, what: str) -> str:
        """N of M."""
        return f"{n} of {m} {what}"

    assert choices.get("3of8")("things") == "3 of 8 things"
    assert choices.entry("3of8").name == "NofM"
    with pytest.raises(PruningError, match="NofM needs numbers: write 2of4"):
        choices.get("NofM")
    with pytest.raises(PruningError, match="Unknown choice '3of'"):
        choices.get("3of")


REGISTRIES = [thing for thing in vars(registry).values() if isinstance(thing, Registry)]


@pytest.mark.parametrize("one", REGISTRIES, ids=lambda one: one.kind)
def test_what_is_read_from_source_is_what_is_registered(one: Registry) -> None:
    own = {name: entry for name, entry in one.entries().items() if entry.module.startswith("pruning.")}
    assert own  # and not what a plugin of another test brought
    for name, entry in own.items():
        assert entry.summary, f"{name} has no docstring for `list`"
        assert callable(one.get(entry.about.get("example", name)))
        assert one._entries[name].about == entry.about


def test_reading_all_names_imports_no_torch() -> None:
    code = "import sys; from pruning import registry as r\n"
    code += "for one in vars(r).values():\n    isinstance(one, r.Registry) and one.names()\n"
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
