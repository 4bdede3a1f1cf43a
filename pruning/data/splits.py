"""Images in memory, cut into normalised batches.

All operations are on whole batches, for speed: select rows of uint8 (a quarter of the memory traffic of float32),
convert, multiply and add in place.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Labelled images on a device.

    inputs: uint8 [n, c, h, w].
    targets: int64 [n].
    mean, std: per channel, of images scaled to 0..1.
    augmentation: name in AUGMENTATIONS, or None.
    """

    inputs: Tensor
    targets: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: str | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def batches(
        self,
        batch_size: int,
        *,
        order: Tensor | None = None,
        start: int = 0,
        augmentation_seed: int | None = None,
        channels_last: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield normalised inputs float32 [b, c, h, w] and targets int64 [b]; the last batch may be smaller.

        Args:
            order: indices of the images (int64 [n]); None: as stored.
            start: number of batches to skip.
            augmentation_seed: None for no augmentation. The random draws of a batch depend only on this seed and the
                batch's index, so that an epoch can be resumed at any batch.
        """
        if order is not None:
            order = order.to(self.inputs.device)
        normalize = make_normalize(self.mean, self.std, self.inputs.device, channels_last)
        for index in range(start, -(-len(self) // batch_size)):
            inputs, targets = self._select(order, index * batch_size, (index + 1) * batch_size)
            if augmentation_seed is not None and self.augmentation is not None:
                inputs = AUGMENTATIONS[self.augmentation](inputs, batch_generator(augmentation_seed, index))
            yield normalize(inputs), targets

    def fingerprint(self) -> str:
        """Return a SHA-256 of all images and targets."""
        digest = hashlib.sha256()
        for tensor in (self.inputs, self.targets):
            contiguous = tensor.cpu().contiguous()
            digest.update((ctypes.c_char * contiguous.nbytes).from_address(contiguous.data_ptr()))
        return digest.hexdigest()

    def _select(self, order: Tensor | None, start: int, end: int) -> tuple[Tensor, Tensor]:
        if order is None:
            return self.inputs[start:end], self.targets[start:end]
        indices = order[start:end]
        return self.inputs.index_select(0, indices), self.targets.index_select(0, indices)


def make_normalize(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device, channels_last: bool
) -> Callable[[Tensor], Tensor]:
    """Return the function from uint8 [b, c, h, w] on `device` to float32 (x / 255 - mean) / std."""
    scale = (1 / (255 * torch.tensor(std, dtype=torch.float64))).float().view(-1, 1, 1).to(device)
    shift = -torch.tensor(mean, dtype=torch.float64) / torch.tensor(std, dtype=torch.float64)
    shift = shift.float().view(-1, 1, 1).to(device)
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def normalize(inputs: Tensor) -> Tensor:
        return inputs.to(torch.float32).mul_(scale).add_(shift).contiguous(memory_format=layout)

    return normalize


def batch_generator(seed: int, index: int) -> torch.Generator:
    """Return a random generator that depends on `seed` and the batch's `index` only.

    It is on the CPU, so that the augmentation is the same on every device.
    """
    # Hashed, because the CPU's Mersenne Twister has seeds of 32 bits: seed + index would repeat between epochs.
    digest = hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def crop_and_flip(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Random crop with padding and horizontal flip of uint8 [b, c, h, w] (He et al. 2016, section 4.2).

    The padding is black, an eighth of the height on each side (4 of 32 pixels); half of the images are flipped.
    """
    count, _, height, width = inputs.shape
    padding = height // 8
    offsets = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator)
    flipped = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.arange(width).expand(count, width)
    rows = torch.arange(height) + offsets[0]
    columns = torch.where(flipped, columns.flip(1), columns) + offsets[1]
    padded = torch.nn.functional.pad(inputs, (padding,) * 4)
    positions = rows.unsqueeze(2) * padded.shape[3] + columns.unsqueeze(1)
    positions = positions.view(count, 1, -1).expand(-1, inputs.shape[1], -1).to(inputs.device)
    return padded.flatten(2).gather(2, positions).view(inputs.shape)


AUGMENTATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {"crop_and_flip": crop_and_flip}
