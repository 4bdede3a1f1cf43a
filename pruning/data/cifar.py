"""CIFAR (https://www.cs.toronto.edu/~kriz/cifar.html), downloaded, verified and read by torchvision.

The files are pickles, which can run code. torchvision checks the MD5 of every file before it unpickles it, so
that only the published bytes are unpickled.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import check_integrity

from pruning.data.cache import cache_folder
from pruning.data.download import download
from pruning.data.images import Images, Progress
from pruning.errors import PruningError


def read_cifar(
    dataset: type[CIFAR10], folder: Path | None, on_progress: Progress
) -> tuple[tuple[str, ...], Images, Images]:
    """Return the class names, training and test images of torchvision's class `dataset`.

    The files are in `folder` (None: the cache) or in torchvision's sub-folder of it; if there are none, the
    archive in `folder` is extracted or downloaded.

    Raises:
        PruningError: for a file whose MD5 is not the published one, and if the download fails.
    """
    root = folder or cache_folder()
    checksums = dict(
        [*dataset.train_list, *dataset.test_list, (dataset.meta["filename"], dataset.meta["md5"])]
    )
    places = (root, root / dataset.base_folder)
    place = next((place for place in places if all((place / file).is_file() for file in checksums)), None)
    if place is None:
        download(
            dataset.__name__,
            lambda partial: dataset(partial, download=True),
            [Path(dataset.base_folder, file) for file in checksums],
            root,
            on_progress,
            archive=(dataset.filename, dataset.tgz_md5),
        )
        place = root / dataset.base_folder
    with TemporaryDirectory() as layout:
        Path(layout, dataset.base_folder).symlink_to(place.absolute())
        try:
            train, test = dataset(layout, train=True), dataset(layout, train=False)
        except RuntimeError as error:  # torchvision does not name the file
            damaged = [file for file, md5 in checksums.items() if not check_integrity(place / file, md5)]
            raise PruningError(
                f"{place} does not have the published {dataset.__name__}: "
                f"the MD5 of {', '.join(damaged)} is another one. Remove the file to download it."
            ) from error
    return tuple(train.classes), _to_images(train), _to_images(test)


def _to_images(dataset: Any) -> Images:
    inputs = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
    return Images(inputs, torch.tensor(dataset.targets))
