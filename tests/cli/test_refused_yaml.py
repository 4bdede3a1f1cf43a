"""A wrong configuration file is refused in one sentence, before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from refusals import Case, assert_refused, case


def yaml_case(content: bytes | str | None, *mentions: str) -> Case:
    return case("--config", "run.yaml", mentions=("run.yaml", *mentions), files={"run.yaml": content})


ALIASES = "\n".join(
    ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12))]
)

CASES = {
    "yaml missing": case("--config", "none.yaml", mentions="none.yaml"),
    "yaml unknown key": yaml_case("epocs: 3", "epocs", "epochs"),
    "yaml key not a string": yaml_case("3: 4"),
    "yaml string for a number": yaml_case("epochs: many", "--epochs many"),
    "yaml list for a number": yaml_case("epochs: [1, 2]", "--epochs [1, 2]"),
    "yaml mapping for a number": yaml_case("lr: {peak: 1}", "--lr"),
    "yaml boolean for a number": yaml_case("epochs: true", "--epochs True"),
    "yaml null for a number": yaml_case("epochs:", "--epochs"),
    "yaml number for a string": yaml_case("method: 3", "--method 3"),
    "yaml list for a string": yaml_case("schedule: [geometric]", "--schedule"),
    "yaml string for a list": yaml_case("exclude: conv1", "--exclude conv1"),
    "yaml string for a boolean": yaml_case("dry_run: perhaps", "--dry-run perhaps"),
    "yaml key twice": yaml_case("sparsity: 0.5\nsparsity: 0.9", "sparsity"),
    "yaml NUL in a path": case(
        "--config", "run.yaml", mentions="--runs-dir", files={"run.yaml": 'runs_dir: "a\\0b"'}
    ),
    "yaml aliases that explode": yaml_case(ALIASES, "alias"),
    "yaml nested deeply": yaml_case("a: " + "[" * 1200),
    "yaml tabs": yaml_case("epochs:\n\t- 3", "line 2"),
    "yaml objects": yaml_case("epochs: !!python/object/apply:os.system ['touch executed']"),
    "yaml empty": yaml_case(""),
    "yaml a list": yaml_case("- epochs"),
    "yaml two documents": yaml_case("epochs: 1\n---\nepochs: 2"),
    "yaml binary": yaml_case(bytes(range(256))),
    "yaml too large": yaml_case(b"#" * 1_000_001, "1,000,000"),
    "yaml a folder": yaml_case(None),
}


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_yaml_file_is_refused_and_nothing_changes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(CASES[name], tmp_path, monkeypatch, capsys)
