"""torchvision's FashionMNIST with images from memory, for the DataLoader benchmark."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torchvision.datasets import FashionMNIST


class InMemoryFashionMNIST(FashionMNIST):
    """FashionMNIST with the given images (N, H, W) and targets (N,) instead of downloaded ones."""

    def __init__(self, images: Tensor, targets: Tensor, transform: Callable[[Any], Tensor]) -> None:
        self._images, self._targets = images, targets
        super().__init__("unused", transform=transform)

    def _check_exists(self) -> bool:
        return True

    def _load_data(self) -> tuple[Tensor, Tensor]:
        return self._images, self._targets
