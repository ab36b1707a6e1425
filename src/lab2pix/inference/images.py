"""Generated images as Pillow images and tensors."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from lab2pix.data.transforms import to_pil
from lab2pix.errors import ConfigError

_SHOWN = 16
_GAP = 4  # pixels


@dataclass(frozen=True)
class GeneratedImages:
    """Images that a `Synthesizer` has generated, in the order of label maps, then samples.

    A notebook shows the first sixteen.

    Attributes:
        pixels: an image each, `[3, H, W]` uint8 RGB.
    """

    pixels: Sequence[Tensor]

    @property
    def images(self) -> list[Image.Image]:
        """The images as Pillow images."""
        return [to_pil(image) for image in self.pixels]

    @property
    def tensor(self) -> Tensor:
        """All images, `[N, 3, H, W]` uint8 RGB.

        Raises:
            ConfigError: the images differ in size.
        """
        sizes = {tuple(image.shape[-2:]) for image in self.pixels}
        if len(sizes) > 1:
            raise ConfigError(
                f"images of {len(sizes)} sizes do not fit into one tensor; take .images, or generate without keep_size"
            )
        return torch.stack(list(self.pixels))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pixels)

    def __getitem__(self, index: int) -> Image.Image:
        """Return an image as a Pillow image."""
        return to_pil(self.pixels[index])

    def __iter__(self) -> Iterator[Image.Image]:
        """Yield the Pillow images."""
        return map(to_pil, self.pixels)

    def __repr__(self) -> str:
        """Return the number and size of the images."""
        sizes = sorted({f"{image.shape[-2]}x{image.shape[-1]}" for image in self.pixels})
        return f"GeneratedImages({len(self)} images, {', '.join(sizes)} (height x width))"

    def _repr_png_(self) -> bytes:
        images = self.images[:_SHOWN]
        width, height = (max(image.size[axis] for image in images) + _GAP for axis in (0, 1))
        columns = min(4, len(images))
        sheet = Image.new("RGB", (columns * width - _GAP, -(-len(images) // columns) * height - _GAP), "white")
        for place, image in enumerate(images):
            sheet.paste(image, (place % columns * width, place // columns * height))
        out = io.BytesIO()
        sheet.save(out, format="PNG")
        return out.getvalue()
