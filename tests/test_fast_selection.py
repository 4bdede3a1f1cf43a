"""The selection `pytest -m fast`: which tests it has, and that it reaches every folder."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from conftest import Cli, fork
from fast_selection import SLOW_TESTS, TESTS, is_fast


@pytest.fixture
def from_a_process(cli: Cli) -> None: ...


def starts_a_process() -> None:
    subprocess.run(["true"], check=True)


def calls_a_helper() -> None:
    starts_a_process()


def forks() -> None:
    def inner() -> None:
        fork(cwd=Path())

    inner()


def adds() -> None:
    assert 1 + 1 == 2


def needs_a_process(from_a_process: None) -> None: ...


@pytest.mark.parametrize(
    ("function", "fast"),
    [
        (starts_a_process, False),
        (calls_a_helper, False),
        (forks, False),
        (needs_a_process, False),
        (adds, True),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_test_is_fast_unless_it_or_its_helpers_or_fixtures_start_a_process(
    function: object, fast: bool, request: pytest.FixtureRequest
) -> None:
    module = request.node.getparent(pytest.Module)
    item = pytest.Function.from_parent(module, name="made", callobj=function)
    assert is_fast(item) == fast


def test_every_folder_of_tests_has_fast_tests(request: pytest.FixtureRequest) -> None:
    folders = {path.name for path in TESTS.iterdir() if any(path.glob("test_*.py"))}
    collected = {item.path.parent.name for item in request.session.items if item.get_closest_marker("fast")}
    if not folders <= {item.path.parent.name for item in request.session.items}:
        pytest.skip("needs the collection of all tests")
    assert folders <= collected


@pytest.mark.parametrize("test", SLOW_TESTS)
def test_every_test_that_is_listed_as_slow_exists(test: str) -> None:
    file, _, name = test.partition("::")
    assert f"def {name or 'test_'}" in (TESTS / file).read_text()
