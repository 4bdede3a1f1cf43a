"""CIFAR's pickles, SVHN's MATLAB files, and the folders of Tiny ImageNet and ImageNet."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.datasets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import pruning.data.tiny_imagenet
from pruning.data import Split, StreamedSplit, load
from pruning.data.matlab import read_matrices
from pruning.errors import PruningError

np = pytest.importorskip("numpy")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pruning"


def pickled_by_python_2(pixels: bytes, key: str, labels: list[int]) -> bytes:
    """A batch as CIFAR's authors pickled it: plain strings, and an array under NumPy's old module names."""
    rows = len(labels)
    return b"".join(
        [
            b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR",
            b"(K\x01K" + bytes([rows]) + b"M\x00\x0c\x86cnumpy\ndtype\n(U\x02u1K\x00K\x01tR",
            b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
            b"\x89T" + struct.pack("<I", len(pixels)) + pixels + b"tb",
            b"U" + bytes([len(key)]) + key.encode() + b"](",
            b"".join(b"K" + bytes([label]) for label in labels) + b"eu.",
        ]
    )


def cifar_pixels(rows: int) -> bytes:
    return np.random.default_rng(rows).integers(0, 256, rows * 3072, dtype=np.uint8).tobytes()


def publish_cifar(
    monkeypatch: pytest.MonkeyPatch, dataset: type, folder: Path, rows: dict[str, int], key: str
) -> None:
    """Write a small CIFAR into `folder` and make its checksums the published ones."""
    folder.mkdir(parents=True)
    for file, count in rows.items():
        labels = [label % 10 for label in range(count)]
        (folder / file).write_bytes(pickled_by_python_2(cifar_pixels(count), key, labels))
    names = {dataset.meta["key"]: [f"class {number}" for number in range(10)]}
    (folder / dataset.meta["filename"]).write_bytes(pickle.dumps(names))
    md5 = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    monkeypatch.setattr(
        dataset, "train_list", [(file, md5[file]) for file in rows if not file.startswith("test")]
    )
    monkeypatch.setattr(dataset, "test_list", [(file, md5[file]) for file in rows if file.startswith("test")])
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": md5[dataset.meta["filename"]]})


@pytest.fixture(params=[".", "cifar-10-batches-py"])
def cifar10(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for --data with the batches of a small CIFAR-10: flat, or as torchvision leaves it."""
    rows = {**{f"data_batch_{number}": number for number in range(1, 6)}, "test_batch": 7}
    publish_cifar(
        monkeypatch, torchvision.datasets.CIFAR10, tmp_path / "data" / request.param, rows, "labels"
    )
    return tmp_path / "data"


def test_cifar10_has_the_pixels_and_labels_of_its_batches_in_order(cifar10: Path) -> None:
    data = load("cifar10", folder=cifar10, validation=0)
    assert isinstance(data.train, Split) and isinstance(data.test, Split)
    expected = b"".join(cifar_pixels(number) for number in range(1, 6))
    assert data.train.inputs.numpy().tobytes() == expected
    assert data.train.inputs.shape == (15, 3, 32, 32)
    assert data.train.targets.tolist() == [0, 0, 1, 0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 3, 4]
    assert data.test.inputs.numpy().tobytes() == cifar_pixels(7)
    assert data.test.targets.tolist() == list(range(7))
    assert data.classes[9] == "class 9"
    assert (data.shape, data.augmentation) == ((3, 32, 32), "crop_and_flip")


def test_cifar100_has_its_fine_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = torchvision.datasets.CIFAR100
    publish_cifar(monkeypatch, published, tmp_path / "data", {"train": 6, "test": 4}, "fine_labels")
    assert load("cifar100", folder=tmp_path / "data").test.targets.tolist() == [0, 1, 2, 3]


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path, cifar10: Path) -> None:
    created = tmp_path / "created"
    (path,) = cifar10.rglob("data_batch_3")
    path.write_bytes(pickle.dumps({"data": Malicious(created)}))
    with pytest.raises(PruningError, match=r"data_batch_3"):
        load("cifar10", folder=cifar10)
    assert not created.exists()


@pytest.mark.parametrize("file", ["data_batch_5", "test_batch", "batches.meta"])
def test_a_cifar_file_with_one_changed_bit_is_refused_by_name(cifar10: Path, file: str) -> None:
    (path,) = cifar10.rglob(file)
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    with pytest.raises(PruningError, match=file) as caught:
        load("cifar10", folder=cifar10)
    assert str(path.parent) in str(caught.value)


def element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def matrix(name: str, array: Tensor, *, kind: int = 2) -> bytes:
    """A MATLAB matrix, compressed as MATLAB does."""
    columns_first = array.permute(*reversed(range(array.dim()))).flatten()
    values = bytes(columns_first.tolist()) if kind == 2 else columns_first.double().numpy().tobytes()
    short_name = struct.pack("<HH", 1, len(name)) + name.encode().ljust(4, b"\0")
    sizes = struct.pack(f"<{array.dim()}i", *array.shape)
    flags = element(6, struct.pack("<II", 9, 0))
    content = zlib.compress(element(14, flags + element(5, sizes) + short_name + element(kind, values)))
    return struct.pack("<II", 15, len(content)) + content


MATLAB_HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"


def svhn_file(count: int = 5, labels: Tensor | None = None, *, label_kind: int = 2) -> bytes:
    images = torch.randint(0, 256, (32, 32, 3, count), generator=torch.Generator().manual_seed(count))
    labels = torch.arange(count).remainder(10).add(1) if labels is None else labels
    return MATLAB_HEADER + matrix("X", images) + matrix("y", labels.view(-1, 1), kind=label_kind)


@pytest.mark.parametrize("label_kind", [2, 9])
def test_svhn_has_the_images_and_labels_of_its_files(tmp_path: Path, label_kind: int) -> None:
    (tmp_path / "train_32x32.mat").write_bytes(svhn_file(12))
    (tmp_path / "test_32x32.mat").write_bytes(svhn_file(11, label_kind=label_kind))
    data = load("svhn", folder=tmp_path)
    assert (data.shape, data.augmentation) == ((3, 32, 32), None)
    assert data.test.targets.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]  # the digit 0 is labelled 10
    expected = torch.randint(0, 256, (32, 32, 3, 11), generator=torch.Generator().manual_seed(11))
    assert isinstance(data.test, Split)
    for number in (0, 10):
        assert torch.equal(data.test.inputs[number], expected[..., number].permute(2, 0, 1).byte())


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "MATLAB"),
        (b"text" * 100, "level 5"),
        (svhn_file()[:-9], "train_32x32.mat"),
        (svhn_file()[:400], "train_32x32.mat"),
        (MATLAB_HEADER, "32x32x3xN"),
        (MATLAB_HEADER + matrix("X", torch.arange(16).view(4, 4)), "32x32x3xN"),
        (MATLAB_HEADER + element(9, bytes(8)), "type 9"),
        (svhn_file(labels=torch.tensor([1, 2, 3])), "32x32x3xN"),
        (svhn_file(labels=torch.tensor([1, 2, 3, 4, 11])), "1 to 10"),
        (svhn_file(labels=torch.tensor([0, 2, 3, 4, 5])), "1 to 10"),
    ],
)
def test_an_invalid_svhn_file_is_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "train_32x32.mat"
    path.write_bytes(content)
    with pytest.raises(PruningError, match=message) as caught:
        load("svhn", folder=tmp_path)
    assert str(path) in str(caught.value)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.integers(0, 600), value=st.integers(0, 255))
def test_any_damage_to_a_matlab_file_raises_at_most_pruning_error(
    tmp_path: Path, place: int, value: int
) -> None:
    uncompressed = zlib.decompress(matrix("y", torch.arange(250))[8:])
    content = bytearray(MATLAB_HEADER + uncompressed)
    content[place % len(content)] = value
    (tmp_path / "file.mat").write_bytes(content)
    try:
        read_matrices(tmp_path / "file.mat")
    except PruningError as error:
        assert "file.mat" in str(error)


def save_image(path: Path, size: int = 64, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (size, size)).save(path)


WORDNET = [f"n{number:08}" for number in range(200)]


def write_tiny_imagenet(folder: Path) -> Path:
    for name in WORDNET:
        save_image(
            folder / "train" / name / "images" / f"{name}_0.JPEG", mode="L" if name[-1] == "3" else "RGB"
        )
    for number in range(3):
        save_image(folder / "val" / "images" / f"val_{number}.JPEG")
    rows = [f"val_{number}.JPEG\t{WORDNET[10 * number]}\t0\t0\t62\t62" for number in range(3)]
    (folder / "val" / "val_annotations.txt").write_text("\n".join(rows) + "\n")
    return folder


def test_tiny_imagenet_has_the_test_classes_of_its_table(tmp_path: Path) -> None:
    data = load("tiny_imagenet", folder=write_tiny_imagenet(tmp_path / "tiny-imagenet-200"), validation=0)
    assert (data.shape, len(data.classes), len(data.train)) == ((3, 64, 64), 200, 200)
    assert data.test.targets.tolist() == [0, 10, 20]
    assert data.mean == (0.4802, 0.4481, 0.3975)


def test_tiny_imagenet_is_extracted_from_the_archive_in_its_folder(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tiny_imagenet(tmp_path / "tiny-imagenet-200")
    own_cache.mkdir(parents=True)
    with zipfile.ZipFile(own_cache / "tiny-imagenet-200.zip", "w") as archive:
        for path in folder.rglob("*"):
            archive.write(path, path.relative_to(tmp_path))
    md5 = hashlib.md5((own_cache / "tiny-imagenet-200.zip").read_bytes()).hexdigest()
    monkeypatch.setattr(pruning.data.tiny_imagenet, "MD5", md5)
    assert len(load("tiny_imagenet").test) == 3
    assert sorted(path.name for path in own_cache.iterdir()) == [
        "images", "tiny-imagenet-200", "tiny-imagenet-200.zip",
    ]  # fmt: skip


def test_a_tiny_imagenet_image_of_another_size_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_imagenet(tmp_path)
    save_image(folder / "val" / "images" / "val_1.JPEG", size=63)
    with pytest.raises(PruningError, match=r"val_1\.JPEG.* 63x63 .* 64x64"):
        load("tiny_imagenet", folder=folder)


@pytest.mark.parametrize(
    "row", ["val_0.JPEG", "val_0.JPEG\tn99999999", "../../secret.JPEG\tn00000001", "gone.JPEG\tn00000001"]
)
def test_an_invalid_table_of_test_classes_is_refused(tmp_path: Path, row: str) -> None:
    folder = write_tiny_imagenet(tmp_path)
    (folder / "val" / "val_annotations.txt").write_text(row + "\n")
    with pytest.raises(PruningError, match=r"val_annotations.txt|gone.JPEG"):
        load("tiny_imagenet", folder=folder)


def test_imagenet_images_are_streamed_from_their_class_folders(tmp_path: Path) -> None:
    for number in range(1000):
        for part in ("train", "val"):
            (tmp_path / part / f"n{number:08}").mkdir(parents=True)
            (tmp_path / part / f"n{number:08}" / "1.JPEG").touch()
    for number in (0, 999):
        save_image(tmp_path / "val" / f"n{number:08}" / "1.JPEG", size=300)
    data = load("imagenet", folder=tmp_path, validation=0.1)
    assert isinstance(data.test, StreamedSplit)
    assert (len(data.train), len(data.validation), len(data.test)) == (900, 100, 1000)
    inputs, targets = next(iter(data.test.batches(2, order=torch.tensor([0, 999]))))
    assert inputs.shape == (2, 3, 224, 224)
    assert targets.tolist() == [0, 999]


def test_imagenet_needs_a_folder() -> None:
    with pytest.raises(PruningError, match="--data"):
        load("imagenet")


def test_imagenet_with_two_classes_is_refused(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for name in "ab":
            save_image(tmp_path / part / name / "1.png")
    with pytest.raises(PruningError, match=r"train.* 2 .* 1,000"):
        load("imagenet", folder=tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "emnist", "tiny_imagenet"])
def test_without_a_network_the_error_names_the_option_and_the_folder(
    monkeypatch: pytest.MonkeyPatch, own_cache: Path, name: str
) -> None:
    unreachable = "http://127.0.0.1:9/file"
    for published in (
        torchvision.datasets.CIFAR10,
        torchvision.datasets.CIFAR100,
        torchvision.datasets.EMNIST,
    ):
        monkeypatch.setattr(published, "url", unreachable)
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", {"train": [unreachable, "", ""]})
    monkeypatch.setattr(pruning.data.tiny_imagenet, "URL", unreachable)
    with pytest.raises(PruningError, match="--data") as caught:
        load(name)
    assert str(own_cache) in str(caught.value) and "\n" not in str(caught.value)


def test_cifar_is_extracted_from_the_archive_in_its_folder(
    cifar10: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (batch,) = cifar10.rglob("test_batch")
    archive = own_cache / "cifar-10-python.tar.gz"
    own_cache.mkdir(parents=True)
    with tarfile.open(archive, "w:gz") as writer:
        writer.add(batch.parent, "cifar-10-batches-py")
    monkeypatch.setattr(
        torchvision.datasets.CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest()
    )
    assert len(load("cifar10").test) == 7
    assert archive.is_file()


@pytest.mark.parametrize(
    ("name", "archive"), [("cifar10", "cifar-10-python.tar.gz"), ("tiny_imagenet", "tiny-imagenet-200.zip")]
)
def test_a_damaged_archive_is_refused_by_name_and_kept(own_cache: Path, name: str, archive: str) -> None:
    own_cache.mkdir(parents=True)
    (own_cache / archive).write_bytes(b"damaged")
    with pytest.raises(PruningError, match=re.escape(str(own_cache / archive))):
        load(name)
    assert (own_cache / archive).read_bytes() == b"damaged"
    assert [path.name for path in own_cache.iterdir()] == [archive]
