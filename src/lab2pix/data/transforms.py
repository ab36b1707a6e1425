"""Joint transforms of label map, photo and instance map, and conversions between uint8, float and Pillow images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from lab2pix.errors import ConfigError


@dataclass(frozen=True)
class JointTransform:
    """Joint resize, random crop and random horizontal flip of all parts of a sample.

    Attributes:
        size: height and width of the result in pixels.
        resize: height and width before a random crop to `size`; None: resize to `size`.
        flip: whether to flip horizontally with probability 0.5.
        train: whether to crop and flip; otherwise only resize to `size`.
    """

    size: tuple[int, int]
    resize: tuple[int, int] | None = None
    flip: bool = True
    train: bool = True

    def __post_init__(self) -> None:
        """Check the sizes.

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
            label: label map `[H, W]` int64, or source image `[C, H, W]` float32.
            image: photo `[3, H, W]` uint8, or None.
            instance: instance map `[H, W]` int64, or None.
            generator: random generator for crop and flip.

        Returns:
            Label map, photo and instance map of size `size`, dtypes unchanged.
        """
        cut = self._cut(generator)
        label = cut(resize_nearest(label, self.whole) if label.ndim == 2 else resize_image(label, self.whole))
        instance = None if instance is None else cut(resize_nearest(instance, self.whole))
        return label, None if image is None else cut(resize_image(image, self.whole)), instance

    def photo(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Transform a photo `[3, H, W]` uint8 without a label map."""
        return self._cut(generator)(resize_image(image, self.whole))

    @property
    def whole(self) -> tuple[int, int]:
        """Height and width before the crop, in pixels."""
        return self.resize if self.train and self.resize is not None else self.size

    def _cut(self, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
        """Sample crop and flip, and return them as a function."""
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
    """Resize ids `[H, W]` by nearest neighbor, sampled at pixel centers."""
    if ids.shape == size:
        return ids
    rows, columns = (
        ((torch.arange(new, dtype=torch.float64) + 0.5) * (old / new)).long().clamp_(max=old - 1)
        for old, new in zip(ids.shape, size, strict=True)
    )
    # Use the order with the smaller intermediate: an image can be one pixel high and millions wide.
    if len(rows) * ids.shape[1] <= ids.shape[0] * len(columns):
        return ids[rows][:, columns]
    return ids[:, columns][rows]


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize `[C, H, W]` uint8, or float32 in [-1, 1], by antialiased bicubic interpolation."""
    if image.shape[-2:] == size:
        return image.clamp(-1, 1) if image.is_floating_point() else image
    resized = F.interpolate(image[None], size, mode="bicubic", align_corners=False, antialias=True)[0]
    return resized.clamp(-1, 1) if resized.is_floating_point() else resized


def instance_edges(instance: Tensor) -> Tensor:
    """Compute the instance-boundary channel that can be appended to the one-hot label map.

    Args:
        instance: integer instance ids, `[H, W]` or `[N, H, W]`.

    Returns:
        `[1, H, W]` or `[N, 1, H, W]` float32, 1 where a 4-neighbor belongs to another instance.
    """
    across = (instance[..., 1:] != instance[..., :-1]).float()
    down = (instance[..., 1:, :] != instance[..., :-1, :]).float()
    sides = F.pad(across, (1, 0)) + F.pad(across, (0, 1)) + F.pad(down, (0, 0, 1, 0)) + F.pad(down, (0, 0, 0, 1))
    return sides.clamp(max=1).unsqueeze(-3)


def uint8_to_float(pixels: Tensor) -> Tensor:
    """Convert uint8 of any shape to float32 in [-1, 1], the networks' range."""
    return pixels.to(torch.float32).div_(127.5).sub_(1.0)


def float_to_uint8(image: Tensor) -> Tensor:
    """Convert floats of any shape, clipped to [-1, 1], to uint8 on the CPU."""
    return ((image.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()


def to_luma(image: Tensor) -> Tensor:
    """Return the luma `[H, W]` (ITU-R BT.601, as in Pillow) of an RGB image `[3, H, W]` float32."""
    return torch.einsum("chw,c->hw", image, image.new_tensor((0.299, 0.587, 0.114)))


def to_pil(pixels: Tensor) -> Image.Image:
    """Convert `[3, H, W]` uint8 to a Pillow image."""
    return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))
