"""Image pool of CycleGAN (Shrivastava et al., 2017): buffer of generated images for training discriminators."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class ImagePool:
    """Image pool: buffer of generated images that returns a mix of new and stored images.

    Args:
        size: number of images to store; 0: new images only.

    Attributes:
        images: stored images, `[C, H, W]` each.
    """

    def __init__(self, size: int = 50) -> None:
        self.size = size
        self.images: list[Tensor] = []

    def query(self, images: Tensor, uniform: Callable[[int, int], Tensor]) -> Tensor:
        """Return as many images as are given, some of them from the pool.

        Until the pool is full, each new image is stored and returned. Then, with probability 1/2, a random stored image
        is returned and replaced by the new one; otherwise the new image is returned and not stored.

        Args:
            images: `[N, C, H, W]`, without a graph.
            uniform: returns random numbers from [0, 1) of a given shape, a row per image.
        """
        if len(self.images) + len(images) <= self.size or not self.size:
            self.images += list(images) if self.size else []
            return images
        draws = uniform(len(images), 2).tolist()
        return torch.stack([self._exchange(image, *draw) for image, draw in zip(images, draws, strict=True)])

    def _exchange(self, image: Tensor, probability: float, position: float) -> Tensor:
        if len(self.images) < self.size:
            self.images.append(image)
            return image
        if probability <= 0.5:
            return image
        index = int(position * self.size)
        stored, self.images[index] = self.images[index], image
        return stored.to(image)

    def state(self) -> Tensor:
        """Return the images, `[n, C, H, W]`; `[0]` if there are none."""
        return torch.stack(self.images) if self.images else torch.empty(0)

    def load_state(self, images: Tensor) -> None:
        """Restore the images that `state` returned."""
        self.images = list(images)
