"""One image file -> one uint8 tensor. A file that is not wholly a sound 8-bit image raises PruningError."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from pruning.errors import PruningError

if TYPE_CHECKING:
    from PIL.Image import Image

Shape = tuple[int, int, int]

# How an image comes to its shape: it has it already, or else it is an error; resized and cut from the middle;
# or cut at random, resized and maybe mirrored, the usual augmentation of ImageNet.
Fit = Literal["exact", "center_crop", "random_crop_and_flip"]

# Images are resized to 8/7 of the crop before the middle is cut out: 256 for 224 (Krizhevsky et al. 2012).
_RESIZE, _CROP = 8, 7


def decode(path: str | Path, shape: Shape, fit: Fit) -> Tensor:
    """The image at `path`, grey or RGB as `shape` (channels, height, width) says; uint8 of that shape.

    `random_crop_and_flip` draws from torch's global random state. Raises PruningError naming the file.
    """
    channels, height, width = shape
    with _opened(path) as image:
        if fit == "exact" and image.size != (width, height):
            found = f"{image.width}x{image.height}"
            raise PruningError(
                f"{path} is {found} pixels, but the images of this data set are {width}x{height}."
            )
        try:
            pixels = image.convert("L" if channels == 1 else "RGB")
        except Exception as error:  # Decoders fail in as many ways as files can be damaged.
            raise _unreadable(path, error) from error
    return _to_tensor(_fitted(pixels, height, width, fit), shape)


def survey(path: str | Path) -> tuple[int, int, int]:
    """(channels, height, width) of the image at `path`, from its header: 1 channel if it is grey, else 3."""
    with _opened(path) as image:
        return (1 if image.mode in ("1", "L", "LA") else 3), image.height, image.width


def _opened(path: str | Path) -> Image:
    import PIL.Image

    try:
        image = PIL.Image.open(path)
    except Exception as error:  # as above: a header can be damaged, too
        raise _unreadable(path, error) from error
    if image.mode.startswith(("I", "F")) or re.search(r";16[BLNS]", str(image.tile)):
        image.close()
        raise PruningError(f"{path} has more than 8 bits per channel; convert it to 8.")
    return image


def _unreadable(path: str | Path, error: Exception) -> PruningError:
    import PIL

    if isinstance(error, PIL.UnidentifiedImageError):
        return PruningError(f"{path} is not an image.")
    return PruningError(f"{path} cannot be read as an image: {error}.")


def _fitted(image: Image, height: int, width: int, fit: Fit) -> Image:
    if fit == "exact":
        return image
    from torchvision.transforms import v2

    if fit == "center_crop":
        shorter = min(height, width) * _RESIZE // _CROP
        return v2.functional.center_crop(v2.functional.resize(image, [shorter]), [height, width])
    return v2.RandomHorizontalFlip()(v2.RandomResizedCrop((height, width))(image))


def _to_tensor(image: Image, shape: Shape) -> Tensor:
    channels, height, width = shape
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(height, width, channels).permute(2, 0, 1)
