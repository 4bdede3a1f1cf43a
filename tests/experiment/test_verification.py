"""A record can be checked: a fresh one agrees with itself, and whatever is altered in it is found and named."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pruning.cli.app import execute
from pruning.experiment.run_files import record_digest

Altered = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def fresh() -> Iterator[Path]:
    """The folder of a fresh record."""
    with tempfile.TemporaryDirectory() as folder:
        short = "--epochs 1 --finetune-epochs 1 --rounds 2 --batch-size 512 --measure-seconds 0"
        assert execute([*short.split(), "--quiet", "--name", "run", "--runs-dir", folder]) == 0
        yield Path(folder) / "run"


@pytest.fixture
def run(fresh: Path, tmp_path: Path) -> Path:
    """A copy of it, to be altered."""
    return Path(shutil.copytree(fresh, tmp_path / "run"))


@pytest.fixture(autouse=True)
def denormals_as_before() -> Iterator[None]:
    """A run has the whole process flush denormal numbers; tests that follow in it need them."""
    yield
    torch.set_flush_denormal(False)


def verified(run: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code of `verify`, and what differs by its word."""
    capsys.readouterr()
    code = execute(["verify", str(run)])
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    differing = [line for line in shown.out.splitlines() if "DIFFERS" in line]
    return code, "\n".join(differing) + shown.err


def rewrite(file: Path, alter: Callable[[Altered], None]) -> None:
    with safe_open(file, framework="pt") as opened:
        about = opened.metadata()
    tensors = load_file(file)
    alter(tensors)
    save_file(tensors, file, metadata=about)


def set_one_weight(tensors: Altered) -> None:
    weight = tensors["conv1.weight"].view(-1)
    weight[weight.nonzero()[0]] += 1e-6


def revive_one_weight(tensors: Altered) -> None:
    weight = tensors["fc1.weight"].view(-1)
    weight[(weight == 0).nonzero()[0]] = 1e-3


def flip_one_bit(tensors: Altered) -> None:
    mask = tensors["fc1.weight"].view(-1)
    mask[0] = ~mask[0]


def test_a_fresh_record_agrees_with_itself(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verified(run, capsys) == (0, "")


def test_one_weight(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(run / "model.safetensors", set_one_weight)
    code, differing = verified(run, capsys)
    assert code == 1
    assert "SHA-256 of model.safetensors" in differing


def test_a_weight_that_is_no_number(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(run / "model.safetensors", lambda tensors: tensors["fc3.bias"].fill_(torch.nan))
    code, differing = verified(run, capsys)
    assert code == 1
    assert "SHA-256 of model.safetensors" in differing
    assert "not a finite number" in differing


def test_one_weight_that_was_removed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(run / "model.safetensors", revive_one_weight)
    code, differing = verified(run, capsys)
    assert code == 1
    assert "removed weights that are not zero" in differing


def test_one_bit_of_a_mask(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(run / "masks.safetensors", flip_one_bit)
    code, differing = verified(run, capsys)
    assert code == 1
    assert "SHA-256 of masks.safetensors" in differing
    assert "sparsity" in differing


NUMBERS = [
    ("final", "top1"),
    ("final", "top5"),
    ("final", "loss"),
    ("final", "sparsity"),
    ("final", "nonzero_parameters"),
    ("final", "macs"),
    ("dense", "top1"),
    ("dense", "parameters"),
    ("rounds", 0, "target_sparsity"),
    ("rounds", 1, "top1_before_finetune"),
    ("layers", 0, "nonzero"),
    ("layers", 2, "sparsity"),
    ("layers", 1, "shape", 0),
    ("timing", "total"),
    ("config", "seed"),
    ("environment", "threads"),
]


@pytest.mark.parametrize("place", NUMBERS, ids=lambda place: ".".join(map(str, place)))
def test_one_number_of_the_record(
    place: tuple[str | int, ...], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alter(run, place)
    code, differing = verified(run, capsys)
    assert code == 1
    assert "SHA-256 of result.json" in differing


def alter(run: Path, place: tuple[str | int, ...]) -> dict[str, Any]:
    """Make one number of the record a little larger; the record is returned."""
    result: dict[str, Any] = json.loads((run / "result.json").read_text())
    inner: Any = result
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] += 1 if isinstance(inner[place[-1]], int) else 0.2
    (run / "result.json").write_text(json.dumps(result))
    return result


MEASURED_AGAIN = [
    ("final", "top1"),
    ("final", "loss"),
    ("final", "sparsity"),
    ("final", "nonzero_macs"),
    ("rounds", 1, "top5"),
    ("layers", 0, "nonzero"),
    ("layers", 2, "sparsity"),
    ("layers", 3, "nonzero_macs"),
]


@pytest.mark.parametrize("place", MEASURED_AGAIN, ids=lambda place: ".".join(map(str, place)))
def test_a_number_is_measured_again_even_if_the_record_was_sealed_anew(
    place: tuple[str | int, ...], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = alter(run, place)
    result["sha256"]["result.json"] = record_digest(result)
    (run / "result.json").write_text(json.dumps(result))
    code, differing = verified(run, capsys)
    assert code == 1
    assert str(place[-1]) in differing
    assert "SHA-256" not in differing


OTHER_FILES = {
    "network of other shapes": ("model.safetensors", {"conv1.weight": torch.zeros(3, 3)}),
    "masks for another network": ("masks.safetensors", {"head.weight": torch.ones(3, dtype=torch.bool)}),
    "masks of other shapes": ("masks.safetensors", {"conv1.weight": torch.ones(3, dtype=torch.bool)}),
    "masks that are none": ("masks.safetensors", {"conv1.weight": torch.ones(6, 1, 3, 3)}),
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_files_of_another_run(name: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, tensors = OTHER_FILES[name]
    rewrite(run / file, lambda own: own.update(tensors))
    code, differing = verified(run, capsys)
    assert code == 1
    assert f"SHA-256 of {file}" in differing
    assert "fit this network" in differing


@pytest.mark.parametrize("file", ["model.safetensors", "masks.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"hello, world", b"\xff" * 8], ids=str)
def test_damaged_files(
    file: str, content: bytes | None, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is None:
        (run / file).unlink()
    else:
        (run / file).write_bytes(content)
    code, differing = verified(run, capsys)
    assert code == 1
    assert f"SHA-256 of {file}" in differing


def test_options_that_are_not_the_records(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("finetune_lr: 0.05", "finetune_lr: 0.06"))
    code, differing = verified(run, capsys)
    assert code == 1
    assert "--finetune-lr was 0.05, now 0.06" in differing


def test_a_record_elsewhere_verifies(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = run.rename(tmp_path / "renamed")
    assert verified(moved, capsys) == (0, "")


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, output = verified(tmp_path, capsys)
    assert code == 2
    assert "no complete run" in output


def test_a_search_from_given_weights_is_opened_again_when_these_are_gone(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = (run / "model.safetensors").rename(tmp_path / "start.safetensors")
    search = ("--epochs", "0", "--finetune-epochs", "0", "--rounds", "1", "--measure-seconds", "0", "--quiet")
    place = ("--runs-dir", str(tmp_path), "--name", "search")
    given = (*search, *place, "--max-drop", "90")
    assert execute(["--weights", str(start), *given]) == 0
    start.unlink()
    assert verified(tmp_path / "search", capsys) == (0, "")
    assert execute(["export", str(tmp_path / "search"), "--to", "dense"]) == 0
    # Another run does not get this place, and hears of its options, not of the weights that are gone.
    assert execute([*search, *place, "--sparsity", "0.5"]) == 2
    assert f"--weights was '{start}', now None" in capsys.readouterr().err


def test_a_recorded_run_need_not_have_its_images_to_be_told_from_another(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("data: null", "data: gone"))
    assert execute(["--runs-dir", str(tmp_path), "--name", run.name]) == 2
    assert "--data was 'gone', now None" in capsys.readouterr().err
    assert verified(run, capsys)[0] == 2
    assert "gone does not exist" in verified(run, capsys)[1]
