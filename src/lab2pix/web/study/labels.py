"""Rendering of label maps for participants: in class colors, or as they are if no label space is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lab2pix.data.image_file import ImageFile, flatten, open_image, to_rgb
from lab2pix.data.label_maps import read_label, to_values
from lab2pix.errors import DataError
from lab2pix.labels.colors import generate_colors
from lab2pix.labels.space import Color, LabelSpace

_MAX_ID = 65535
"""Largest 16-bit id."""

_DRAWING_CONTRAST = 128
"""Least difference of the two gray levels (0 to 255) of a line drawing."""

_COLOR_STEP = 0x9E3779
"""Odd, so that its multiples visit all 2^24 colors before one repeats; consecutive ones are far apart."""


@dataclass(frozen=True)
class RenderedLabel:
    """A label map as participants see it.

    Attributes:
        image: `[3, H, W]` uint8 RGB.
        classes: class ids in it, most frequent first; empty without a label space.
    """

    image: Tensor
    classes: list[int]


LabelRenderer = Callable[[Path], RenderedLabel]
"""Renders a label map's file; raises DataError or LabelError if that is impossible."""


def render_classes(label_space: LabelSpace) -> LabelRenderer:
    """Return a renderer that uses the colors of a label space."""

    def render(file: Path) -> RenderedLabel:
        ids = read_label(file, label_space)
        counts = ids.flatten().bincount()
        order = counts.argsort(descending=True, stable=True)
        return RenderedLabel(label_space.to_colors(ids), [int(index) for index in order if counts[index]])

    return render


def render_raw_labels(files: Iterable[Path]) -> LabelRenderer:
    """Return a renderer for label maps without a label space.

    Color and palette images keep their colors, on a white background where they are transparent.
    In gray files every id gets a color, the same in all files.
    Line drawings stay as they are: all files together have exactly two gray levels far apart, such as black and white.

    Args:
        files: all label maps that will be rendered.

    Raises:
        DataError: one is missing or damaged, or contains values that cannot be ids.
    """
    values: set[int] = set()
    levels: set[float] = set()
    for path in files:
        file = _open(path)
        if not _has_colors(file):
            present = np.unique(_ids(file, path)).tolist()
            values.update(present)
            levels.update(value * 255 / (_MAX_ID if file.bits > 8 else 255) for value in present)
    are_drawings = len(levels) == 2 and max(levels) - min(levels) >= _DRAWING_CONTRAST
    table = torch.zeros((_MAX_ID + 1, 3), dtype=torch.uint8)
    if values:
        table[sorted(values)] = torch.tensor(distinct_colors(len(values)), dtype=torch.uint8)

    def render(path: Path) -> RenderedLabel:
        file = _open(path)
        if _has_colors(file):
            return RenderedLabel(to_rgb(flatten(file.image, "white")), [])
        if are_drawings:
            return RenderedLabel(to_rgb(file.image, file.bits), [])
        return RenderedLabel(table[torch.from_numpy(_ids(file, path))].permute(2, 0, 1).contiguous(), [])

    return render


def distinct_colors(count: int) -> list[Color]:
    """Return distinct colors without black, widely spaced and the same at each call.

    Args:
        count: number of colors, at most 65536.
    """
    colors = dict.fromkeys(generate_colors(min(count, 1330)))  # its grid has 1330 without black
    number = 0
    while len(colors) < count:
        number = (number + _COLOR_STEP) % 2**24
        colors.setdefault((number >> 16, number >> 8 & 255, number & 255))
    return list(colors)


def _open(path: Path) -> ImageFile:
    """Open a label map; ids must not come from a lossy file."""
    file = open_image(path)
    image = file.image
    if image.mode == "F":
        raise DataError(f"{path} contains fractions instead of ids; save label maps as PNG with 8 or 16 bits")
    if image.mode == "LA" and image.getchannel(1).getextrema() == (255, 255):
        file = replace(file, image=image.getchannel(0))
    if file.lossy and not _has_colors(file):
        raise DataError(
            f"{path} is gray and compressed with loss, which does not keep ids exact; save label maps as PNG, or add "
            "--label-space sketch if they are line drawings"
        )
    return file


def _has_colors(file: ImageFile) -> bool:
    """Tell whether a label map is an image to look at rather than one id per pixel."""
    if file.wide is not None:
        return not bool((file.wide == file.wide[..., :1]).all())
    return file.image.mode == "P" or len(file.image.getbands()) > 1


def _ids(file: ImageFile, path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Return the ids `[H, W]` of a gray label map; those of a 1-bit image are 0 and 255."""
    if file.wide is not None:
        return file.wide[..., 0].astype(np.int64)
    ids = to_values(file.image).numpy().astype(np.int64) * (255 if file.image.mode == "1" else 1)
    if ids.min() < 0 or ids.max() > _MAX_ID:
        raise DataError(
            f"{path} contains values from {ids.min()} to {ids.max()}, but ids are 0 to {_MAX_ID}; save label maps as "
            "PNG with 8 or 16 bits"
        )
    return ids
