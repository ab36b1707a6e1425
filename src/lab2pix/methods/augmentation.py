"""Random changes of the images that losses and discriminators see in training; not in the paper."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from lab2pix.config.schema import Section
from lab2pix.methods.base import RandomSource

_TRANSLATION = 1 / 8
"""Largest translation of DiffAugment, as a part of height and width."""
_CUTOUT = 1 / 2
"""Side of DiffAugment's cutout, as a part of height and width."""


class AugmentConfig(Section):
    """Random changes of images in training; not in the paper."""

    shift: int = Field(
        0,
        ge=0,
        description="Largest shift in pixels, alike for generated image, photo and label map, before all losses, so "
        "that no pixel always has the same position in the strides of discriminators and backbones; 0: off.",
    )
    discriminator: tuple[Literal["color", "translation", "cutout"], ...] = Field(
        (),
        description="DiffAugment (Zhao et al., 2020): changes of generated images and photos, alike for both, that the "
        "discriminators see, so that they do not memorize a small dataset; `[]`: off.",
    )


def shift(x: Tensor, offsets: Tensor) -> Tensor:
    """Shift each image of a batch, reflected at its borders.

    Args:
        x: `[N, ..., H, W]` of any type.
        offsets: `[N, 2]` int64, rows and columns: pixel p of the result is pixel p + offset of the image.
    """
    for axis in (-2, -1):
        last = x.shape[axis] - 1
        places = (torch.arange(last + 1, device=x.device) + offsets[:, axis, None]).abs()
        places = last - (last - places).abs()
        shape = [len(x)] + [1] * (x.ndim - 1)
        shape[axis] = last + 1
        x = x.gather(axis, places.view(shape).expand_as(x))
    return x


def random_offsets(count: int, reach: tuple[int, int], random: RandomSource) -> Tensor:
    """Return offsets `[N, 2]` for `shift`, uniform from -reach to reach."""
    uniform = random.uniform(count, 2)
    limits = torch.tensor(reach, device=uniform.device)
    return (uniform * (2 * limits + 1)).long() - limits


@dataclass(frozen=True)
class DiffAugment:
    """Differentiable augmentation of what discriminators see (Zhao et al., 2020), with random numbers of one batch.

    Generated images and photos get the same changes, which feature matching needs, and label maps move with them. A
    translation is reflected at the border, since label maps have no blank pixels. An instance without numbers changes
    nothing.

    Attributes:
        colors: `[N, 3]` in [0, 1): brightness, saturation, contrast.
        offsets: `[N, 2]` int64 for `shift`.
        cutouts: `[N, 2]` in [0, 1): center of the gray rectangle.
    """

    colors: Tensor | None = None
    offsets: Tensor | None = None
    cutouts: Tensor | None = None

    @classmethod
    def draw(cls, policy: Collection[str], count: int, size: tuple[int, int], random: RandomSource) -> Self:
        """Draw the random numbers of a batch.

        Args:
            policy: names of changes, of `AugmentConfig.discriminator`.
            count: number of samples N.
            size: height and width.
            random: random numbers of the step.
        """
        reach = round(size[0] * _TRANSLATION), round(size[1] * _TRANSLATION)
        return cls(
            colors=random.uniform(count, 3) if "color" in policy else None,
            offsets=random_offsets(count, reach, random) if "translation" in policy else None,
            cutouts=random.uniform(count, 2) if "cutout" in policy else None,
        )

    def move(self, x: Tensor) -> Tensor:
        """Translate condition or class ids, `[N, ..., H, W]`."""
        return x if self.offsets is None else shift(x, self.offsets)

    def __call__(self, image: Tensor) -> Tensor:
        """Change images `[N, 3, H, W]`; gradients flow through all changes."""
        if self.colors is not None:
            brightness, saturation, contrast = self.colors[:, :, None, None, None].unbind(1)
            image = image + (brightness - 0.5)
            gray = image.mean(1, keepdim=True)
            image = gray + (image - gray) * (2 * saturation)
            middle = image.mean((1, 2, 3), keepdim=True)
            image = middle + (image - middle) * (contrast + 0.5)
        image = self.move(image)
        if self.cutouts is not None:
            rows, columns = (_inside(image, axis, self.cutouts[:, axis]) for axis in (-2, -1))
            image = image * ~(rows[:, None, :, None] & columns[:, None, None, :])
        return image


def _inside(image: Tensor, axis: int, center: Tensor) -> Tensor:
    """Return which rows or columns a cutout covers, `[N, length]` bool."""
    length = image.shape[axis]
    side = round(length * _CUTOUT)
    first = (center * (length + 1)).long() - side // 2
    places = torch.arange(length, device=image.device) - first[:, None]
    return (places >= 0) & (places < side)
