"""How a study shows its label maps: in the colours of a label space, or, where none is given, as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lab2pix.data.files import read_label, read_label_image, to_rgb
from lab2pix.errors import DataError
from lab2pix.labels.space import Color, LabelSpace, generate_colors

__all__ = ["ShowLabel", "ShownLabel", "colors_of_values", "show_as_they_are", "show_classes"]

_MAX_VALUE = 65535
"""The largest id, as many as 16 bits hold."""

_CONTRAST = 128
"""From which difference of 8-bit gray two tones are told apart at a glance, as those of a line drawing."""

_STEP = 0x9E3779
"""Odd, so that its multiples go through all 2^24 colours before any comes again, and far from the one before."""


@dataclass(frozen=True)
class ShownLabel:
    """A label map as participants see it.

    Attributes:
        picture: `[3, H, W]` uint8 RGB.
        classes: those that it holds, most pixels first; none without a label space.
    """

    picture: Tensor
    classes: list[int]


ShowLabel = Callable[[Path], ShownLabel]
"""Reads a label map's file; raises DataError or LabelError where it cannot be shown."""


def show_classes(label_space: LabelSpace) -> ShowLabel:
    """Return what shows label maps in the colours of their classes."""

    def show(file: Path) -> ShownLabel:
        ids = read_label(file, label_space)
        counts = ids.flatten().bincount()
        order = counts.argsort(descending=True, stable=True)
        return ShownLabel(label_space.to_colors(ids), [int(index) for index in order if counts[index]])

    return show


def show_as_they_are(files: Iterable[Path]) -> ShowLabel:
    """Return what shows label maps whose classes nobody has named.

    Pictures with colours, palette pictures among them, keep theirs; where they are transparent, they are white. Files
    with one number per pixel get one colour per number, the same in all of them, unless they are line drawings: two
    tones far apart in all of them together, such as black and white, stay as they are.

    Args:
        files: all label maps that will be shown.

    Raises:
        DataError: one is missing or damaged, or holds numbers that are no ids.
    """
    values: set[int] = set()
    tones: set[float] = set()
    for file in files:
        image = _open(file)
        if not _has_colors(image):
            present = np.unique(_numbers(image, file)).tolist()
            values.update(present)
            tones.update(value * 255 / (_MAX_VALUE if image.mode.startswith("I") else 255) for value in present)
    are_drawings = len(tones) == 2 and max(tones) - min(tones) >= _CONTRAST
    table = torch.zeros((_MAX_VALUE + 1, 3), dtype=torch.uint8)
    if values:
        table[sorted(values)] = torch.tensor(colors_of_values(len(values)), dtype=torch.uint8)

    def show(file: Path) -> ShownLabel:
        image = _open(file)
        if _has_colors(image):
            return ShownLabel(to_rgb(_on_white(image)), [])
        if are_drawings:
            return ShownLabel(to_rgb(image), [])
        return ShownLabel(table[torch.from_numpy(_numbers(image, file))].permute(2, 0, 1).contiguous(), [])

    return show


def colors_of_values(count: int) -> list[Color]:
    """Return different colours, the same ones at each call: as far from each other as so many can be, none black.

    Args:
        count: how many, 65536 at most.
    """
    colors = dict.fromkeys(generate_colors(min(count, 1330)))  # what its grid has beside black
    number = 0
    while len(colors) < count:
        number = (number + _STEP) % 2**24
        colors.setdefault((number >> 16, number >> 8 & 255, number & 255))
    return list(colors)


def _open(file: Path) -> Image.Image:
    """Load a label map; one number per pixel must not come from a file that changes numbers."""
    image, lossy = read_label_image(file)
    if image.mode == "F":
        raise DataError(f"{file} holds fractions instead of ids; save label maps as PNG with 8 or 16 bits")
    if image.mode == "LA" and image.getchannel(1).getextrema() == (255, 255):
        image = image.getchannel(0)
    if lossy and not _has_colors(image):
        raise DataError(
            f"{file} is gray and compressed with loss, which does not keep ids exact; save label maps as PNG, or add "
            "--label-space sketch if they are line drawings"
        )
    return image


def _has_colors(image: Image.Image) -> bool:
    """Say whether a label map is a picture already, rather than one number per pixel."""
    return image.mode == "P" or len(image.getbands()) > 1


def _numbers(image: Image.Image, file: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Return the numbers `[H, W]` of a label map without colours; a bit is black or white, 0 or 255."""
    numbers = np.asarray(image).astype(np.int64) * (255 if image.mode == "1" else 1)
    if numbers.min() < 0 or numbers.max() > _MAX_VALUE:
        raise DataError(
            f"{file} holds numbers from {numbers.min()} to {numbers.max()}, but ids are 0 to {_MAX_VALUE}; save label "
            "maps as PNG with 8 or 16 bits"
        )
    return numbers


def _on_white(image: Image.Image) -> Image.Image:
    """Lay a picture with transparent parts on white paper, as viewers show it."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
