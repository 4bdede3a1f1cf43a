"""The idx reader: what a sound file holds, or one sentence about what is wrong; never anything else."""

from __future__ import annotations

import gzip
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


def test_a_sound_file_gives_its_array_plain_and_gzipped(tmp_path: Path) -> None:
    content = header(2, 3) + bytes([1, 2, 3, 4, 5, 6])
    (tmp_path / "plain").write_bytes(content)
    (tmp_path / "zipped.gz").write_bytes(gzip.compress(content))
    for name in ("plain", "zipped.gz"):
        array = read_idx(tmp_path / name, 2)
        assert array.dtype == torch.uint8
        assert array.tolist() == [[1, 2, 3], [4, 5, 6]]


BAD_FILES = {
    "empty": (b"", "begins with 0x,"),
    "text": (b"hello, world", "is not an idx file"),
    "other magic": (header(3, magic=0x0D00) + bytes(3), "begins with 0x00000d01"),
    "other number of dimensions": (header(3, 1) + bytes(3), "is not an idx file of bytes in 1 dimensions"),
    "gzip without the name": (gzip.compress(header(3) + bytes(3)), "begins with 0x1f8b"),
    "cut within the header": (header(3)[:6], "ends within its header"),
    "no items": (header(0), "is empty"),
    "short": (header(3) + bytes(2), "cut short"),
    "trailing bytes": (header(3) + bytes(4), "bytes after its end"),
    "huge claim": (header(0xFFFFFFFF) + bytes(3), "more than the file can hold"),
}


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_bad_file_is_refused_by_name(tmp_path: Path, name: str, zipped: bool) -> None:
    content, message = BAD_FILES[name]
    path = tmp_path / ("labels.gz" if zipped else "labels")
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(PruningError, match=message) as caught:
        read_idx(path, 1)
    assert str(path) in str(caught.value)


SOUND_GZIP = gzip.compress(LABELS)


@pytest.mark.parametrize(
    "content, message",
    [
        (LABELS, "not a sound gzip file"),
        (b"", "cut short"),
        (SOUND_GZIP[:-3], "cut short"),
        (SOUND_GZIP[:-8] + bytes(8), "not a sound gzip file"),
        (SOUND_GZIP + b"more", "bytes after the end"),
        (gzip.compress(header(3) + bytes(5_000_000)), "bytes after its end"),
    ],
    ids=["not gzip", "empty", "cut", "wrong checksum", "trailing", "unpacks to more than it says"],
)
def test_a_bad_gzip_file_is_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "labels.gz"
    path.write_bytes(content)
    with pytest.raises(PruningError, match=message) as caught:
        read_idx(path, 1)
    assert str(path) in str(caught.value)


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PruningError, match="cannot be read"):
        read_idx(tmp_path, 1)


def test_images_and_labels_are_brought_together(tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(IMAGES)
    (tmp_path / "labels").write_bytes(LABELS)
    images = read_images(tmp_path / "images", tmp_path / "labels", classes=10)
    assert images.shape == (1, 28, 28)
    assert images.targets.tolist() == [0, 9, 5]
    assert bytes(images.inputs.flatten().tolist()) == IMAGES[16:]


@pytest.mark.parametrize(
    "images, labels, message",
    [
        (IMAGES, header(2) + bytes(2), "3 images, but .* 2 labels"),
        (IMAGES, header(3) + bytes([0, 10, 5]), "the label 10, but labels go from 0 to 9"),
        (header(3, 28, 27) + bytes(3 * 28 * 27), LABELS, "28x27 pixels, not 28x28"),
        (LABELS, IMAGES, "in 3 dimensions"),
    ],
    ids=["counts", "label out of range", "size", "exchanged"],
)
def test_images_and_labels_that_do_not_go_together(
    tmp_path: Path, images: bytes, labels: bytes, message: str
) -> None:
    (tmp_path / "images").write_bytes(images)
    (tmp_path / "labels").write_bytes(labels)
    with pytest.raises(PruningError, match=message):
        read_images(tmp_path / "images", tmp_path / "labels", classes=10)


@st.composite
def nearly_idx(draw: st.DrawFn) -> bytes:
    """Headers with small, odd and huge sizes, and about as many bytes as they say, or any others."""
    sizes = draw(st.lists(st.integers(0, 4) | st.integers(0, 2**32 - 1), min_size=0, max_size=4))
    return header(*sizes) + draw(st.binary(max_size=70))


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    content=st.binary(max_size=100) | nearly_idx(),
    wrapped=st.booleans(),
    zipped=st.booleans(),
    cut=st.integers(0, 200),
    dimensions=st.integers(1, 3),
)
@example(content=header(2) + b"ab", wrapped=True, zipped=True, cut=200, dimensions=1)
def test_any_bytes_give_an_array_or_a_pruning_error(
    tmp_path: Path, content: bytes, wrapped: bool, zipped: bool, cut: int, dimensions: int
) -> None:
    path = tmp_path / ("file.gz" if zipped else "file")
    path.write_bytes((gzip.compress(content, mtime=0) if wrapped else content)[:cut])
    try:
        array = read_idx(path, dimensions)
    except PruningError as error:
        assert str(path) in str(error)
    else:
        assert content == header(*array.shape) + bytes(array.flatten().tolist())
