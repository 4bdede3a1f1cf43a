"""Decode one image file into one uint8 tensor. Any file but a valid 8-bit image raises PruningError."""

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

# How an image is fitted to its shape: "exact": it must have that shape; "center_crop": resize, then crop the center;
# "random_crop_and_flip": crop at random, resize and maybe flip, the usual augmentation for ImageNet.
Fit = Literal["exact", "center_crop", "random_crop_and_flip"]

# Images are resized to 8/7 of the crop before the center crop: 256 for 224 (Krizhevsky et al. 2012).
RESIZE_NUMERATOR, RESIZE_DENOMINATOR = 8, 7


def decode(path: str | Path, shape: Shape, fit: Fit) -> Tensor:
    """Return the image at `path` as uint8 of `shape` (channels, height, width), grey for 1 channel, else RGB.

    `random_crop_and_flip` draws from torch's global random generator.

    Raises:
        PruningError: for a file that is not an 8-bit image, or, with fit "exact", of another size.
    """
    channels, height, width = shape
    with _open(path) as image:
        if fit == "exact" and image.size != (width, height):
            raise PruningError(
                f"{path} is {image.width}x{image.height} pixels, but the images of this data set are "
                f"{width}x{height}."
            )
        try:
            pixels = image.convert("L" if channels == 1 else "RGB")
        except Exception as error:  # Pillow's decoders raise many types for damaged files
            raise _unreadable(path, error) from error
    return _to_tensor(_apply_fit(pixels, height, width, fit), shape)


def read_shape(path: str | Path) -> Shape:
    """Return (channels, height, width) from the image's header: 1 channel if it is grey, else 3."""
    with _open(path) as image:
        return (1 if image.mode in ("1", "L", "LA") else 3), image.height, image.width


def _open(path: str | Path) -> Image:
    import PIL.Image

    try:
        image = PIL.Image.open(path)
    except Exception as error:  # as above: a damaged header
        raise _unreadable(path, error) from error
    if image.mode.startswith(("I", "F")) or re.search(r";16[BLNS]", str(image.tile)):
        image.close()
        raise PruningError(f"{path} has more than 8 bits per channel. Convert it to 8 bits.")
    return image


def _unreadable(path: str | Path, error: Exception) -> PruningError:
    import PIL

    if isinstance(error, PIL.UnidentifiedImageError):
        return PruningError(f"{path} is not an image.")
    return PruningError(f"{path} cannot be read as an image: {error}.")


def _apply_fit(image: Image, height: int, width: int, fit: Fit) -> Image:
    if fit == "exact":
        return image
    from torchvision.transforms import v2

    if fit == "center_crop":
        shorter = min(height, width) * RESIZE_NUMERATOR // RESIZE_DENOMINATOR
        return v2.functional.center_crop(v2.functional.resize(image, [shorter]), [height, width])
    return v2.RandomHorizontalFlip()(v2.RandomResizedCrop((height, width))(image))


def _to_tensor(image: Image, shape: Shape) -> Tensor:
    channels, height, width = shape
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(height, width, channels).permute(2, 0, 1)
