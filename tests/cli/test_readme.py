"""README and the guides: their Python blocks and commands run, and the names in them exist.

Commands are read from the shell blocks and inline code of README and configs/guides, and from the headers of the YAML
files in configs. Each is covered in one of these ways; a command without one fails.

- The options of a run: the run itself, on two batches of every pass (`--dry-run`) and without latency measurement.
- A run whose data or weights would have to be downloaded (DOWNLOADS): its options are parsed and resolved.
- `sweep`: the whole grid is planned and checked (`--plan`). Without GPUs, `--gpus` is parsed only.
- verify, measure, export, report, compare, list, `--resume`: as they are, on runs of one epoch.
- pytest: the file, the test and the marker exist.
- Setup, lint and types (IN_CI): .ci/run does the same.

Names in capitals (DIR, FILE, NAME, GRID.yaml) and the files of the Python blocks are replaced by real ones.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from conftest import fork

from pruning import registry
from pruning.cli.app import app, execute
from pruning.config.resolution import resolve
from pruning.config.run_config import RunConfig

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "configs" / "guides").glob("*.md"))]
MAIN = "main.py"
COMMANDS = ("list", "verify", "measure", "export", "bench", "sweep", "report", "compare")
DOWNLOADS = ("--pretrained", "cifar10")
IN_CI = ("ruff", "mypy", "pip", "venv")
SHORT = ("--dry-run", "--measure-seconds", "0")

NETWORK = """
from torch import nn


def make_net(num_classes, in_channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * 28 * 28, 100), nn.Linear(100, num_classes))
"""


@dataclass(frozen=True)
class Command:
    """A command line and where it is written."""

    page: str
    text: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text, comments=True)

    @property
    def arguments(self) -> list[str]:
        """The arguments of main.py."""
        return self.words[self.words.index(MAIN) + 1 :]

    @property
    def name(self) -> str | None:
        """The command of main.py, None for a run."""
        return self.arguments[0] if self.arguments and self.arguments[0] in COMMANDS else None


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def real(arguments: list[str]) -> list[str]:
    """The arguments with names that exist in `place`."""
    names = {
        "global_fisher": "random",  # for `compare`, which needs runs
        "DIR": "images",
        "FILE": "weights.pt",
        "GRID.yaml": "configs/quick.yaml",
        "runs/NAME": "runs/global_mag",
        "data=DIR": "data=images",
        "runs/fashion": "runs",
        "runs/scores": "runs",
    }
    return [names.get(word, word) for word in arguments]


def commands() -> list[Command]:
    found = []
    for page in PAGES:
        text = page.read_text()
        lines = [line for block in blocks(text, "sh") for line in block.splitlines()]
        lines += re.findall(
            r"(?<!`)`(python main\.py [^`]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M)
        )
        found += [Command(page.name, part.strip()) for line in lines for part in line.split("&&")]
    for file in sorted((ROOT / "configs").glob("*.yaml")):
        lines = re.findall(r"^# +(python main\.py .+)$", file.read_text(), re.MULTILINE)
        assert lines, f"{file.name} has no command in its header"
        found += [Command(file.name, line) for line in lines]
    # The same words after `real` are run once.
    return list({tuple(real(command.words)): command for command in found}.values())


ALL = commands()
OF_MAIN = [command for command in ALL if MAIN in command.words]
RUNS = [command for command in OF_MAIN if command.name is None]
RESOLVED_ONLY = [command for command in RUNS if any(word in command.text for word in DOWNLOADS)]
DONE = [command for command in RUNS if command not in RESOLVED_ONLY]
SWEEPS = [command for command in OF_MAIN if command.name == "sweep"]
OTHERS = [command for command in OF_MAIN if command.name not in (None, "sweep")]
PYTESTS = [command for command in ALL if "pytest" in command.words]


def ids(command: Command) -> str:
    return f"{command.page}: {command.text}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands need: configs, complete runs, the files of the Python blocks, images."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("readme")
    (folder / "configs").symlink_to(ROOT / "configs")
    for block in (block for page in PAGES for block in blocks(page.read_text(), "python")):
        if title := re.match(r"# (\w+\.py)\n", block):
            (folder / title[1]).write_text(block)
    (folder / "net.py").write_text(NETWORK)
    for number in range(12):
        image = folder / "images" / "ab"[number % 2] / f"{number}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (28, 28), 20 * number).save(image)
    here = Path.cwd()
    os.chdir(folder)
    try:
        for method in ("global_mag", "random"):
            short = "--epochs 1 --finetune-epochs 1 --rounds 1 --measure-seconds 0 --quiet"
            assert execute(f"{short} --method {method} --name {method}".split()) == 0
        network = "--arch net.py:make_net --epochs 0 --finetune none --save-model --save-path weights.pt"
        assert execute([*network.split(), *SHORT, "--quiet"]) == 0
    finally:
        os.chdir(here)
    return folder


def parsed(arguments: list[str]) -> Any:
    """The context of main.py's command line; a wrong option or value is an error."""
    group = typer.main.get_command(app)
    context = group.make_context(MAIN, list(arguments))
    rest = [*context._protected_args, *context.args]
    if rest:
        _, command, words = group.resolve_command(context, rest)
        return command.make_context(rest[0], words, parent=context)
    return context


def test_every_command_is_covered() -> None:
    for command in ALL:
        words = command.words
        covered = MAIN in words or "pytest" in words or words == [".", ".venv/bin/activate"]
        assert covered or any(word.endswith(IN_CI) for word in words), ids(command)
    assert len(DONE) > 10
    assert len(SWEEPS) > 5


@pytest.mark.parametrize("command", DONE, ids=ids)
def test_a_run_ends_with_exit_code_0(command: Command, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [*real(command.arguments), "--quiet"]
    if "--resume" not in arguments:
        arguments += SHORT
    if "--plugin" in arguments:  # registers for the rest of the process
        process = fork(*arguments, cwd=place)
        _, errors = process.communicate(60)
        assert process.returncode == 0, errors
        return
    monkeypatch.chdir(place)
    assert execute(arguments) == 0


@pytest.mark.parametrize("command", RESOLVED_ONLY, ids=ids)
def test_the_options_of_a_run_with_a_download_are_valid(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    values = parsed(real(command.arguments)).params
    given = {name: values[name] for name in RunConfig.model_fields if values[name] not in (None, ())}
    assert resolve(given, values["config_file"])


@pytest.mark.parametrize("command", SWEEPS, ids=ids)
def test_a_sweep_can_be_planned(command: Command, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    arguments = real(command.arguments)
    assert parsed(arguments)
    for option in ("--gpus", "--jobs-per-gpu"):
        if option in arguments:
            at = arguments.index(option)
            del arguments[at : at + 2]
    assert execute([*arguments, "--plan"]) == 0


@pytest.mark.parametrize("command", OTHERS, ids=ids)
def test_another_command_ends_with_exit_code_0(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = real(command.arguments)
    if "--plugin" in arguments:
        process = fork(*arguments, cwd=place)
        _, errors = process.communicate(60)
        assert process.returncode == 0, errors
        return
    monkeypatch.chdir(place)
    if command.name == "measure":
        arguments += ["--seconds", "0.01"]
    assert execute(arguments) == 0


@pytest.mark.parametrize("command", PYTESTS, ids=ids)
def test_a_pytest_command_names_a_file_a_test_or_a_marker_that_exists(command: Command) -> None:
    arguments = command.words[command.words.index("pytest") + 1 :]
    options = dict(itertools.pairwise(arguments))
    files = [word for word in arguments if word.startswith("tests/")]
    for file in files:
        assert re.search(rf"^def test_\w*{options.get('-k', '')}", (ROOT / file).read_text(), re.MULTILINE)
    if "-m" in options:
        assert f'"{options["-m"]}:' in (ROOT / "pyproject.toml").read_text()


def test_ci_runs_the_commands_of_the_development_section() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    (command,) = re.findall(r"<!-- test command -->\n```sh\n(.*)\n```", README)
    assert command.endswith(".venv/bin/python -m pytest")
    for one in ALL:
        if one.words[0] in (".venv/bin/ruff", ".venv/bin/mypy"):
            assert shlex.join(one.words) in script


def test_the_python_blocks_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks(README, "python"):
        if "register(" not in block:  # a plugin registers for the rest of the process; its command runs it
            exec(compile(block, "README.md", "exec"), names)
    assert names["masks"].sparsity == pytest.approx(0.8, abs=1e-3)
    assert (tmp_path / "masks.safetensors").exists()


def test_the_table_of_axes_names_every_registered_choice() -> None:
    table = README[README.index("| axis |") :].partition("\n\n")[0]
    rows = table.splitlines()[2:]
    kinds = (
        registry.STRUCTURES,
        registry.ALLOCATIONS,
        registry.SCORES,
        registry.SCHEDULES,
        registry.FINETUNINGS,
    )
    for row, kind in zip(rows, kinds, strict=True):
        choices = re.sub(r"\(.*?\)", "", row.split("|")[3])
        assert re.findall(r"`([^`]+)`", choices) == kind.names(), (
            f"README's table of axes must list the names of {kind.kind}s in the order of the source"
        )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\((?!http)([^)#]+)\)|src=\"([^\"]+)\"", text)
    for target in (one or other for one, other in links):
        assert (page.parent / target).exists(), target
    for name in re.findall(r"`([\w./-]+(?:\.py|\.yaml|\.md|/))`", text):
        if "/" in name and not re.search(r"[A-Z]{3}", name):
            assert (ROOT / name).exists() or (ROOT / "pruning" / name).exists(), name


def test_a_function_that_is_named_with_its_file_is_defined_there() -> None:
    pairs = re.findall(r"`(\w+)`\s\(`([\w/]+\.py)`\)", README)
    assert pairs
    for name, file in pairs:
        path = next(path for path in (ROOT / file, ROOT / "pruning" / file) if path.exists())
        assert re.search(rf"^(def|class) {name}\b", path.read_text(), re.MULTILINE), name


def test_the_first_command_prints_the_tables_that_readme_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    first = next(command for command in RUNS if "--log-interval" in command.text)
    assert execute([*first.arguments, "--dry-run"]) == 0
    printed = re.sub(r" +", " ", capsys.readouterr().out)
    shown = [re.sub(r" +", " ", line) for line in blocks(README, "text")[0].splitlines()]
    labels = [re.match(r"[^\d…]*", line) for line in shown]
    for label in labels:
        assert label and label[0].strip() in printed
