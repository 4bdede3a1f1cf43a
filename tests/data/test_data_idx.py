"""The idx reader: a valid file gives its array, any other one an error that names it."""

from __future__ import annotations

import gzip
import re
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pruning.data.idx import read_idx, read_images
from pruning.errors import PruningError


def header(*sizes: int, magic: int = 0x0800) -> bytes:
    return struct.pack(f">I{len(sizes)}I", magic + len(sizes), *sizes)


IMAGES = header(3, 28, 28) + bytes(range(256)) * 9 + bytes(3 * 784 - 256 * 9)
LABELS = header(3) + bytes([0, 9, 5])


def test_a_valid_file_gives_its_array_plain_and_gzipped(tmp_path: Path) -> None:
    content = header(2, 3) + bytes([1, 2, 3, 4, 5, 6])
    (tmp_path / "plain").write_bytes(content)
    (tmp_path / "zipped.gz").write_bytes(gzip.compress(content))
    for name in ("plain", "zipped.gz"):
        array = read_idx(tmp_path / name, 2)
        assert array.dtype == torch.uint8
        assert array.tolist() == [[1, 2, 3], [4, 5, 6]]


BAD_FILES = {
    "empty": (b"", "0x,"),
    "text": (b"hello, world", "0x68656c6c"),
    "float values": (header(3, magic=0x0D00) + bytes(3), "0x00000d01"),
    "two dimensions": (header(3, 1) + bytes(3), "0x00000802"),
    "gzip without .gz": (gzip.compress(header(3) + bytes(3)), "0x1f8b"),
    "header cut short": (header(3)[:6], "0x000008010000,"),
    "no items": (header(0), "8 bytes.* 0 values"),
    "one byte too few": (header(3) + bytes(2), "10 bytes.* 3 values .11 bytes"),
    "one byte too many": (header(3) + bytes(4), "12 bytes.* 3 values .11 bytes"),
    "header of 4 GiB": (header(0xFFFFFFFF) + bytes(3), "11 bytes.* 4294967295 values"),
}


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize("zipped", [False, True])
def test_an_invalid_file_is_refused_by_name(tmp_path: Path, name: str, zipped: bool) -> None:
    content, message = BAD_FILES[name]
    path = tmp_path / ("labels.gz" if zipped else "labels")
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(PruningError, match=message) as caught:
        read_idx(path, 1)
    assert str(path) in str(caught.value)


VALID_GZIP = gzip.compress(LABELS)


@pytest.mark.parametrize(
    "content",
    [
        LABELS,
        b"",
        VALID_GZIP[:-3],
        VALID_GZIP[:-8] + bytes(8),
        VALID_GZIP + b"more",
        gzip.compress(header(3) + bytes(5_000_000)),
    ],
    ids=["not gzip", "empty", "cut short", "wrong checksum", "trailing bytes", "longer than its header"],
)
def test_a_damaged_gzip_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "labels.gz"
    path.write_bytes(content)
    with pytest.raises(PruningError, match=re.escape(str(path))):
        read_idx(path, 1)


def test_a_folder_instead_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PruningError, match=re.escape(str(tmp_path))):
        read_idx(tmp_path, 1)


def test_image_i_gets_label_i(tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(IMAGES)
    (tmp_path / "labels").write_bytes(LABELS)
    images = read_images(tmp_path / "images", tmp_path / "labels", classes=10)
    assert images.shape == (1, 28, 28)
    assert images.targets.tolist() == [0, 9, 5]
    assert bytes(images.inputs.flatten().tolist()) == IMAGES[16:]


@pytest.mark.parametrize(
    "images, labels, message",
    [
        (IMAGES, header(2) + bytes(2), "3 images.* 2 labels"),
        (IMAGES, header(3) + bytes([0, 10, 5]), "label 10.* 0 to 9"),
        (header(3, 28, 27) + bytes(3 * 28 * 27), LABELS, "28x27 .*28x28"),
        (LABELS, IMAGES, "0x00000801"),
    ],
    ids=["different counts", "label out of range", "image size", "files swapped"],
)
def test_images_and_labels_that_do_not_match_are_refused(
    tmp_path: Path, images: bytes, labels: bytes, message: str
) -> None:
    (tmp_path / "images").write_bytes(images)
    (tmp_path / "labels").write_bytes(labels)
    with pytest.raises(PruningError, match=message):
        read_images(tmp_path / "images", tmp_path / "labels", classes=10)


@st.composite
def almost_idx(draw: st.DrawFn) -> bytes:
    """A header with small, odd or huge sizes, then a few bytes."""
    sizes = draw(st.lists(st.integers(0, 4) | st.integers(0, 2**32 - 1), min_size=0, max_size=4))
    return header(*sizes) + draw(st.binary(max_size=70))


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    content=st.binary(max_size=100) | almost_idx(),
    compressed=st.booleans(),
    named_gz=st.booleans(),
    cut=st.integers(0, 200),
    dimensions=st.integers(1, 3),
)
@example(content=header(2) + b"ab", compressed=True, named_gz=True, cut=200, dimensions=1)
def test_any_bytes_give_an_array_or_a_pruning_error(
    tmp_path: Path, content: bytes, compressed: bool, named_gz: bool, cut: int, dimensions: int
) -> None:
    path = tmp_path / ("file.gz" if named_gz else "file")
    path.write_bytes((gzip.compress(content, mtime=0) if compressed else content)[:cut])
    try:
        array = read_idx(path, dimensions)
    except PruningError as error:
        assert str(path) in str(error)
    else:
        assert content == header(*array.shape) + bytes(array.flatten().tolist())
