"""Wrong options are refused in one sentence, before anything is written."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import command, environment
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import assert_refused, case, create, listing, net

from pruning.config.resolution import resolve
from pruning.config.run_config import RunConfig
from pruning.errors import PruningError

CASES = {
    "option unknown": case("--epocs", "3", mentions="--epochs"),
    "option without its value": case("--epochs", mentions="--epochs"),
    "word that is not a command": case("train", mentions="train"),
    "epochs negative": case("--epochs", "-1", mentions="--epochs -1"),
    "epochs a fraction": case("--epochs", "1.5", mentions="--epochs 1.5"),
    "epochs a word": case("--epochs", "many", mentions="--epochs many"),
    "lr zero": case("--lr", "0", mentions="--lr 0"),
    "lr infinite": case("--lr", "inf", mentions="--lr inf"),
    "lr not a number": case("--lr", "nan", mentions="--lr nan"),
    "max-lr below lr": case("--max-lr", "0.01", mentions=("--max-lr 0.01", "--lr 0.1")),
    "batch size zero": case("--batch-size", "0", mentions="--batch-size 0"),
    "seed too large": case("--seed", str(2**63), mentions=f"--seed {2**63}"),
    "validation all": case("--validation", "1", mentions="--validation 1"),
    "validation leaves nothing": case("--validation", "0.9999999", mentions="0.9999999"),
    "validation empty": case("--validation", "1e-9", mentions="1e-09"),
    "sparsity above 1": case("--sparsity", "1.5", mentions="--sparsity 1.5"),
    "sparsity beyond the floor": case(
        "--floor",
        "0.5",
        mentions=("0.5", "29,499"),
    ),
    "floor beyond the structure": case(
        "--structure",
        "2:4",
        "--method",
        "layer_mag",
        "--floor",
        "0.6",
        mentions=("2:4", "0.6"),
    ),
    "sparsity in percent": case("--sparsity", "90%", mentions="--sparsity 90%"),
    "two amounts": case("--sparsity", "0.5", "--count", "3", mentions=("--sparsity 0.5", "--count 3")),
    "compression below 1": case("--compression", "0.5", mentions="--compression 0.5"),
    "compression out of reach": case("--compression", "1e6", mentions="--compression 1e+06"),
    "count negative": case("--count", "-3", mentions="--count -3"),
    "rounds of one_shot": case(
        "--schedule", "one_shot", "--rounds", "3", mentions=("--schedule one_shot", "--rounds 3")
    ),
    "rewind beyond the training": case(
        "--finetune", "rewind", "--rewind-epoch", "11", mentions="--rewind-epoch 11"
    ),
    "method unknown": case("--method", "global_magg", mentions=("global_magg", "layer_mag")),
    "architecture unknown": case("--arch", "resnet2O", mentions=("resnet2O", "resnet20")),
    "data set unknown": case("--dataset", "../mnist", mentions=("../mnist", "fashion_mnist")),
    "device that is not there": case("--device", "cuda:99", mentions=("--device cuda:99", "--device auto")),
    "device unknown": case("--device", "gpu", mentions=("gpu", "cpu")),
    "precision unknown": case("--precision", "fp8", mentions=("--precision fp8", "fp32", "bf16")),
    "exclude that matches nothing": case("--exclude", "head*", mentions=("head*", "conv1.weight")),
    "include that matches nothing": case("--include", "head*", mentions=("head*", "conv1.weight")),
    "everything excluded": case("--exclude", "*", mentions="prunable"),
    "pretrained and weights": case(
        "--pretrained", "--weights", "w.pt", mentions=("--pretrained", "--weights w.pt"), files={"w.pt": b""}
    ),
    "pretrained without such weights": case("--pretrained", mentions=("my", "--pretrained")),
    "published weights of another net": case("--arch", "alexnet", mentions=("alexnet", "1x28x28")),
    "name that leaves the folder": case("--name", "../elsewhere", mentions="--name '../elsewhere'"),
    "name absolute": case("--name", "/elsewhere", mentions="--name '/elsewhere'"),
    "name hidden": case("--name", ".dense", mentions="--name '.dense'"),
    "name empty": case("--name", "", mentions="--name ''"),
    "name too long": case("--name", "x" * 300, mentions="--name"),
    "name of a folder that is no run": case(
        "--name",
        "mine",
        "--fresh",
        mentions="runs/mine",
        files={"runs/mine/thesis.txt": "precious"},
    ),
    "name of a file": case("--name", "mine", mentions="runs/mine", files={"runs/mine": "precious"}),
    "dry run in place of a finished one": case(
        "--name", "done", "--dry-run", mentions=("runs/done", "--fresh")
    ),
    "finished run, other options": case(
        "--name", "done", "--lr", "0.3", mentions=("runs/done", "--lr", "0.1", "0.3")
    ),
    "runs-dir a file": case("--runs-dir", "file", mentions="--runs-dir file", files={"file": ""}),
    "runs-dir too long": case("--runs-dir", "x" * 300, mentions="--runs-dir"),
    "save-path of another kind": case("--save-path", "net.onnx", mentions="--save-path net.onnx"),
    "save-path in no folder": case("--save-path", "nowhere/net.pt", mentions="--save-path nowhere/net.pt"),
    "save-path a folder": case(
        "--save-path", "net.pt", mentions="--save-path net.pt", files={"net.pt": None}
    ),
    "options with a command": case("--epochs", "1", "list", mentions="list"),
    "switch with a value": case("--pretrained", "False", mentions=("False", "--no-pretrained")),
    "unknown command": case("prune", mentions=("prune", "list", "verify", "measure")),
    "batch size a fraction": case("measure", "runs/done", "--batch-size", "1.5", mentions="--batch-size"),
    "blocks of size 0": case("--structure", "block0x4", mentions="block0x4"),
    "export onto the record": case(
        "export",
        "runs/done",
        "--to",
        "sparse",
        "--out",
        "runs/done/masks.safetensors",
        mentions="runs/done/masks.safetensors",
    ),
    "report into a file": case(
        "report",
        "runs",
        "--out",
        "page/report",
        mentions="--out page/report",
        files={"page": b""},
    ),
    "weights a folder": case("--weights", "net.pt", mentions="--weights net.pt", files={"net.pt": None}),
    "list unknown": case("list", "method", mentions=("'method'", "methods")),
}


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_option_is_refused_and_nothing_changes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(CASES[name], tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        (("--epocs", "3"), {}),
        (("--config", "run.yaml"), {"run.yaml": "a: &a 1\nb: *a"}),
        (("--arch", "net.py:make"), net("def make():\n    1 / 0")),
    ],
)
def test_a_process_ends_with_one_error_line_and_no_traceback(
    arguments: tuple[str, ...], files: dict[str, str], tmp_path: Path
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    create(files, place)
    before = listing(place)
    done = subprocess.run(
        command(*arguments),
        cwd=place,
        env=environment(XDG_CACHE_HOME=str(tmp_path / "cache")),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert listing(place) == before
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("x" * 300),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(sorted(RunConfig.model_fields)) | st.text(max_size=10)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=4), st.booleans())
def test_any_options_resolve_to_a_run_or_are_refused_in_one_line(
    options: dict[str, Any], in_a_file: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.yaml"
        try:
            if in_a_file:
                file.write_text(yaml.safe_dump(options), encoding="utf-8")
                config = resolve({}, file)
            else:
                config = resolve(options)
        except PruningError as error:
            assert "\n" not in str(error)
        else:
            assert "/" not in config.run_name()
