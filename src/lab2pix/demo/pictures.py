"""The demonstration's pictures: held-out scenes, what the network makes of them, and a sheet of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lab2pix.data.dataset import Sample
from lab2pix.data.pixels import to_bytes, to_picture
from lab2pix.labels import LabelSpace
from lab2pix.synthesis import Synthesizer

__all__ = ["Scene", "draw_scenes", "write_sheet"]

_COLUMNS, _SIDE, _GAP, _TITLE = 2, 192, 8, 26
_PAPER, _INK = "#f7f6f3", "#3b3a36"


@dataclass(frozen=True)
class Scene:
    """A scene as it was drawn, and as the network draws it.

    Attributes:
        name: which scene.
        label: `[H, W]` int64 class ids.
        real: `[3, H, W]` uint8.
        generated: `[3, H, W]` uint8, or None before it was drawn.
    """

    name: str
    label: Tensor
    real: Tensor
    generated: Tensor | None = None

    @classmethod
    def from_sample(cls, sample: Sample) -> Self:
        """Take a sample of a data set."""
        image = sample["image"]
        assert image is not None
        return cls(sample["name"], sample["label"], to_bytes(image))


def draw_scenes(synthesizer: Synthesizer, scenes: Sequence[Scene], count: int) -> list[Scene]:
    """Let the network draw the first of some scenes, each from its label map alone."""
    return [replace(scene, generated=synthesizer(scene.label)[0]) for scene in scenes[:count]]


def write_sheet(file: Path, scenes: Sequence[Scene], label_space: LabelSpace) -> None:
    """Write a PNG: per scene its label map, the generated and the true picture, enlarged, two scenes to a row."""
    height, width = scenes[0].label.shape
    factor = max(1, round(_SIDE / max(height, width)))
    cell = (width * factor, height * factor)
    block = 3 * (cell[0] + _GAP) + 2 * _GAP
    rows = -(-len(scenes) // _COLUMNS)
    columns = min(_COLUMNS, len(scenes))
    sheet = Image.new("RGB", (columns * block - _GAP, _TITLE + rows * (cell[1] + _GAP)), _PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for column in range(columns):
        for place, title in enumerate(("label map", "generated", "true picture")):
            pen.text((_GAP + column * block + place * (cell[0] + _GAP), 5), title, fill=_INK, font=font)
    for index, scene in enumerate(scenes):
        generated = scene.real if scene.generated is None else scene.generated
        parts = [to_picture(label_space.to_colors(scene.label)).resize(cell, Image.Resampling.NEAREST)]
        parts += [to_picture(image).resize(cell, Image.Resampling.LANCZOS) for image in (generated, scene.real)]
        left, top = _GAP + index % _COLUMNS * block, _TITLE + index // _COLUMNS * (cell[1] + _GAP)
        for place, part in enumerate(parts):
            sheet.paste(part, (left + place * (cell[0] + _GAP), top))
    sheet.save(file)
