"""Rules for the code: which folder imports which, how long files and functions may be, what only one module does.

A function over 60 lines or with more than 8 parameters gives the reason in a line of its docstring that begins with
"Length:" or "Parameters:"; a file over 400 lines does so in the docstring of the module.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pruning"
TESTS = Path(__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {file: ast.parse(file.read_text()) for file in FILES}
CODE = {**TREES, **{file: ast.parse(file.read_text()) for file in sorted(TESTS.rglob("*.py"))}}

LONGEST_FILE = 400  # lines
LONGEST_FUNCTION = 60  # lines
MOST_PARAMETERS = 8

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


def imported_modules(file: Path) -> set[str]:
    """The modules that a file imports, and the names that it imports from them, with their module."""
    found: set[str] = set()
    for node in ast.walk(TREES[file]):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def own_imports(file: Path) -> set[str]:
    """The modules of the package that a file imports, by name below `pruning`."""
    return {name.removeprefix("pruning.") for name in imported_modules(file) if name.startswith("pruning.")}


def folder(module: str) -> str:
    return module.split(".")[0]


def location(file: Path, node: ast.stmt | ast.expr) -> str:
    return f"{file.relative_to(TESTS.parent)}:{node.lineno}"


def functions() -> list[tuple[str, ast.FunctionDef]]:
    """Every function of the package and of the tests, with its file and line."""
    return [
        (f"{location(file, node)} {node.name}", node)
        for file, tree in CODE.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    ]


def gives_reason(node: ast.Module | ast.FunctionDef, word: str) -> bool:
    """Return whether a line of the docstring begins with "`word`:"."""
    lines = (ast.get_docstring(node) or "").splitlines()
    return any(line.strip().startswith(f"{word}:") for line in lines)


def is_command(node: ast.FunctionDef) -> bool:
    """Return whether Typer calls the function: its parameters are the options, and its docstring is the help."""
    annotations = [argument.annotation for argument in node.args.args if argument.annotation is not None]
    return any("typer." in ast.unparse(annotation) for annotation in annotations)


IMPORTS = {module_name(file): own_imports(file) for file in FILES}


@pytest.mark.parametrize("name", sorted(MAY_IMPORT))
def test_a_folder_imports_only_the_folders_that_the_table_allows(name: str) -> None:
    allowed = MAY_IMPORT[name] | {name, "errors"}
    for module, imported in IMPORTS.items():
        if folder(module) == name:
            forbidden = {one for one in imported if folder(one) in MAY_IMPORT and folder(one) not in allowed}
            if module == "axes.finetuning":  # its policies choose a training recipe
                forbidden = {one for one in forbidden if not one.startswith("training.recipe")}
            assert not forbidden, module


def test_every_folder_of_the_package_is_in_the_table() -> None:
    entry_points = {"", "__main__"}
    assert {folder(name) for name in IMPORTS} - entry_points == set(MAY_IMPORT)


def test_axis_modules_never_import_one_another() -> None:
    axes = {"structure", "scoring", "allocation", "scheduling", "finetuning"}
    for axis in axes:
        others = {f"axes.{other}" for other in axes - {axis}}
        assert not IMPORTS[f"axes.{axis}"] & others, axis


def test_only_the_command_line_prints_or_imports_what_draws_on_the_terminal() -> None:
    found = []
    for file in FILES:
        if folder(module_name(file)) in {"cli", "__main__"}:
            continue
        found += [
            location(file, node)
            for node in ast.walk(TREES[file])
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        ]
        found += [str(file) for name in imported_modules(file) if name.split(".")[0] in {"rich", "typer"}]
    assert not found


def test_only_run_files_has_the_names_of_the_files_of_a_run() -> None:
    names = {"result.json", "events.jsonl", "config.yaml", "model.safetensors", "masks.safetensors"}
    names |= {".dense", ".rounds", ".sweeps", ".locks"}
    found = [
        f"{location(file, node)} {node.value}"
        for file in FILES
        if module_name(file) != "experiment.run_files"
        for node in ast.walk(TREES[file])
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if not names.isdisjoint(node.value.split("/"))
    ]
    assert not found


def test_a_file_over_400_lines_gives_a_reason() -> None:
    lengths = {file: len(file.read_text().splitlines()) for file in CODE}
    found = [
        f"{file.relative_to(TESTS.parent)}: {length} lines"
        for file, length in lengths.items()
        if length > LONGEST_FILE and not gives_reason(CODE[file], "Length")
    ]
    assert not found


def test_a_function_over_60_lines_gives_a_reason() -> None:
    lengths = [(place, node, (node.end_lineno or 0) - node.lineno + 1) for place, node in functions()]
    found = [
        f"{place}: {length} lines"
        for place, node, length in lengths
        if length > LONGEST_FUNCTION and not gives_reason(node, "Length")
    ]
    assert not found


def test_a_function_with_more_than_8_parameters_gives_a_reason() -> None:
    found = []
    for place, node in functions():
        positional = [*node.args.posonlyargs, *node.args.args]
        receiver = bool(positional) and positional[0].arg in {"self", "cls"}
        number = len(positional) + len(node.args.kwonlyargs) - receiver
        if number > MOST_PARAMETERS and not (is_command(node) or gives_reason(node, "Parameters")):
            found.append(f"{place}: {number} parameters")
    assert not found


def test_no_function_rebinds_variables_of_the_function_around_it() -> None:
    found = [
        location(file, node)
        for file, tree in CODE.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Nonlocal)
    ]
    assert not found


def test_no_string_is_executed_and_no_attribute_name_is_composed() -> None:
    """No exec and eval, and no getattr with an f-string or a sum of strings."""
    found = []
    for file in FILES:
        for node in ast.walk(TREES[file]):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            composed = any(isinstance(argument, ast.JoinedStr | ast.BinOp) for argument in node.args[1:2])
            if node.func.id in {"exec", "eval"} or (node.func.id == "getattr" and composed):
                found.append(location(file, node))
    assert not found
