"""Joint transforms of label map, photo and instance map, and conversions between uint8, float and Pillow images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional
from torchvision.transforms.v2.functional import InterpolationMode

from lab2pix.errors import ConfigError

__all__ = [
    "JointTransform",
    "float_to_uint8",
    "instance_edges",
    "resize_image",
    "resize_nearest",
    "to_pil",
    "uint8_to_float",
]


@dataclass(frozen=True)
class JointTransform:
    """Resize, crop and flip, the same way for all parts of a sample.

    Attributes:
        size: height and width of the result in pixels.
        resize: height and width to resize to before a random crop to `size`; None: resize to `size`.
        flip: mirror left and right, every other time at random.
        train: False resizes to `size` and leaves out whatever is random.
    """

    size: tuple[int, int]
    resize: tuple[int, int] | None = None
    flip: bool = True
    train: bool = True

    def __post_init__(self) -> None:
        """Refuse a crop larger than what it is cut from.

        Raises:
            ConfigError: `resize` is smaller than `size`.
        """
        if self.resize is not None and (self.resize[0] < self.size[0] or self.resize[1] < self.size[1]):
            raise ConfigError(
                f"data.resize={list(self.resize)} is smaller than data.size={list(self.size)}, which is cut out of it; "
                "make it at least as large, or null"
            )

    def __call__(
        self, label: Tensor, image: Tensor | None, instance: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Transform a sample.

        Args:
            label: `[H, W]` int64 class ids, or `[C, H, W]` float32, an image to generate from.
            image: `[3, H, W]` uint8, or None.
            instance: `[H, W]` int64, or None.
            generator: decides crop and flip.

        Returns:
            Label map, photo and instance map in the wanted size and their own number formats.
        """
        cut = self._cut(generator)
        label = cut(resize_nearest(label, self.whole) if label.ndim == 2 else resize_image(label, self.whole))
        instance = None if instance is None else cut(resize_nearest(instance, self.whole))
        return label, None if image is None else cut(resize_image(image, self.whole)), instance

    def photo(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Transform a photo `[3, H, W]` uint8 that no label map goes with; as in `__call__`."""
        return self._cut(generator)(resize_image(image, self.whole))

    @property
    def whole(self) -> tuple[int, int]:
        """Height and width before the crop, in pixels."""
        return self.resize if self.train and self.resize is not None else self.size

    def _cut(self, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
        """Return the crop and flip that the generator decides."""
        if not self.train:
            return lambda part: part
        whole = self.whole
        top = int(torch.randint(whole[0] - self.size[0] + 1, (), generator=generator))
        left = int(torch.randint(whole[1] - self.size[1] + 1, (), generator=generator))
        mirrored = self.flip and bool(torch.rand((), generator=generator) < 0.5)

        def cut(part: Tensor) -> Tensor:
            part = part[..., top : top + self.size[0], left : left + self.size[1]]
            return part.flip(-1) if mirrored else part

        return cut


def resize_nearest(ids: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a map of ids `[H, W]` by taking the pixel under each new pixel's middle, so that no id is invented."""
    if ids.shape == size:
        return ids
    rows, columns = (
        ((torch.arange(new, dtype=torch.float64) + 0.5) * (old / new)).long().clamp_(max=old - 1)
        for old, new in zip(ids.shape, size, strict=True)
    )
    # Of the two orders the one that takes less memory between: a picture may be one pixel high and millions wide.
    if len(rows) * ids.shape[1] <= ids.shape[0] * len(columns):
        return ids[rows][:, columns]
    return ids[:, columns][rows]


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize `[C, H, W]` uint8, or float32 in [-1, 1], by antialiased bicubic interpolation."""
    resized: Tensor = functional.resize(image, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)
    return resized.clamp(-1, 1) if resized.is_floating_point() else resized


def instance_edges(instance: Tensor) -> Tensor:
    """Mark where instances meet, the boundary channel that can be appended to the one-hot label map.

    Args:
        instance: `[H, W]` or `[N, H, W]` of any integers; equal ones are one instance.

    Returns:
        `[1, H, W]` or `[N, 1, H, W]` float32, 1 where a 4-neighbour belongs to another instance.
    """
    across = (instance[..., 1:] != instance[..., :-1]).float()
    down = (instance[..., 1:, :] != instance[..., :-1, :]).float()
    sides = F.pad(across, (1, 0)) + F.pad(across, (0, 1)) + F.pad(down, (0, 0, 1, 0)) + F.pad(down, (0, 0, 0, 1))
    return sides.clamp(max=1).unsqueeze(-3)


def uint8_to_float(pixels: Tensor) -> Tensor:
    """Turn uint8 of any shape into float32 in [-1, 1], as networks see it."""
    return pixels.to(torch.float32).div_(127.5).sub_(1.0)


def float_to_uint8(image: Tensor) -> Tensor:
    """Turn floats in [-1, 1] of any shape (what lies outside is clipped) into uint8 on the CPU."""
    return ((image.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()


def to_pil(pixels: Tensor) -> Image.Image:
    """Turn `[3, H, W]` uint8 into a Pillow picture."""
    return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))
