"""Line drawings: binarization, and resizing that preserves thin lines."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lab2pix.data.transforms import resize_nearest
from lab2pix.errors import LabelError
from lab2pix.labels.colors import row_chunks
from lab2pix.labels.space import LabelSpace

Lines = Literal["auto", "dark", "light"]
"""Which pixels of a drawing are lines; auto: the rarer ones."""

SKETCH = "sketch"
"""Name of the label space of line drawings: 0 blank, 1 line."""

JPEG_BLEED = 16
"""Columns next to the seam of an AB file that can have colors of the other half: one JPEG chroma block."""

_COLORED = 32
"""Difference between red, green and blue above which a pixel is colored; JPEG artifacts of gray images are smaller."""
_COLORED_SHARE = 0.001
"""Largest fraction of colored pixels in a line drawing."""
_CONTRAST = 32
"""Smallest difference between the lightest and the darkest pixel; an image with less is blank."""
_SHADED_SHARE = 0.25
"""Largest fraction of pixels with tones between line and paper, such as antialiased edges."""
_IDS = 32
"""Brightness of the lightest pixel below which an image contains ids rather than tones."""


def find_lines(pixels: Tensor, lines: Lines, where: str, *, seam: int = 0, dtype: torch.dtype = torch.int64) -> Tensor:
    """Binarize a line drawing at the midpoint between its darkest and lightest pixel.

    An image of one tone is blank. An image without values above 1 contains ids: 1 is a line, or 0 if `lines` is `dark`.

    Args:
        pixels: `[3, H, W]` uint8 RGB.
        lines: which pixels are lines; `auto`: the dark or the light ones, whichever are fewer.
        where: name of the drawing in errors, usually the file.
        seam: columns at the right that can have colors of another image, see `JPEG_BLEED`.
        dtype: dtype of the result.

    Returns:
        `[H, W]`, 0 blank and 1 line.

    Raises:
        LabelError: the drawing has colors or many tones, or is a label map.
    """
    inner = pixels[..., : max(1, pixels.shape[-1] - seam)]
    colored = (inner.amax(dim=0) - inner.amin(dim=0)) > _COLORED
    share = _share(colored)
    if share > _COLORED_SHARE:
        raise LabelError(
            f"{where} has colors in {share:.1%} of its pixels, but a line drawing is gray; "
            "save it in gray, or choose the format and label space of what it shows"
        )
    gray = torch.empty(pixels.shape[1:])
    for rows in row_chunks(*gray.shape):
        gray[rows] = pixels[:, rows].float().mean(dim=0)
    darkest, lightest = float(gray.min()), float(gray.max())
    if lightest <= 1:
        return (gray.round() == (0 if lines == "dark" else 1)).to(dtype)
    if lightest < _IDS:
        raise LabelError(
            f"{where} holds values from {darkest:g} to {lightest:g}, as label maps do, but no line drawing; give a "
            "drawing, or to train on the borders of its classes set data.sketch.from=labels"
        )
    if lightest - darkest < _CONTRAST:
        return torch.zeros(gray.shape, dtype=dtype)
    quarter = (lightest - darkest) / 4
    shaded = _share((gray > darkest + quarter) & (gray < lightest - quarter))
    if shaded > _SHADED_SHARE:
        raise LabelError(
            f"{where} has tones between line and paper in {shaded:.1%} of its pixels, as label maps and photos do; "
            "give a line drawing, or to train on lines that are made of it set data.sketch.from to labels or photo"
        )
    dark = gray < (darkest + lightest) / 2
    light_lines = lines == "light" or (lines == "auto" and _share(dark) > 0.5)
    return (~dark if light_lines else dark).to(dtype)


def _share(mask: Tensor) -> float:
    """Return the fraction of true pixels in a mask, without a float copy of it."""
    return int(torch.count_nonzero(mask)) / mask.numel()


def resize_lines(lines: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a line drawing without breaking lines.

    Downsampling marks every pixel that contains a line pixel, so connected lines stay connected; nearest neighbor or a
    thresholded average would break lines of one pixel. Upsampling repeats pixels.

    Args:
        lines: `[H, W]` int64, 1 on lines.
        size: height and width of the result in pixels.

    Returns:
        `[size]` int64.
    """
    height, width = (min(old, new) for old, new in zip(lines.shape, size, strict=True))
    if (height, width) != tuple(lines.shape):
        small = torch.zeros((height, width), dtype=lines.dtype)
        for band in row_chunks(*lines.shape):
            rows, columns = lines[band].nonzero(as_tuple=True)
            small[(rows + band.start) * height // lines.shape[0], columns * width // lines.shape[1]] = 1
        lines = small
    return resize_nearest(lines, size)


def resize_label(ids: Tensor, size: tuple[int, int], label_space: LabelSpace) -> Tensor:
    """Resize ids `[H, W]`: line drawings by `resize_lines`, classes by nearest neighbor."""
    return resize_lines(ids, size) if label_space.name == SKETCH else resize_nearest(ids, size)
