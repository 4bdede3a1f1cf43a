"""`load`: the bundled data set, the data sets in MNIST's format, and their download."""

from __future__ import annotations

import gzip
import http.server
import re
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


def write_mnist(folder: Path, train: int = 20, test: int = 10, *, gzipped: bool = False) -> dict[str, Tensor]:
    """Write four idx files of random images; return their arrays by file name."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    arrays = {}
    for part, count in (("train", train), ("t10k", test)):
        arrays[f"{part}-images-idx3-ubyte"] = torch.randint(0, 256, (count, 28, 28), generator=generator)
        arrays[f"{part}-labels-idx1-ubyte"] = torch.arange(count) % 10
    for name, array in arrays.items():
        path = folder / (f"{name}.gz" if gzipped else name)
        path.write_bytes(gzip.compress(idx(array)) if gzipped else idx(array))
    return arrays


def test_fashion_mini_has_12000_training_and_5000_test_images(mini: Dataset) -> None:
    assert (len(mini.train), len(mini.validation), len(mini.test)) == (10_800, 1_200, 5_000)
    assert mini.shape == (1, 28, 28)
    assert len(mini.classes) == 10
    assert mini.test.inputs.dtype == torch.uint8
    assert mini.test.inputs.shape == (5_000, 1, 28, 28)
    assert mini.test.targets.dtype == torch.int64
    # The well-known first test images: an ankle boot, a pullover, two trousers, a shirt.
    assert mini.test.targets[:5].tolist() == [9, 2, 1, 1, 6]
    assert mini.augmentation is None


def test_the_bundle_has_a_licence_and_less_than_8_megabytes() -> None:
    bundle = Path(sys.modules["pruning.data"].__file__ or "").parent / "fashion_mini"
    assert sum(path.stat().st_size for path in bundle.iterdir()) <= 8_000_000
    assert "Copyright (c) 2017 Zalando SE" in (bundle / "LICENSE").read_text()


@pytest.mark.parametrize("name", ["fashion_mini", "mnist"])
def test_grey_images_load_without_importing_torchvision(tmp_path: Path, name: str) -> None:
    write_mnist(tmp_path)
    folder = None if name == "fashion_mini" else str(tmp_path)
    code = (
        "import sys; from pathlib import Path; from pruning.data import load\n"
        f"load({name!r}, folder={folder!r} and Path({folder!r}))\n"
        "sys.exit('torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_normalised_training_images_have_mean_0_and_deviation_1(mini: Dataset) -> None:
    inputs = torch.cat([batch for batch, _ in mini.train.batches(1_000)])
    assert inputs.mean().abs() < 0.02
    assert (inputs.std() - 1).abs() < 0.02


def test_the_seed_changes_the_validation_images_but_not_the_test_images() -> None:
    first, again, other = (
        load("fashion_mini", seed=1),
        load("fashion_mini", seed=1),
        load("fashion_mini", seed=2),
    )
    assert torch.equal(first.validation.inputs, again.validation.inputs)
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert not torch.equal(first.validation.inputs, other.validation.inputs)
    assert torch.equal(first.test.inputs, other.test.inputs)


def test_training_and_validation_images_are_together_the_published_training_images(tmp_path: Path) -> None:
    arrays = write_mnist(tmp_path)
    data = load("mnist", folder=tmp_path, validation=0.3, seed=5)
    together = torch.cat([data.train.inputs, data.validation.inputs]).flatten(1)
    assert (len(data.train), len(data.validation)) == (14, 6)
    expected = arrays["train-images-idx3-ubyte"].flatten(1)
    assert sorted(map(tuple, together.tolist())) == sorted(map(tuple, expected.tolist()))
    assert torch.equal(data.test.inputs.squeeze(1), arrays["t10k-images-idx3-ubyte"].byte())


@pytest.mark.parametrize("fraction, held_out", [(0, 0), (0.1, 2), (0.125, 2), (0.33, 7), (0.95, 19)])
def test_the_validation_split_has_round_fraction_times_n_images(
    tmp_path: Path, fraction: float, held_out: int
) -> None:
    write_mnist(tmp_path)
    data = load("mnist", folder=tmp_path, validation=fraction)
    assert (len(data.train), len(data.validation)) == (20 - held_out, held_out)


@pytest.mark.parametrize("fraction", [-0.1, 1, 1.5, float("nan")])
def test_a_validation_fraction_outside_0_to_1_is_refused(fraction: float) -> None:
    with pytest.raises(PruningError, match=rf"validation.* {fraction}"):
        load("fashion_mini", validation=fraction)


def test_a_validation_fraction_that_leaves_no_training_image_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    with pytest.raises(PruningError, match=r"0.99 of 20 .*train"):
        load("mnist", folder=tmp_path, validation=0.99)


@pytest.mark.parametrize("place", [".", "raw", "MNIST/raw"])
@pytest.mark.parametrize("gzipped", [False, True])
def test_idx_files_are_read_flat_and_as_torchvision_leaves_them(
    tmp_path: Path, place: str, gzipped: bool
) -> None:
    arrays = write_mnist(tmp_path / place, gzipped=gzipped)
    data = load("mnist", folder=tmp_path)
    assert torch.equal(data.test.inputs.squeeze(1), arrays["t10k-images-idx3-ubyte"].byte())
    assert data.test.targets.tolist() == arrays["t10k-labels-idx1-ubyte"].tolist()


def test_emnist_images_are_transposed(tmp_path: Path) -> None:
    for part, name in (("train", "train"), ("t10k", "test")):
        arrays = write_mnist(tmp_path / "made")
        for kind in ("images-idx3", "labels-idx1"):
            content = idx(arrays[f"{part}-{kind}-ubyte"])
            (tmp_path / f"emnist-balanced-{name}-{kind}-ubyte").write_bytes(content)
    data = load("emnist", folder=tmp_path)
    assert torch.equal(data.test.inputs.squeeze(1), arrays["t10k-images-idx3-ubyte"].byte().transpose(1, 2))
    assert data.classes[10] == "A" and data.classes[46] == "t"


def test_the_one_missing_idx_file_is_named(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(PruningError, match="t10k-labels-idx1-ubyte"):
        load("mnist", folder=tmp_path)


def test_an_unknown_data_set_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(PruningError, match=r"'fashionmini'.* fashion_mini"):
        load("fashionmini")


@pytest.mark.parametrize(("name", "folder"), [("mnist", "missing"), ("fashion_mini", ".")])
def test_a_folder_that_cannot_be_used_is_refused_by_name(tmp_path: Path, name: str, folder: str) -> None:
    with pytest.raises(PruningError, match=re.escape(str(tmp_path / folder))):
        load(name, folder=tmp_path / folder)


@pytest.mark.parametrize("name", DATASETS.names())
def test_every_data_set_has_classes_input_summary_and_the_same_parameters(name: str) -> None:
    entry = DATASETS.entry(name)
    assert (entry.spec.classes is None) == (entry.spec.input_shape is None) == (name == "folder")
    assert entry.summary
    assert DATASETS.get(name).__code__.co_varnames[:2] == ("folder", "on_progress")


class Mirror:
    """A local web server for the files in a folder."""

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
    """The folder of gzipped idx files that `kmnist` is downloaded from."""
    import torchvision.datasets

    files = tmp_path / "mirror"
    write_mnist(files, gzipped=True)
    mirror = Mirror(files)
    checksums = [(path.name, md5(path.read_bytes()).hexdigest()) for path in sorted(files.iterdir())]
    monkeypatch.setattr(torchvision.datasets.KMNIST, "mirrors", [mirror.url])
    monkeypatch.setattr(torchvision.datasets.KMNIST, "resources", checksums)
    yield files
    mirror.server.shutdown()


def test_a_data_set_is_downloaded_once_and_only_progress_is_reported(
    mirror: Path, own_cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    reports: list[tuple[str, int, int]] = []
    data = load("kmnist", on_progress=lambda *report: reports.append(report))
    assert len(data.test) == 10
    assert reports == [("downloading KMNIST", 0, 1), ("downloading KMNIST", 1, 1)]
    assert capfd.readouterr() == ("", "")
    reports.clear()
    again = load("kmnist", on_progress=lambda *report: reports.append(report))
    assert reports == []
    assert again.fingerprint() == data.fingerprint()
    assert sorted(path.name for path in (own_cache / "KMNIST" / "raw").iterdir()) == sorted(
        path.stem for path in mirror.iterdir()
    )


@pytest.mark.usefixtures("mirror")
def test_a_download_goes_into_the_given_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    load("kmnist", folder=tmp_path / "mine")
    assert (tmp_path / "mine" / "KMNIST" / "raw" / "train-images-idx3-ubyte").is_file()


def test_a_download_with_a_wrong_checksum_is_refused_and_nothing_is_kept(
    mirror: Path, own_cache: Path
) -> None:
    (mirror / "t10k-images-idx3-ubyte.gz").write_bytes(b"something else")
    with pytest.raises(PruningError, match=r"t10k-images-idx3-ubyte\.gz"):
        load("kmnist")
    assert list(own_cache.rglob("*")) == []


@pytest.mark.parametrize("folder", [None, "mine"])
def test_without_a_network_the_error_names_the_folder_the_files_and_the_option(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, folder: str | None
) -> None:
    import torchvision.datasets

    (tmp_path / "mine").mkdir()
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(PruningError) as caught:
        load("mnist", folder=folder and tmp_path / folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path / folder if folder else own_cache) in message
    assert "train-images-idx3-ubyte" in message and "--data" in message
    assert not own_cache.exists() or list(own_cache.iterdir()) == []
