"""The help and `list`: every option and choice is in them, and neither they nor mistakes import torch."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MAIN, Cli

from pruning import registry
from pruning.axes import methods
from pruning.cli import catalogue
from pruning.cli.run_options import FIRST_SECTIONS
from pruning.config.options import flag
from pruning.config.run_config import RunConfig


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["list"], ["list", "methods"], ["--epocs", "3"], ["--arch", "mi"], ["--sparsity", "1.5"]],
)
def test_help_lists_and_mistakes_are_answered_without_importing_torch(
    arguments: list[str], tmp_path: Path
) -> None:
    python = [sys.executable, "-X", "importtime", str(MAIN), *arguments]
    imported = subprocess.run(python, cwd=tmp_path, capture_output=True, text=True, check=False).stderr
    names = {
        line.rpartition("|")[2].strip() for line in imported.splitlines() if line.startswith("import time:")
    }
    assert "pruning.cli.app" in names
    assert not names & {"torch", "torchvision", "numpy"}


def test_the_help_shows_every_option_of_a_run_once(cli: Cli) -> None:
    shown = cli("--help", COLUMNS="200").stdout
    for name in RunConfig.model_fields:
        assert len(re.findall(rf"^│ {flag(name)}[ /]", shown, re.MULTILINE)) == 1, name


def test_the_help_begins_with_the_options_that_most_users_need(cli: Cli) -> None:
    shown = cli("--help", COLUMNS="200").stdout
    order = re.findall(r"^│ --([a-z-]+)", shown, re.MULTILINE)[1:]  # after --help itself
    first = [name.replace("_", "-") for names in FIRST_SECTIONS.values() for name in names]
    assert order[: len(first)] == first
    assert order[len(first) : len(first) + 3] == ["config", "resume", "fresh"]


@pytest.mark.parametrize("name", ["schedule", "structure", "finetune", "precision"])
def test_the_help_shows_the_choices_of_an_option_that_has_few(name: str, cli: Cli) -> None:
    choices = {
        "schedule": registry.SCHEDULES.names(),
        "structure": ["weight", "filter", "2:4"],
        "finetune": registry.FINETUNINGS.names(),
        "precision": ["fp32", "bf16"],
    }[name]
    (line,) = (
        line
        for line in cli("--help", COLUMNS="250").stdout.splitlines()
        if line.startswith(f"│ {flag(name)} ")
    )
    assert all(choice in line for choice in choices)


def test_the_help_fits_into_80_columns(cli: Cli) -> None:
    for words in ([], ["sweep"], ["measure"]):
        assert max(map(len, cli(*words, "--help", COLUMNS="80").stdout.splitlines())) <= 80


def test_a_boolean_option_shows_no_value_in_the_help(cli: Cli) -> None:
    for words in ([], ["sweep"], ["bench"]):
        lines = cli(*words, "--help", COLUMNS="200").stdout.splitlines()
        assert not [line for line in lines if "<bool>" in line and "--help" not in line]


def test_list_shows_every_registered_choice(cli: Cli) -> None:
    shown = cli("list").stdout
    for name in [*methods.names(), *registry.ARCHITECTURES.names(), *registry.DATASETS.names()]:
        assert re.search(rf"^{re.escape(name)} ", shown, re.MULTILINE), name


def test_a_method_is_listed_with_its_allocation_score_needs_and_source() -> None:
    columns, rows = catalogue.table("methods")
    listed = {row[0]: dict(zip(columns, row, strict=True)) for row in rows}
    assert listed.keys() == set(methods.names())
    for name, row in listed.items():
        spec = registry.SCORES.entry(row["score"]).spec
        assert (row["allocation"], row["score"]) == methods.split(name)
        assert all(need in row["needs"] for need in [*spec.statistics, *spec.accumulates])
        assert row["source"] == spec.source
        assert row["source"]
