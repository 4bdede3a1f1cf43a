"""Who may import whom: the table of the package's folders, read from the imports."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pruning"
FILES = sorted(PACKAGE.rglob("*.py"))

# Folder (or module at the top of the package) -> the folders that it may import, besides itself and `errors`.
LEAVES = {"registry", "utils"}
BELOW_EXPERIMENT = LEAVES | {"axes", "config", "core", "data", "measure", "models", "training"}
MAY_IMPORT = {
    "errors": set(),
    "registry": set(),
    "utils": set(),
    "axes": {"registry"},
    "data": LEAVES,
    "models": LEAVES,
    "training": LEAVES | {"data", "models"},
    "core": LEAVES | {"axes"},
    "measure": LEAVES | {"axes", "core", "training", "models", "data"},
    "config": LEAVES | {"axes", "models", "data"},
    "experiment": BELOW_EXPERIMENT,
    "sweep": BELOW_EXPERIMENT | {"experiment"},
    "report": BELOW_EXPERIMENT | {"experiment"},
    "cli": BELOW_EXPERIMENT | {"experiment", "sweep", "report"},
}


def module_name(file: Path) -> str:
    """`core.masks` for pruning/core/masks.py; the empty string for the package itself."""
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


def folder(module: str) -> str:
    return module.split(".")[0]


IMPORTS = {module_name(file): imports(file) for file in FILES}


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_a_folder_imports_only_what_the_table_allows(room: str) -> None:
    # Fine-tuning policies choose a training recipe, so that one axis also imports the recipe.
    allowed = MAY_IMPORT[room] | {room, "errors"}
    for name, imported in IMPORTS.items():
        if folder(name) == room:
            recipe = {"training", "training.recipe"} if name == "axes.finetuning" else set()
            wrong = {one for one in imported if folder(one) in MAY_IMPORT and folder(one) not in allowed}
            wrong -= {one for one in wrong if ".".join(one.split(".")[:2]) in recipe}
            assert not wrong, name


def test_every_folder_of_the_package_is_in_the_table() -> None:
    entry_points = {"", "__main__"}
    assert {folder(name) for name in IMPORTS} - entry_points == set(MAY_IMPORT)


def test_axis_modules_never_import_one_another() -> None:
    axes = {"structure", "scoring", "allocation", "scheduling", "finetuning"}
    for axis in axes:
        others = {f"axes.{other}" for other in axes - {axis}}
        assert not IMPORTS[f"axes.{axis}"] & others, axis


def test_only_the_command_line_prints() -> None:
    for file in FILES:
        calls = [node.func for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
        prints = [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]
        assert not prints, file


def test_only_run_files_names_the_files_of_a_run() -> None:
    names = {"result.json", "events.jsonl", "config.yaml", "model.safetensors", "masks.safetensors"}
    for file in FILES:
        strings = {
            node.value
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        if file.stem != "run_files":
            assert not strings & names, file
