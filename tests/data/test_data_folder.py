"""Folders of images: layouts, sizes and splits, the cache of decoded images, streaming, and bad images.

Length: over 400 lines, because all of them share the same small folders.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

import pruning.data.reading
from pruning.data import Dataset, ImageFiles, Split, StreamedSplit, load
from pruning.data.reading import available_memory, statistics
from pruning.errors import PruningError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pruning" / "images"


def picture(number: int, size: tuple[int, int] = (16, 16), mode: str = "RGB") -> Image.Image:
    """Return a random image of `size` (width, height), seeded by `number`."""
    generator = torch.Generator().manual_seed(number)
    count = size[0] * size[1] * len(mode)
    pixels = torch.randint(0, 256, (count,), dtype=torch.uint8, generator=generator)
    return Image.frombytes(mode, size, bytes(pixels.tolist()))


def write_images(folder: Path, per_class: int = 10, classes: str = "abc", **options: object) -> Path:
    """Write class folders of different PNG images; `options` are those of `picture`."""
    for place, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            seed = zlib.crc32(f"{folder.name}/{place}/{number}".encode())
            picture(seed, **options).save(folder / name / f"{number:03}.png")  # type: ignore[arg-type]
    return folder


def read(folder: Path, **options: object) -> Dataset:
    return load("folder", folder=folder, **options)  # type: ignore[arg-type]


def test_images_and_classes_match_the_files(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_images(tmp_path / "data" / part)
    data = read(tmp_path / "data", validation=0)
    assert data.classes == ("a", "b", "c")
    assert data.shape == (3, 16, 16)
    assert data.test.targets.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert isinstance(data.test, Split)
    expected = Image.open(tmp_path / "data" / "test" / "b" / "003.png").tobytes()
    assert bytes(data.test.inputs[13].permute(1, 2, 0).flatten().tolist()) == expected


@pytest.mark.parametrize(
    "folders, sizes",
    [
        (["train", "val", "test"], (30, 30, 30)),
        (["train", "valid", "test"], (30, 30, 30)),
        (["train", "test"], (27, 3, 30)),
        (["train", "val"], (27, 3, 30)),
        (["train"], (22, 2, 6)),
        (["."], (22, 2, 6)),
    ],
)
def test_every_layout_of_folders_has_three_splits(
    tmp_path: Path, folders: list[str], sizes: tuple[int, int, int]
) -> None:
    for part in folders:
        write_images(tmp_path / "data" / part)
    data = read(tmp_path / "data")
    assert (len(data.train), len(data.validation), len(data.test)) == sizes


def test_one_folder_is_split_without_overlap_and_its_test_images_are_the_same_for_every_seed(
    tmp_path: Path,
) -> None:
    write_images(tmp_path / "data")
    one, other = read(tmp_path / "data", seed=1), read(tmp_path / "data", seed=2)
    parts = [part.inputs for part in (one.train, one.validation, one.test) if isinstance(part, Split)]
    assert len(torch.cat(parts).flatten(1).unique(dim=0)) == 30
    assert isinstance(one.test, Split) and isinstance(other.test, Split)
    assert torch.equal(one.test.inputs, other.test.inputs)


def test_a_val_folder_is_the_validation_split_for_every_seed(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        write_images(tmp_path / "data" / part)
    one, other = read(tmp_path / "data", seed=1), read(tmp_path / "data", seed=2)
    assert isinstance(one.validation, Split) and isinstance(other.validation, Split)
    assert torch.equal(one.validation.inputs, other.validation.inputs)


def test_mean_and_deviation_are_those_of_the_training_images(tmp_path: Path) -> None:
    write_images(tmp_path / "data" / "train")
    write_images(tmp_path / "data" / "test", classes="ab")
    data = read(tmp_path / "data", validation=0)
    assert isinstance(data.train, Split)
    scaled = data.train.inputs.double() / 255
    assert data.mean == pytest.approx(scaled.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert data.std == pytest.approx(scaled.std((0, 2, 3), correction=0).tolist(), abs=1e-12)


def test_statistics_match_a_case_computed_by_hand() -> None:
    images = torch.tensor([[[[0, 255]], [[51, 51]]]], dtype=torch.uint8)
    assert statistics(images) == (pytest.approx((0.5, 0.2)), pytest.approx((0.5, 0.0)))


def test_a_constant_channel_is_not_scaled(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.new("RGB", (8, 8), (20 * number, 255, 0)).save(tmp_path / name / f"{number}.png")
    data = read(tmp_path)
    assert data.std[1:] == (1.0, 1.0)
    assert all(inputs.isfinite().all() for inputs, _ in data.train.batches(4))


def test_a_folder_too_small_for_a_test_split_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "data", per_class=1, classes="ab")
    with pytest.raises(PruningError, match="2 images"):
        read(tmp_path / "data")


def test_the_cache_is_used_for_the_same_folder_under_a_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "data")
    read(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    _, reported = read_with_progress(Path("data"))
    assert reported == set()


def test_images_are_grey_only_if_all_of_them_are(tmp_path: Path) -> None:
    write_images(tmp_path / "grey", mode="L")
    grey = read(tmp_path / "grey")
    assert (grey.shape, grey.augmentation) == ((1, 16, 16), None)
    picture(0).save(tmp_path / "grey" / "a" / "colour.png")
    mixed = read(tmp_path / "grey")
    assert (mixed.shape, mixed.augmentation) == ((3, 16, 16), "crop_and_flip")


def test_images_of_many_sizes_are_cropped_to_224x224(tmp_path: Path) -> None:
    write_images(tmp_path / "data", per_class=3)
    for number, size in enumerate(
        [(30, 40), (300, 200), (60, 20), (20, 60), (224, 230), (5, 7), (9, 9), (8, 9), (1, 1)]
    ):
        picture(number, size).save(tmp_path / "data" / "b" / f"{number}.png")
    assert read(tmp_path / "data").shape == (3, 224, 224)


def test_deeper_folders_are_read_and_hidden_and_other_files_are_ignored(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "data" / "train")
    write_images(tmp_path / "data" / "test")
    (folder / "a" / "notes.txt").write_text("not an image, and not called one")
    (folder / "a" / ".hidden.png").write_text("not an image either")
    (folder / ".cache").mkdir()
    (folder / "a" / "deeper").mkdir()
    picture(1).save(folder / "a" / "deeper" / "1.PNG")
    assert len(read(tmp_path / "data", validation=0).train) == 31


def damage(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


BAD_IMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (damage(b"This is not an image."), "004.png"),
    "empty": (damage(b""), "004.png"),
    "only a signature": (damage(b"\x89PNG\r\n\x1a\n"), "004.png"),
    "truncated": (truncate, "004.png"),
    "another size": (lambda path: picture(0, (17, 16)).save(path), "17x16 .* 16x16"),
    "16 bits, grey": (lambda path: Image.new("I;16", (16, 16)).save(path), "8 bits"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_an_invalid_image_is_refused_by_name_and_not_cached(
    tmp_path: Path, own_cache: Path, name: str
) -> None:
    spoil, message = BAD_IMAGES[name]
    path = write_images(tmp_path / "data") / "b" / "004.png"
    spoil(path)
    with pytest.raises(PruningError, match=message) as caught:
        read(tmp_path / "data")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not own_cache.exists()


def test_an_rgb_image_of_16_bits_is_refused(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    rows = (b"\0" + bytes(16 * 6)) * 16
    sixteen_bits = struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0)
    png = chunk(b"IHDR", sixteen_bits) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path = write_images(tmp_path / "data") / "b" / "004.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + png)
    with pytest.raises(PruningError, match="8 bits"):
        read(tmp_path / "data")


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


BAD_FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no class folders": (
        lambda data: [empty(data / name) or (data / name).rmdir() for name in "abc"],
        "data ",
    ),
    "one class folder": (
        lambda data: [empty(data / name) or (data / name).rmdir() for name in "ab"],
        ", c,",
    ),
    "an empty class folder": (lambda data: empty(data / "b"), r"data/b .*\.png"),
    "test without train": (lambda data: (data / "a").rename(data / "test"), "test.* train"),
}


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_an_invalid_folder_is_refused_by_name(tmp_path: Path, name: str) -> None:
    spoil, message = BAD_FOLDERS[name]
    write_images(tmp_path / "data", per_class=2)
    spoil(tmp_path / "data")
    with pytest.raises(PruningError, match=message) as caught:
        read(tmp_path / "data")
    assert str(tmp_path / "data") in str(caught.value)


def test_a_test_class_without_training_images_is_refused_by_name(tmp_path: Path) -> None:
    write_images(tmp_path / "data" / "train", classes="ab")
    write_images(tmp_path / "data" / "test", classes="abx")
    with pytest.raises(PruningError, match="test/x"):
        read(tmp_path / "data")


def test_the_folder_data_set_needs_a_folder() -> None:
    with pytest.raises(PruningError, match="--data"):
        load("folder")


def read_with_progress(folder: Path) -> tuple[Dataset, set[str]]:
    reported: set[str] = set()
    return read(folder, on_progress=lambda what, done, total: reported.add(what)), reported


def same(left: Dataset, right: Dataset) -> bool:
    splits = [(left.train, right.train), (left.validation, right.validation), (left.test, right.test)]
    assert all(isinstance(part, Split) for pair in splits for part in pair)
    same_shape = left.mean == right.mean and left.std == right.std and left.shape == right.shape
    return same_shape and all(torch.equal(one.inputs, other.inputs) for one, other in splits)  # type: ignore[union-attr]


def test_the_second_load_decodes_no_image_and_is_identical(tmp_path: Path, own_cache: Path) -> None:
    write_images(tmp_path / "data")
    first, reported = read_with_progress(tmp_path / "data")
    assert reported == {"looking at images", "measuring images", "decoding images"}
    second, reported = read_with_progress(tmp_path / "data")
    assert reported == set()
    assert same(first, second)
    assert len(list(own_cache.iterdir())) == 1


def add_image(folder: Path) -> None:
    picture(77).save(folder / "a" / "new.png")


def change_image(folder: Path) -> None:
    path = folder / "a" / "000.png"
    picture(78).save(path)
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("change", [add_image, change_image])
def test_a_changed_folder_is_decoded_again(
    tmp_path: Path, own_cache: Path, change: Callable[[Path], None]
) -> None:
    write_images(tmp_path / "data")
    before = read(tmp_path / "data")
    change(tmp_path / "data")
    after, reported = read_with_progress(tmp_path / "data")
    assert "decoding images" in reported
    assert not (len(before.train) == len(after.train) and same(before, after))
    assert len(list(own_cache.iterdir())) == 1


@pytest.mark.parametrize("place", [0, 3, 20, 150, 400, -1])
def test_a_damaged_cache_is_replaced_by_an_identical_one(tmp_path: Path, own_cache: Path, place: int) -> None:
    write_images(tmp_path / "data")
    first = read(tmp_path / "data")
    (cache,) = own_cache.iterdir()
    content = bytearray(cache.read_bytes())
    valid = bytes(content)
    content[place] ^= 1
    cache.write_bytes(content)
    again, reported = read_with_progress(tmp_path / "data")
    assert "decoding images" in reported
    assert same(first, again)
    assert cache.read_bytes() == valid


@pytest.mark.parametrize("keep", [0, 10, 300, 5_000, -1])
def test_a_cache_cut_short_is_replaced(tmp_path: Path, own_cache: Path, keep: int) -> None:
    write_images(tmp_path / "data")
    first = read(tmp_path / "data")
    (cache,) = own_cache.iterdir()
    cache.write_bytes(cache.read_bytes()[:keep])
    assert same(first, read(tmp_path / "data"))


def test_images_load_without_a_writable_cache(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the cache folder should be")
    write_images(tmp_path / "data")
    assert len(read(tmp_path / "data").test) == 6


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning.data.reading, "available_memory", lambda: 1_000)


def test_available_memory_is_at_most_the_memory_of_the_machine() -> None:
    assert 0 < available_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_streamed_batches_equal_batches_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "data")
    in_memory = read(tmp_path / "data")
    monkeypatch.setattr(pruning.data.reading, "available_memory", lambda: 1_000)
    streamed = read(tmp_path / "data")
    assert isinstance(in_memory.train, Split) and isinstance(streamed.train, StreamedSplit)
    assert (in_memory.mean, in_memory.std, in_memory.classes) == (
        streamed.mean,
        streamed.std,
        streamed.classes,
    )
    assert torch.equal(in_memory.train.targets, streamed.train.targets)
    order = torch.randperm(len(in_memory.train), generator=torch.Generator().manual_seed(3))
    for options in (
        {},
        {"order": order, "augmentation_seed": 7},
        {"order": order, "augmentation_seed": 7, "start": 2},
    ):
        pairs = zip(in_memory.train.batches(5, **options), streamed.train.batches(5, **options), strict=True)  # type: ignore[arg-type]
        for (left, left_targets), (right, right_targets) in pairs:
            assert torch.equal(left, right)
            assert torch.equal(left_targets, right_targets)


@pytest.mark.usefixtures("little_memory")
def test_the_preprocessing_of_streamed_images_is_cached(tmp_path: Path) -> None:
    write_images(tmp_path / "data")
    _, reported = read_with_progress(tmp_path / "data")
    assert reported == {"looking at images", "measuring images"}
    again, reported = read_with_progress(tmp_path / "data")
    assert reported == set()
    assert isinstance(again.train, StreamedSplit)


@pytest.mark.usefixtures("little_memory")
def test_an_image_damaged_after_loading_is_named_when_it_is_streamed(tmp_path: Path) -> None:
    write_images(tmp_path / "data" / "train")
    write_images(tmp_path / "data" / "test")
    data = read(tmp_path / "data")
    path = tmp_path / "data" / "test" / "b" / "004.png"
    path.write_text("no longer an image")
    with pytest.raises(PruningError) as caught:
        list(data.test.batches(4))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_random_crops_depend_on_seed_and_batch_only(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "data", size=(40, 30))
    paths = tuple(str(path) for path in sorted(folder.rglob("*.png")))
    files = ImageFiles(paths, torch.arange(len(paths)), (3, 24, 24), "center_crop")
    half = (0.5, 0.5, 0.5)
    split = files.split(torch.device("cpu"), half, half, "random_crop_and_flip")
    state = torch.get_rng_state()
    plain, once, again, other = (
        torch.cat([inputs for inputs, _ in split.batches(8, augmentation_seed=seed)])
        for seed in (None, 1, 1, 2)
    )
    rest = torch.cat([inputs for inputs, _ in split.batches(8, augmentation_seed=1, start=2)])
    assert plain.shape == (30, 3, 24, 24)
    assert torch.equal(once, again)
    assert torch.equal(once[16:], rest)
    assert not torch.equal(once, other)
    assert not torch.equal(once, plain)
    assert torch.equal(torch.get_rng_state(), state)
