"""Any folder of images: the user's own data, or a published data set laid out in folders."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pruning.data.images import Images, Progress, RawDataset, draw
from pruning.data.listing import list_images
from pruning.data.reading import read, survey_images
from pruning.data.streaming import ImageFiles
from pruning.errors import PruningError
from pruning.registry import DATASETS

PART_NAMES = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}
TEST_SHARE = 0.2


@DATASETS.register("folder", classes=None, input=None)
def load(folder: Path | None, on_progress: Progress) -> RawDataset:
    """Any folder of images: class sub-folders, or these within train, val and test.

    With `train`, `val` and `test`, each is what it says. With `train` and one of the others, that one is the
    test set (validation images are then held out of `train`). With `train` alone, or class folders alone, a
    fifth of the images is the test set: the same fifth whatever the run's seed, so that no network is tested
    on what it, or a sibling of another seed that its weights come from, was trained on.

    The size (at most 224) that more than half of the images share is the data's size, and an image of another
    size is refused; without such a size, images are resized to 256 on their shorter side and the middle
    224x224 is taken. Grey images stay grey if all of them are; otherwise all are RGB. RGB images are
    augmented as CIFAR's are.
    """
    if folder is None:
        raise PruningError(
            "Data set folder needs the folder of images: --data DIR.", options=("dataset", "data")
        )
    folders = _parts(folder)
    train = list_images(folders["train"])
    others = [part for part in ("validation", "test") if part in folders]
    listings = [train, *(list_images(folders[part], train.classes) for part in others)]
    train_rows, test_rows = draw(len(train), 0 if others else round(TEST_SHARE * len(train)), seed=0)
    if not others and not len(test_rows):
        raise PruningError(
            f"{folder} has {len(train)} images, too few to hold out a fifth of them for testing."
        )
    find_facts = partial(survey_images, listings, train_rows, on_progress)
    images, facts = read(listings, folder, find_facts, on_progress)
    parts: dict[str, Images | ImageFiles] = dict(zip(("train", *others), images, strict=True))
    if not others:
        parts = {"train": images[0].select(train_rows), "test": images[0].select(test_rows)}
    return RawDataset(
        classes=train.classes,
        train=parts["train"],
        validation=parts.get("validation"),
        test=parts["test"],
        mean=facts.mean,
        std=facts.std,
        augmentation="crop_and_flip" if facts.shape[0] == 3 else None,
    )


def _parts(folder: Path) -> dict[str, Path]:
    """Where the images of each part are; `validation` and `test` only if there are such folders."""
    parts = {
        part: folder / name
        for part, names in PART_NAMES.items()
        for name in names
        if (folder / name).is_dir()
    }
    if not parts:
        return {"train": folder}
    if "train" not in parts:
        raise PruningError(f"{folder} has a folder {next(iter(parts.values())).name}, but no folder train.")
    if "validation" in parts and "test" not in parts:
        parts["test"] = parts.pop("validation")
    return parts
