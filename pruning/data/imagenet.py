"""ImageNet (Russakovsky et al. 2015), ILSVRC 2012, in class folders."""

from __future__ import annotations

from pathlib import Path

from pruning.data.images import Progress, RawDataset
from pruning.data.listing import list_images
from pruning.data.streaming import ImageFiles
from pruning.errors import PruningError
from pruning.registry import DATASETS

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@DATASETS.register("imagenet", classes=1000, input="3x224x224")
def load(folder: Path | None, on_progress: Progress) -> RawDataset:
    """ImageNet, ILSVRC 2012: 1.28 million training photographs; the 50,000 in `val` are the test set.

    Images are read while training: resized to 256 on the shorter side and center-cropped to 224x224; for
    training, a random crop (8 to 100 % of the area) resized to 224x224 and flipped at random (Szegedy et al.
    2015).
    """
    if folder is None:
        raise PruningError(
            "ImageNet cannot be downloaded without an account at image-net.org. "
            "Name the folder with its train and val, each with 1,000 class folders: --data DIR.",
            options=("data",),
        )
    for split in ("train", "val"):
        if not (folder / split).is_dir():
            raise PruningError(
                f"--data {folder} has no folder {split}. Name the folder with ImageNet's train and val, "
                "each with 1,000 class folders.",
                options=("data",),
            )
    train = list_images(folder / "train")
    test = list_images(folder / "val", train.classes)
    if len(train.classes) != 1000:
        raise PruningError(
            f"{folder / 'train'} has {len(train.classes):,} class folders, but ImageNet has 1,000. "
            "For a part of it choose --dataset folder."
        )
    train_files, test_files = (
        ImageFiles(listing.paths, listing.targets, (3, 224, 224), "center_crop") for listing in (train, test)
    )
    return RawDataset(train.classes, train_files, test_files, MEAN, STD, augmentation="random_crop_and_flip")
