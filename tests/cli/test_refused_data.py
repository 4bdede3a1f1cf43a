"""Wrong image folders and idx files are refused in one sentence, before anything is written."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import pytest
from refusals import assert_refused, case, net

IDX = ("--dataset", "mnist", "--data", "idx")
PHOTOS = ("--data", "photos", "--arch", "net.py:Net")


def png(size: int = 8, depth: int = 8, shade: int = 0) -> bytes:
    """A grey square, `size` pixels wide, of `depth` bits a pixel."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    rows = b"".join(b"\0" + bytes([shade]) * (size * depth // 8) for _ in range(size))
    header = struct.pack(">IIBBBBB", size, size, depth, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def images(**more: bytes) -> dict[str, bytes]:
    """A folder of ten sound images in each of two classes, and what `more` puts among them."""
    sound = {f"photos/{name}/{i}.png": png(shade=i) for name in ("cat", "dog") for i in range(10)}
    return {**sound, **{f"photos/{name}": content for name, content in more.items()}}


def idx(*sizes: int, magic: int = 0x0800, content: bytes | None = None) -> bytes:
    product = 1
    for size in sizes:
        product *= size
    body = bytes(product) if content is None else content
    return struct.pack(f">I{len(sizes)}I", magic + len(sizes), *sizes) + body


def idx_files(**other: bytes) -> dict[str, bytes]:
    """The four files of a small data set like MNIST, with the files in `other` instead of the valid ones."""
    sound = {
        "train-images-idx3-ubyte": idx(20, 28, 28),
        "train-labels-idx1-ubyte": idx(20, content=bytes(range(10)) * 2),
        "t10k-images-idx3-ubyte": idx(10, 28, 28),
        "t10k-labels-idx1-ubyte": idx(10, content=bytes(range(10))),
    }
    named = {name.replace("_", "-"): content for name, content in other.items()}
    replaced = {name.removesuffix(".gz") for name in named if name.endswith(".gz")}
    return {f"idx/{name}": content for name, content in {**sound, **named}.items() if name not in replaced}


CASES = {
    "data no folder": case("--data", "none", mentions="--data none"),
    "data a file": case("--data", "file", mentions="--data file", files={"file": ""}),
    "data folder not named": case("--dataset", "folder", mentions="--data"),
    "images without class folders": case(
        "--data", "photos", mentions="photos", files={"photos/1.png": png()}
    ),
    "images of one class": case("--data", "photos", mentions="photos", files={"photos/cat/1.png": png()}),
    "images in train alone, one class": case(
        "--data", "photos", mentions="photos/train", files={"photos/train/cat/1.png": png()}
    ),
    "images: a class in test only": case(
        "--data",
        "photos",
        mentions="photos/test/emu",
        files={
            **{f"photos/train/{name}/1.png": png() for name in ("cat", "dog")},
            "photos/test/emu/1.png": png(),
        },
    ),
    "images: a class without any": case(
        "--data", "photos", mentions="emu", files=images(**{"emu/readme.txt": b""})
    ),
    "images too few": case(
        "--data", "photos", mentions="photos", files={"photos/cat/1.png": png(), "photos/dog/1.png": png()}
    ),
    "image cut short": case(
        *PHOTOS, mentions=("bad.png",), files={**images(**{"cat/bad.png": png()[:40]}), **net("")}
    ),
    "image of another size": case(
        *PHOTOS, mentions=("bad.png", "9x9", "8x8"), files={**images(**{"dog/bad.png": png(9)}), **net("")}
    ),
    "image of 16 bits": case(
        *PHOTOS, mentions="bad.png", files={**images(**{"dog/bad.png": png(depth=16)}), **net("")}
    ),
    "text named .png": case(
        *PHOTOS, mentions="bad.png", files={**images(**{"dog/bad.png": b"hello"}), **net("")}
    ),
    "image empty": case(*PHOTOS, mentions="bad.png", files={**images(**{"dog/bad.png": b""}), **net("")}),
    "images that the network cannot take": case("--data", "photos", mentions=("my", "1x8x8"), files=images()),
    "ImageNet without its parts": case(
        "--dataset",
        "imagenet",
        "--data",
        "photos",
        mentions=("photos", "train"),
        files=images(),
    ),
    "idx of another kind": case(
        *IDX,
        mentions=("train-labels", "0x00000d01"),
        files=idx_files(train_labels_idx1_ubyte=idx(20, magic=0x0D00)),
    ),
    "idx cut short": case(
        *IDX,
        mentions=("t10k-images", "7,855 bytes", "7,856 bytes"),
        files=idx_files(t10k_images_idx3_ubyte=idx(10, 28, 28)[:-1]),
    ),
    "idx cut in its header": case(
        *IDX,
        mentions=("t10k-images", "0x000008030000000a00"),
        files=idx_files(t10k_images_idx3_ubyte=idx(10, 28, 28)[:9]),
    ),
    "idx empty": case(*IDX, mentions="t10k-images", files=idx_files(t10k_images_idx3_ubyte=b"")),
    "idx of no images": case(
        *IDX, mentions=("t10k-images", "0x28x28"), files=idx_files(t10k_images_idx3_ubyte=idx(0, 28, 28))
    ),
    "idx with more bytes": case(
        *IDX,
        mentions=("t10k-images", "7,857 bytes", "7,856 bytes"),
        files=idx_files(t10k_images_idx3_ubyte=idx(10, 28, 28) + b"x"),
    ),
    "idx that promises terabytes": case(
        *IDX,
        mentions=("train-images", "2147483648x28x28"),
        files=idx_files(train_images_idx3_ubyte=idx(2**31, 28, 28, content=b"")),
    ),
    "idx label out of range": case(
        *IDX,
        mentions=("train-labels", "10"),
        files=idx_files(train_labels_idx1_ubyte=idx(20, content=bytes([10] * 20))),
    ),
    "idx counts differ": case(*IDX, mentions=("20", "19"), files=idx_files(train_labels_idx1_ubyte=idx(19))),
    "idx of other images": case(
        *IDX, mentions="28x27", files=idx_files(train_images_idx3_ubyte=idx(20, 28, 27))
    ),
    "idx not gzipped": case(
        *IDX,
        mentions="train-labels-idx1-ubyte.gz",
        files=idx_files(**{"train_labels_idx1_ubyte.gz": idx(20)}),
    ),
    "idx gzip cut short": case(
        *IDX,
        mentions="train-labels-idx1-ubyte.gz",
        files=idx_files(**{"train_labels_idx1_ubyte.gz": gzip.compress(idx(20))[:-9]}),
    ),
    "idx one file missing": case(
        *IDX,
        mentions="t10k-labels",
        files={name: content for name, content in idx_files().items() if "t10k-labels" not in name},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_wrong_data_is_refused_and_nothing_changes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(CASES[name], tmp_path, monkeypatch, capsys)
