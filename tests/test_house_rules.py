"""Who may import whom, read from the imports: the rules that keep every room of the package one room."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pruning"
FILES = sorted(PACKAGE.rglob("*.py"))
AXES = {"structure", "scoring", "allocation", "scheduling", "finetuning"}


def module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(file: Path) -> set[str]:
    """The project's own modules that a file imports, by name below `pruning`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return {name.removeprefix("pruning.") for name in found if name.startswith("pruning.")}


IMPORTS = {module_name(file): imports(file) for file in FILES}


def test_axis_modules_never_import_one_another() -> None:
    for axis in AXES:
        assert not IMPORTS[axis] & (AXES - {axis})


@pytest.mark.parametrize("room", ["models", "data"])
def test_models_and_data_know_nothing_of_pruning(room: str) -> None:
    for name, imported in IMPORTS.items():
        if name.split(".")[0] == room:
            assert {one.split(".")[0] for one in imported} <= {room, "errors", "registry"}, name


def test_only_the_command_line_imports_the_experiment() -> None:
    users = {name for name, imported in IMPORTS.items() if "experiment" in imported}
    assert users <= {"cli", "sweep"}


def test_nothing_but_the_terminal_prints() -> None:
    for file in FILES:
        calls = [node.func for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
        prints = [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]
        assert not prints, file


def test_only_run_files_knows_the_names_of_a_runs_files() -> None:
    names = ("result.json", "events.jsonl", "config.yaml", "model.safetensors", "masks.safetensors")
    for file in FILES:
        strings = {
            node.value
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        if file.stem != "run_files":
            assert not strings & set(names), file


def test_the_schedules_need_no_torch() -> None:
    for name in (
        "scheduling",
        "allocation",
        "config",
        "config_reading",
        "cli",
        "console",
        "registry",
        "targets",
        "trajectories",
    ):
        text = (PACKAGE / f"{name}.py").read_text()
        top = [node for node in ast.parse(text).body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not any("torch" in ast.unparse(node) for node in top), name
