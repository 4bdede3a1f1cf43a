"""Any folder of images: the user's own data, or a published data set as image files."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pruning.data.images import Images, Progress, RawDataset, split_indices
from pruning.data.listing import list_images
from pruning.data.reading import infer_preprocessing, read
from pruning.data.streaming import ImageFiles
from pruning.errors import PruningError
from pruning.registry import DATASETS

SPLIT_FOLDERS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}
TEST_FRACTION = 0.2


@DATASETS.register("folder", classes=None, input=None)
def load(folder: Path | None, on_progress: Progress) -> RawDataset:
    """Any folder of images: class sub-folders, or these within train, val and test.

    With `train` and only one of the others, that one is the test set, and validation images are held out of
    `train`. With `train` alone, or class folders alone, a fifth of the images is the test set. It is the same
    fifth for every seed, so that no network is tested on images that another seed's network, whose weights it
    starts from, was trained on.

    If more than half of the images have the same size, at most 224, any other size is an error. Otherwise
    images are resized to 256 on their shorter side, and the center 224x224 is cropped. Images are grey if all
    of them are, else RGB. RGB images are augmented as CIFAR's are.
    """
    if folder is None:
        raise PruningError("--dataset folder needs the folder of images: --data DIR.", options=("data",))
    folders = _split_folders(folder)
    train = list_images(folders["train"])
    others = [split for split in ("validation", "test") if split in folders]
    listings = [train, *(list_images(folders[split], train.classes) for split in others)]
    train_indices, test_indices = split_indices(
        len(train), 0 if others else round(TEST_FRACTION * len(train)), seed=0
    )
    if not others and not len(test_indices):
        raise PruningError(f"{folder} has {len(train)} images, too few to hold out a fifth for testing.")
    infer = partial(infer_preprocessing, listings, train_indices, on_progress)
    images, preprocessing = read(listings, folder, infer, on_progress)
    splits: dict[str, Images | ImageFiles] = dict(zip(("train", *others), images, strict=True))
    if not others:
        splits = {"train": images[0].select(train_indices), "test": images[0].select(test_indices)}
    return RawDataset(
        classes=train.classes,
        train=splits["train"],
        validation=splits.get("validation"),
        test=splits["test"],
        mean=preprocessing.mean,
        std=preprocessing.std,
        augmentation="crop_and_flip" if preprocessing.shape[0] == 3 else None,
    )


def _split_folders(folder: Path) -> dict[str, Path]:
    """Return the folder of each split; `validation` and `test` only if they exist."""
    found = {
        split: folder / name
        for split, names in SPLIT_FOLDERS.items()
        for name in names
        if (folder / name).is_dir()
    }
    if not found:
        return {"train": folder}
    if "train" not in found:
        raise PruningError(f"{folder} has a folder {next(iter(found.values())).name}, but no folder train.")
    if "validation" in found and "test" not in found:
        found["test"] = found.pop("validation")
    return found
