"""Image pool of CycleGAN (after Shrivastava et al., 2017): a buffer of generated images to train a discriminator on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["ImagePool"]


class ImagePool:
    """Buffer that answers new images with a mix of new and older ones.

    Args:
        size: images kept; 0 returns every image as it is.

    Attributes:
        images: what is kept, `[C, H, W]` each.
    """

    def __init__(self, size: int = 50) -> None:
        self.size = size
        self.images: list[Tensor] = []

    def query(self, images: Tensor, uniform: Callable[[int], Tensor]) -> Tensor:
        """Offer images, one after the other, and return as many.

        Until the pool is full, an image is kept and returned. Then, with probability 1/2, one of the pool is returned
        and the new one takes its place; otherwise the new one is returned and the pool stays as it is.

        Args:
            images: `[N, C, H, W]`, without a graph.
            uniform: returns as many random numbers from [0, 1) as asked for.
        """
        return torch.stack([self._exchange(image, uniform) for image in images])

    def _exchange(self, image: Tensor, uniform: Callable[[int], Tensor]) -> Tensor:
        if len(self.images) < self.size:
            self.images.append(image)
            return image
        if not self.size:
            return image
        chance, place = uniform(2).tolist()
        if chance <= 0.5:
            return image
        index = int(place * self.size)
        older, self.images[index] = self.images[index], image
        return older.to(image)

    def state(self) -> Tensor:
        """Return the images, `[n, C, H, W]`; `[0]` where there are none."""
        return torch.stack(self.images) if self.images else torch.empty(0)

    def load_state(self, images: Tensor) -> None:
        """Continue where `state` was taken."""
        self.images = list(images)
