"""Missing and damaged run folders are refused in one sentence, and nothing in them changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from refusals import Case, assert_refused, case


def run_case(*arguments: str, mentions: str | tuple[str, ...], **files: bytes | str | None) -> Case:
    """A command on the finished run `runs/done`, some of whose files are replaced."""
    named = {f"runs/done/{name.replace('_', '.')}": content for name, content in files.items()}
    return case(*arguments, mentions=mentions, files=named)


ALIASES = "\n".join(
    ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12))]
)

CASES = {
    "resume: no folder": case("--resume", "runs/none", mentions="runs/none"),
    "resume: no run": case("--resume", "runs", mentions="runs"),
    "resume: and a configuration": case(
        "--resume",
        "runs/done",
        "--config",
        "run.yaml",
        mentions=("--resume", "--config"),
        files={"run.yaml": "lr: 1"},
    ),
    "resume: other options": case("--resume", "runs/done", "--seed", "5", mentions=("--seed", "0", "5")),
    "resume: configuration missing": run_case(
        "--resume", "runs/done", mentions="runs/done", config_yaml=None
    ),
    "resume: configuration garbage": run_case(
        "--resume", "runs/done", mentions="config.yaml", config_yaml=b"\xff\xfe\0"
    ),
    "resume: configuration empty": run_case("--resume", "runs/done", mentions="config.yaml", config_yaml=""),
    "resume: configuration with an unknown key": run_case(
        "--resume", "runs/done", mentions=("config.yaml", "lrr"), config_yaml="lrr: 1"
    ),
    "resume: configuration impossible": run_case(
        "--resume", "runs/done", mentions=("config.yaml", "--lr -1"), config_yaml="lr: -1"
    ),
    "resume: configuration explodes": run_case(
        "--resume", "runs/done", mentions="config.yaml", config_yaml=ALIASES
    ),
    "run again: configuration garbage": run_case(
        "--name", "done", mentions="config.yaml", config_yaml="a: [b"
    ),
    "run again: configuration with an unknown key": run_case(
        "--name", "done", mentions=("config.yaml", "lrr"), config_yaml="lrr: 1"
    ),
    "run again: result garbage": run_case(
        "--resume", "runs/done", mentions=("result.json", "--fresh"), result_json="{"
    ),
    "run again: result of another version": run_case(
        "--resume", "runs/done", mentions=("result.json", "--fresh"), result_json='{"schema_version": 99}'
    ),
    "run again: result without most keys": run_case(
        "--resume", "runs/done", mentions=("result.json", "--fresh"), result_json='{"schema_version": 1}'
    ),
    "verify: no folder": case("verify", "runs/none", mentions="runs/none"),
    "verify: no run": case("verify", "runs", mentions="runs"),
    "verify: a file": case("verify", "runs/done/result.json", mentions="runs/done/result.json"),
    "verify: nothing named": case("verify", mentions="run"),
    "verify: result garbage": run_case("verify", "runs/done", mentions="result.json", result_json=b"\xff"),
    "verify: result a list": run_case("verify", "runs/done", mentions="result.json", result_json="[]"),
    "verify: result without most keys": run_case(
        "verify", "runs/done", mentions="result.json", result_json='{"schema_version": 1}'
    ),
    "verify: configuration garbage": run_case(
        "verify", "runs/done", mentions="config.yaml", config_yaml="a: [b"
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_run_folder_is_refused_and_nothing_changes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(CASES[name], tmp_path, monkeypatch, capsys)
