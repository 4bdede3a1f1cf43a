"""EMNIST (Cohen et al. 2017, arXiv 1702.05373), balanced: digits and letters, look-alikes merged."""

from __future__ import annotations

import zipfile
from pathlib import Path

from pruning.data.cache import cache_folder
from pruning.data.download import download, write_whole
from pruning.data.idx import find, read_images
from pruning.data.images import Images, Progress, Source
from pruning.errors import PruningError
from pruning.registry import DATASETS

CLASSES = tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt")
FILES = [
    f"emnist-balanced-{part}-{kind}-ubyte"
    for part in ("train", "test")
    for kind in ("images-idx3", "labels-idx1")
]


@DATASETS.register("emnist", classes=47, input="1x28x28")
def load(folder: Path | None, on_progress: Progress) -> Source:
    """EMNIST, balanced: 112,800 training and 18,800 test images of digits and letters, grey, 47 classes."""
    root = folder or cache_folder()
    raw = root / "EMNIST" / "raw"
    paths = find(FILES, [root, root / "gzip", raw, raw / "gzip"]) or _download(raw, on_progress)
    train = read_images(*paths[:2], classes=len(CLASSES))
    test = read_images(*paths[2:], classes=len(CLASSES))
    return Source(CLASSES, _upright(train), _upright(test), mean=(0.1751,), std=(0.3332,))


def _upright(images: Images) -> Images:
    """The files hold every image with rows and columns exchanged."""
    return Images(images.inputs.transpose(2, 3).contiguous(), images.targets)


def _download(folder: Path, on_progress: Progress) -> list[Path]:
    from torchvision.datasets import EMNIST

    archive = folder / Path(EMNIST.url).name
    paths = [folder / f"{name}.gz" for name in FILES]
    if not archive.is_file():
        otherwise = (
            f"put {', '.join(FILES)}, plain or as .gz, into a folder named by --data, or into {folder}"
        )
        download([EMNIST.url], archive, EMNIST.md5, on_progress, otherwise)
    try:
        with zipfile.ZipFile(archive) as members:
            for path in paths:
                with members.open(f"gzip/{path.name}") as member:
                    write_whole(path, member)
    except (zipfile.BadZipFile, KeyError, EOFError, OSError) as error:
        raise PruningError(f"{archive} cannot be unpacked: {error}.") from error
    return paths
