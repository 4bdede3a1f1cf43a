"""verify: an unchanged record agrees, and every altered file, metric or option is found and named."""

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
    """The folder of an unchanged record."""
    with tempfile.TemporaryDirectory() as folder:
        short = "--epochs 1 --finetune-epochs 1 --rounds 2 --batch-size 512 --measure-seconds 0"
        assert execute([*short.split(), "--quiet", "--name", "run", "--runs-dir", folder]) == 0
        yield Path(folder) / "run"


@pytest.fixture
def run(fresh: Path, tmp_path: Path) -> Path:
    """A copy of the record, which a test may alter."""
    return Path(shutil.copytree(fresh, tmp_path / "run"))


@pytest.fixture(autouse=True)
def denormals_as_before() -> Iterator[None]:
    """A run has the whole process flush denormal numbers; tests that follow in it need them."""
    yield
    torch.set_flush_denormal(False)


def verified(run: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code of `verify`, and the lines with differences."""
    capsys.readouterr()
    code = execute(["verify", str(run)])
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    differences = [line for line in shown.out.splitlines() if "DIFFERS" in line]
    return code, "\n".join(differences) + shown.err


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


def test_an_unchanged_record_verifies(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verified(run, capsys) == (0, "")


def test_one_altered_weight_is_found(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(run / "model.safetensors", set_one_weight)
    code, differing = verified(run, capsys)
    assert code == 1
    assert "SHA-256 of model.safetensors" in differing


def test_a_weight_that_is_not_a_number_is_found(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(run / "model.safetensors", lambda tensors: tensors["fc3.bias"].fill_(torch.nan))
    code, differing = verified(run, capsys)
    assert code == 1
    assert "SHA-256 of model.safetensors" in differing
    assert "not a finite number" in differing


def test_a_pruned_weight_that_is_not_zero_is_found(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(run / "model.safetensors", revive_one_weight)
    code, differing = verified(run, capsys)
    assert code == 1
    assert "removed weights that are not zero" in differing


def test_one_altered_bit_of_a_mask_is_found(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
def test_one_altered_number_in_the_record_is_found(
    place: tuple[str | int, ...], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alter(run, place)
    code, differing = verified(run, capsys)
    assert code == 1
    assert "SHA-256 of result.json" in differing


def alter(run: Path, place: tuple[str | int, ...]) -> dict[str, Any]:
    """Increase one number of the record, and return the record."""
    result: dict[str, Any] = json.loads((run / "result.json").read_text())
    inner: Any = result
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] += 1 if isinstance(inner[place[-1]], int) else 0.2
    (run / "result.json").write_text(json.dumps(result))
    return result


MEASURED_BY_VERIFY = [
    ("final", "top1"),
    ("final", "loss"),
    ("final", "sparsity"),
    ("final", "nonzero_macs"),
    ("rounds", 1, "top5"),
    ("layers", 0, "nonzero"),
    ("layers", 2, "sparsity"),
    ("layers", 3, "nonzero_macs"),
]


@pytest.mark.parametrize("place", MEASURED_BY_VERIFY, ids=lambda place: ".".join(map(str, place)))
def test_an_altered_metric_is_found_by_measuring_even_if_the_digest_was_updated(
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
    "weights of other shapes": ("model.safetensors", {"conv1.weight": torch.zeros(3, 3)}),
    "masks for another network": ("masks.safetensors", {"head.weight": torch.ones(3, dtype=torch.bool)}),
    "masks of other shapes": ("masks.safetensors", {"conv1.weight": torch.ones(3, dtype=torch.bool)}),
    "masks that are not boolean": ("masks.safetensors", {"conv1.weight": torch.ones(6, 1, 3, 3)}),
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_weights_and_masks_that_do_not_fit_the_network_are_found(
    name: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, tensors = OTHER_FILES[name]
    rewrite(run / file, lambda own: own.update(tensors))
    code, differing = verified(run, capsys)
    assert code == 1
    assert f"SHA-256 of {file}" in differing
    assert "fit this network" in differing


@pytest.mark.parametrize("file", ["model.safetensors", "masks.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"hello, world", b"\xff" * 8], ids=str)
def test_a_damaged_or_deleted_file_is_found(
    file: str, content: bytes | None, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is None:
        (run / file).unlink()
    else:
        (run / file).write_bytes(content)
    code, differing = verified(run, capsys)
    assert code == 1
    assert f"SHA-256 of {file}" in differing


def test_an_option_that_differs_from_the_record_is_found(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("finetune_lr: 0.05", "finetune_lr: 0.06"))
    code, differing = verified(run, capsys)
    assert code == 1
    assert "--finetune-lr was 0.05, now 0.06" in differing


def test_a_record_that_was_moved_verifies(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = run.rename(tmp_path / "renamed")
    assert verified(moved, capsys) == (0, "")


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, stderr = verified(tmp_path, capsys)
    assert code == 2
    assert "no complete run" in stderr


def test_a_search_whose_initial_weights_were_deleted_verifies_and_exports(
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
    # Another run with this name is refused for its options, not for the deleted weights.
    assert execute([*search, *place, "--sparsity", "0.5"]) == 2
    assert f"--weights was '{start}', now None" in capsys.readouterr().err


def test_another_run_is_refused_by_its_options_even_if_the_images_were_deleted(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("data: null", "data: deleted"))
    assert execute(["--runs-dir", str(tmp_path), "--name", run.name]) == 2
    assert "--data was 'deleted', now None" in capsys.readouterr().err
    assert verified(run, capsys)[0] == 2
    assert "deleted does not exist" in verified(run, capsys)[1]
