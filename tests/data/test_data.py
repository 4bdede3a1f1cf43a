"""Data sets as a whole: what `load` promises, for the bundled one and for the idx files of MNIST's kin."""

from __future__ import annotations

import gzip
import http.server
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from hashlib import md5
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pruning.data import Dataset, load
from pruning.errors import PruningError
from pruning.registry import DATASETS


@pytest.fixture(scope="module")
def mini() -> Dataset:
    return load("fashion_mini")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pruning"


def idx(array: Tensor) -> bytes:
    return struct.pack(f">BBBB{array.dim()}I", 0, 0, 8, array.dim(), *array.shape) + bytes(
        array.flatten().tolist()
    )


def write_mnist(folder: Path, train: int = 20, test: int = 10, *, zipped: bool = False) -> dict[str, Tensor]:
    """Four idx files of random images; the arrays in them by the files' names."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    arrays = {}
    for part, count in (("train", train), ("t10k", test)):
        arrays[f"{part}-images-idx3-ubyte"] = torch.randint(0, 256, (count, 28, 28), generator=generator)
        arrays[f"{part}-labels-idx1-ubyte"] = torch.arange(count) % 10
    for name, array in arrays.items():
        path = folder / (f"{name}.gz" if zipped else name)
        path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    return arrays


def test_the_bundled_default_has_the_promised_images(mini: Dataset) -> None:
    assert (len(mini.train), len(mini.validation), len(mini.test)) == (10_800, 1_200, 5_000)
    assert mini.shape == (1, 28, 28)
    assert len(mini.classes) == 10
    assert mini.test.inputs.dtype == torch.uint8
    assert mini.test.inputs.shape == (5_000, 1, 28, 28)
    assert mini.test.targets.dtype == torch.int64
    # The well-known first test images: an ankle boot, a pullover, two trousers, a shirt.
    assert mini.test.targets[:5].tolist() == [9, 2, 1, 1, 6]
    assert mini.augmentation is None


def test_the_bundle_is_small_and_carries_its_licence() -> None:
    bundle = Path(sys.modules["pruning.data"].__file__ or "").parent / "fashion_mini"
    assert sum(path.stat().st_size for path in bundle.iterdir()) <= 8_000_000
    assert "Copyright (c) 2017 Zalando SE" in (bundle / "LICENSE").read_text()


def test_loading_the_bundle_needs_no_torchvision() -> None:
    code = "import sys, pruning.data as d; d.load('fashion_mini'); sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_published_normalisation_makes_mean_zero_and_deviation_one(mini: Dataset) -> None:
    inputs = torch.cat([batch for batch, _ in mini.train.batches(1_000)])
    assert inputs.mean().abs() < 0.02
    assert (inputs.std() - 1).abs() < 0.02


def test_validation_is_held_out_of_training_by_seed_and_the_test_set_never_changes() -> None:
    first, again, other = (
        load("fashion_mini", seed=1),
        load("fashion_mini", seed=1),
        load("fashion_mini", seed=2),
    )
    assert torch.equal(first.validation.inputs, again.validation.inputs)
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert not torch.equal(first.validation.inputs, other.validation.inputs)
    assert torch.equal(first.test.inputs, other.test.inputs)


def test_training_and_validation_images_together_are_all_training_images(tmp_path: Path) -> None:
    arrays = write_mnist(tmp_path)
    data = load("mnist", folder=tmp_path, validation=0.3, seed=5)
    together = torch.cat([data.train.inputs, data.validation.inputs]).flatten(1)
    assert (len(data.train), len(data.validation)) == (14, 6)
    expected = arrays["train-images-idx3-ubyte"].flatten(1)
    assert sorted(map(tuple, together.tolist())) == sorted(map(tuple, expected.tolist()))
    assert torch.equal(data.test.inputs.squeeze(1), arrays["t10k-images-idx3-ubyte"].byte())


@pytest.mark.parametrize("fraction, held_out", [(0, 0), (0.1, 2), (0.125, 2), (0.33, 7), (0.95, 19)])
def test_the_size_of_the_validation_split_is_exact(tmp_path: Path, fraction: float, held_out: int) -> None:
    write_mnist(tmp_path)
    data = load("mnist", folder=tmp_path, validation=fraction)
    assert (len(data.train), len(data.validation)) == (20 - held_out, held_out)


@pytest.mark.parametrize("fraction", [-0.1, 1, 1.5, float("nan")])
def test_a_validation_fraction_outside_its_range_is_refused(fraction: float) -> None:
    with pytest.raises(PruningError, match="validation fraction"):
        load("fashion_mini", validation=fraction)


def test_holding_out_everything_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    with pytest.raises(PruningError, match="leaves none to train on"):
        load("mnist", folder=tmp_path, validation=0.99)


@pytest.mark.parametrize("place", [".", "raw", "MNIST/raw"])
@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_are_found_where_people_keep_them(tmp_path: Path, place: str, zipped: bool) -> None:
    arrays = write_mnist(tmp_path / place, zipped=zipped)
    data = load("mnist", folder=tmp_path)
    assert torch.equal(data.test.inputs.squeeze(1), arrays["t10k-images-idx3-ubyte"].byte())
    assert data.test.targets.tolist() == arrays["t10k-labels-idx1-ubyte"].tolist()


def test_emnist_is_turned_upright(tmp_path: Path) -> None:
    for part, name in (("train", "train"), ("t10k", "test")):
        arrays = write_mnist(tmp_path / "made")
        for kind in ("images-idx3", "labels-idx1"):
            content = idx(arrays[f"{part}-{kind}-ubyte"])
            (tmp_path / f"emnist-balanced-{name}-{kind}-ubyte").write_bytes(content)
    data = load("emnist", folder=tmp_path)
    assert torch.equal(data.test.inputs.squeeze(1), arrays["t10k-images-idx3-ubyte"].byte().transpose(1, 2))
    assert data.classes[10] == "A" and data.classes[46] == "t"


def test_a_missing_file_of_four_is_named(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(PruningError, match="t10k-labels-idx1-ubyte"):
        load("mnist", folder=tmp_path)


def test_unknown_data_set_and_missing_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PruningError, match="Did you mean fashion_mini"):
        load("fashionmini")
    with pytest.raises(PruningError, match="does not exist"):
        load("mnist", folder=tmp_path / "nowhere")
    with pytest.raises(PruningError, match="reads no data folder"):
        load("fashion_mini", folder=tmp_path)


@pytest.mark.parametrize("name", DATASETS.names())
def test_every_data_set_states_its_classes_and_input_and_shares_one_signature(name: str) -> None:
    entry = DATASETS.entry(name)
    assert (entry.spec.classes is None) == (entry.spec.input_shape is None) == (name == "folder")
    assert entry.summary
    assert DATASETS.get(name).__code__.co_varnames[:2] == ("folder", "on_progress")


class Mirror:
    """A web server for files of a folder, in place of the data sets' own."""

    def __init__(self, folder: Path) -> None:
        handler = partial(QuietHandler, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of gzipped idx files from which `kmnist` is downloaded during the test."""
    import torchvision.datasets

    files = tmp_path / "mirror"
    write_mnist(files, zipped=True)
    mirror = Mirror(files)
    checksums = [(path.name, md5(path.read_bytes()).hexdigest()) for path in sorted(files.iterdir())]
    monkeypatch.setattr(torchvision.datasets.KMNIST, "mirrors", [mirror.url])
    monkeypatch.setattr(torchvision.datasets.KMNIST, "resources", checksums)
    yield files
    mirror.server.shutdown()


def test_a_data_set_is_downloaded_once_with_progress(mirror: Path, own_cache: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    data = load("kmnist", on_progress=lambda *report: heard.append(report))
    assert len(data.test) == 10
    assert {what for what, done, total in heard if done == total > 0} == {
        f"downloading {path.name}" for path in mirror.iterdir()
    }
    heard.clear()
    load("kmnist", on_progress=lambda *report: heard.append(report))
    assert heard == []
    assert sorted(path.name for path in (own_cache / "KMNIST" / "raw").iterdir()) == sorted(
        path.name for path in mirror.iterdir()
    )


def test_a_download_goes_into_the_folder_that_was_named(mirror: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    load("kmnist", folder=folder)
    assert (folder / "KMNIST" / "raw" / "train-images-idx3-ubyte.gz").is_file()


def test_a_download_with_another_checksum_is_not_kept(mirror: Path, own_cache: Path) -> None:
    (mirror / "t10k-images-idx3-ubyte.gz").write_bytes(b"something else")
    with pytest.raises(PruningError, match="another checksum"):
        load("kmnist")
    kept = [path.name for path in (own_cache / "KMNIST" / "raw").iterdir()]
    assert not [name for name in kept if "t10k-images" in name]


def test_without_a_network_the_message_says_what_to_put_where(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision.datasets

    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(PruningError) as caught:
        load("mnist")
    assert "train-images-idx3-ubyte" in str(caught.value)
    assert str(own_cache / "MNIST" / "raw") in str(caught.value)
    assert "--data" in str(caught.value)
    assert not own_cache.exists() or not any(own_cache.iterdir())  # no folder for what did not come
