"""Folders of images: layouts, sizes and splits, the cache of decoded images, streaming, and bad images."""

from __future__ import annotations

import os
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
    """A random image (width, height), another for every number."""
    generator = torch.Generator().manual_seed(number)
    count = size[0] * size[1] * len(mode)
    pixels = torch.randint(0, 256, (count,), dtype=torch.uint8, generator=generator)
    return Image.frombytes(mode, size, bytes(pixels.tolist()))


def write_images(folder: Path, per_class: int = 10, classes: str = "abc", **look: object) -> Path:
    """Class folders of PNG images, all different."""
    for place, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            seed = zlib.crc32(f"{folder.name}/{place}/{number}".encode())
            picture(seed, **look).save(folder / name / f"{number:03}.png")  # type: ignore[arg-type]
    return folder


def read(folder: Path, **options: object) -> Dataset:
    return load("folder", folder=folder, **options)  # type: ignore[arg-type]


def test_images_and_classes_are_those_of_the_files(tmp_path: Path) -> None:
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
def test_layouts(tmp_path: Path, folders: list[str], sizes: tuple[int, int, int]) -> None:
    for part in folders:
        write_images(tmp_path / "data" / part)
    data = read(tmp_path / "data")
    assert (len(data.train), len(data.validation), len(data.test)) == sizes


def test_one_folder_is_split_without_overlap_and_the_test_images_do_not_depend_on_the_seed(
    tmp_path: Path,
) -> None:
    write_images(tmp_path / "data")
    one, other = read(tmp_path / "data", seed=1), read(tmp_path / "data", seed=2)
    parts = [part.inputs for part in (one.train, one.validation, one.test) if isinstance(part, Split)]
    assert len(torch.cat(parts).flatten(1).unique(dim=0)) == 30
    assert isinstance(one.test, Split) and isinstance(other.test, Split)
    assert torch.equal(one.test.inputs, other.test.inputs)


def test_a_data_set_s_own_validation_images_are_kept(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        write_images(tmp_path / "data" / part)
    one, other = read(tmp_path / "data", seed=1), read(tmp_path / "data", seed=2)
    assert isinstance(one.validation, Split) and isinstance(other.validation, Split)
    assert torch.equal(one.validation.inputs, other.validation.inputs)


def test_normalisation_is_that_of_the_training_images(tmp_path: Path) -> None:
    write_images(tmp_path / "data" / "train")
    write_images(tmp_path / "data" / "test", classes="ab")
    data = read(tmp_path / "data", validation=0)
    assert isinstance(data.train, Split)
    scaled = data.train.inputs.double() / 255
    assert data.mean == pytest.approx(scaled.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert data.std == pytest.approx(scaled.std((0, 2, 3), correction=0).tolist(), abs=1e-12)


def test_statistics_of_a_case_worked_out_by_hand() -> None:
    images = torch.tensor([[[[0, 255]], [[51, 51]]]], dtype=torch.uint8)
    assert statistics(images) == (pytest.approx((0.5, 0.2)), pytest.approx((0.5, 0.0)))


def test_a_channel_without_variation_is_left_unscaled(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.new("RGB", (8, 8), (20 * number, 255, 0)).save(tmp_path / name / f"{number}.png")
    data = read(tmp_path)
    assert data.std[1:] == (1.0, 1.0)
    assert all(inputs.isfinite().all() for inputs, _ in data.train.batches(4))


def test_too_few_images_to_test_with_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "data", per_class=1, classes="ab")
    with pytest.raises(PruningError, match="too few"):
        read(tmp_path / "data")


def test_a_folder_is_the_same_by_any_of_its_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "data")
    read(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    _, heard = reports(Path("data"))
    assert heard == set()


def test_grey_images_stay_grey_if_all_are(tmp_path: Path) -> None:
    write_images(tmp_path / "grey", mode="L")
    grey = read(tmp_path / "grey")
    assert (grey.shape, grey.augmentation) == ((1, 16, 16), None)
    picture(0).save(tmp_path / "grey" / "a" / "colour.png")
    mixed = read(tmp_path / "grey")
    assert (mixed.shape, mixed.augmentation) == ((3, 16, 16), "crop_and_flip")


def test_images_of_many_sizes_are_resized_and_cropped(tmp_path: Path) -> None:
    write_images(tmp_path / "data", per_class=3)
    for number, size in enumerate(
        [(30, 40), (300, 200), (60, 20), (20, 60), (224, 230), (5, 7), (9, 9), (8, 9), (1, 1)]
    ):
        picture(number, size).save(tmp_path / "data" / "b" / f"{number}.png")
    assert read(tmp_path / "data").shape == (3, 224, 224)


def test_other_files_hidden_files_and_deeper_folders(tmp_path: Path) -> None:
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
    "text": (damage(b"This is no image."), "is not an image"),
    "empty": (damage(b""), "is not an image"),
    "only a signature": (damage(b"\x89PNG\r\n\x1a\n"), "."),
    "truncated": (truncate, "cannot be read as an image"),
    "another size": (lambda path: picture(0, (17, 16)).save(path), "17x16 pixels, but .* 16x16"),
    "16 bits, grey": (lambda path: Image.new("I;16", (16, 16)).save(path), "8 bits"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_is_refused_by_name(tmp_path: Path, own_cache: Path, name: str) -> None:
    spoil, message = BAD_IMAGES[name]
    path = write_images(tmp_path / "data") / "b" / "004.png"
    spoil(path)
    with pytest.raises(PruningError, match=message) as caught:
        read(tmp_path / "data")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not own_cache.exists()


def test_sixteen_bits_in_colour_are_refused(tmp_path: Path) -> None:
    import struct

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
        "no class folders",
    ),
    "one class folder": (
        lambda data: [empty(data / name) or (data / name).rmdir() for name in "ab"],
        "one class folder",
    ),
    "an empty class folder": (lambda data: empty(data / "b"), "without images"),
    "test without train": (lambda data: (data / "a").rename(data / "test"), "no folder train"),
}


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_a_bad_folder_is_refused(tmp_path: Path, name: str) -> None:
    spoil, message = BAD_FOLDERS[name]
    write_images(tmp_path / "data", per_class=2)
    spoil(tmp_path / "data")
    with pytest.raises(PruningError, match=message) as caught:
        read(tmp_path / "data")
    assert str(tmp_path / "data") in str(caught.value)


def test_a_test_class_that_was_not_trained_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "data" / "train", classes="ab")
    write_images(tmp_path / "data" / "test", classes="abx")
    with pytest.raises(PruningError, match="training images do not have"):
        read(tmp_path / "data")


def test_no_folder_at_all_is_refused() -> None:
    with pytest.raises(PruningError, match="--data"):
        load("folder")


def reports(folder: Path) -> tuple[Dataset, set[str]]:
    heard: set[str] = set()
    return read(folder, on_progress=lambda what, done, total: heard.add(what)), heard


def same(left: Dataset, right: Dataset) -> bool:
    splits = [(left.train, right.train), (left.validation, right.validation), (left.test, right.test)]
    assert all(isinstance(part, Split) for pair in splits for part in pair)
    facts = left.mean == right.mean and left.std == right.std and left.shape == right.shape
    return facts and all(torch.equal(one.inputs, other.inputs) for one, other in splits)  # type: ignore[union-attr]


def test_the_second_start_decodes_nothing_and_gives_the_same(tmp_path: Path, own_cache: Path) -> None:
    write_images(tmp_path / "data")
    first, heard = reports(tmp_path / "data")
    assert heard == {"looking at images", "measuring images", "decoding images"}
    second, heard = reports(tmp_path / "data")
    assert heard == set()
    assert same(first, second)
    assert len(list(own_cache.iterdir())) == 1


def add_image(folder: Path) -> None:
    picture(77).save(folder / "a" / "new.png")


def change_image(folder: Path) -> None:
    path = folder / "a" / "000.png"
    picture(78).save(path)
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("change", [add_image, change_image])
def test_a_change_in_the_folder_is_noticed(
    tmp_path: Path, own_cache: Path, change: Callable[[Path], None]
) -> None:
    write_images(tmp_path / "data")
    before = read(tmp_path / "data")
    change(tmp_path / "data")
    after, heard = reports(tmp_path / "data")
    assert "decoding images" in heard
    assert not (len(before.train) == len(after.train) and same(before, after))
    assert len(list(own_cache.iterdir())) == 1


@pytest.mark.parametrize("place", [0, 3, 20, 150, 400, -1])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, own_cache: Path, place: int) -> None:
    write_images(tmp_path / "data")
    first = read(tmp_path / "data")
    (cache,) = own_cache.iterdir()
    content = bytearray(cache.read_bytes())
    sound = bytes(content)
    content[place] ^= 1
    cache.write_bytes(content)
    again, heard = reports(tmp_path / "data")
    assert "decoding images" in heard
    assert same(first, again)
    assert cache.read_bytes() == sound


@pytest.mark.parametrize("keep", [0, 10, 300, 5_000, -1])
def test_a_cache_cut_short_is_made_anew(tmp_path: Path, own_cache: Path, keep: int) -> None:
    write_images(tmp_path / "data")
    first = read(tmp_path / "data")
    (cache,) = own_cache.iterdir()
    cache.write_bytes(cache.read_bytes()[:keep])
    assert same(first, read(tmp_path / "data"))


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the cache folder should be")
    write_images(tmp_path / "data")
    assert len(read(tmp_path / "data").test) == 6


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning.data.reading, "available_memory", lambda: 1_000)


def test_available_memory_is_some_and_not_more_than_a_machine_has() -> None:
    assert 1 << 20 < available_memory() < 1 << 50


def test_streamed_batches_are_those_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "data")
    held = read(tmp_path / "data")
    monkeypatch.setattr(pruning.data.reading, "available_memory", lambda: 1_000)
    streamed = read(tmp_path / "data")
    assert isinstance(held.train, Split) and isinstance(streamed.train, StreamedSplit)
    assert (held.mean, held.std, held.classes) == (streamed.mean, streamed.std, streamed.classes)
    assert torch.equal(held.train.targets, streamed.train.targets)
    order = torch.randperm(len(held.train), generator=torch.Generator().manual_seed(3))
    for options in ({}, {"order": order, "augment": 7}, {"order": order, "augment": 7, "start": 2}):
        pairs = zip(held.train.batches(5, **options), streamed.train.batches(5, **options), strict=True)  # type: ignore[arg-type]
        for (left, left_targets), (right, right_targets) in pairs:
            assert torch.equal(left, right)
            assert torch.equal(left_targets, right_targets)


@pytest.mark.usefixtures("little_memory")
def test_what_was_found_out_about_streamed_images_is_cached(tmp_path: Path) -> None:
    write_images(tmp_path / "data")
    _, heard = reports(tmp_path / "data")
    assert heard == {"looking at images", "measuring images"}
    again, heard = reports(tmp_path / "data")
    assert heard == set()
    assert isinstance(again.train, StreamedSplit)


@pytest.mark.usefixtures("little_memory")
def test_an_image_that_goes_bad_while_streaming_is_named(tmp_path: Path) -> None:
    write_images(tmp_path / "data" / "train")
    write_images(tmp_path / "data" / "test")
    data = read(tmp_path / "data")
    path = tmp_path / "data" / "test" / "b" / "004.png"
    path.write_text("no longer an image")
    with pytest.raises(PruningError) as caught:
        list(data.test.batches(4))
    assert str(caught.value) == f"{path} is not an image."


def test_random_crops_are_drawn_by_seed_and_batch(tmp_path: Path) -> None:
    """The usual augmentation of ImageNet, which happens where images are decoded."""
    folder = write_images(tmp_path / "data", size=(40, 30))
    paths = tuple(str(path) for path in sorted(folder.rglob("*.png")))
    files = ImageFiles(paths, torch.arange(len(paths)), (3, 24, 24), "center_crop")
    half = (0.5, 0.5, 0.5)
    split = files.split(torch.device("cpu"), half, half, "random_crop_and_flip")
    state = torch.get_rng_state()
    plain, once, again, other = (
        torch.cat([inputs for inputs, _ in split.batches(8, augment=seed)]) for seed in (None, 1, 1, 2)
    )
    rest = torch.cat([inputs for inputs, _ in split.batches(8, augment=1, start=2)])
    assert plain.shape == (30, 3, 24, 24)
    assert torch.equal(once, again)
    assert torch.equal(once[16:], rest)
    assert not torch.equal(once, other)
    assert not torch.equal(once, plain)
    assert torch.equal(torch.get_rng_state(), state)
