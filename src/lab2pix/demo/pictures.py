"""Images of the demonstration: held-out scenes with generated images, and a contact sheet of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lab2pix.data.samples import Sample
from lab2pix.data.transforms import float_to_uint8, to_pil
from lab2pix.demo.variants import DemoVariant
from lab2pix.inference import Synthesizer
from lab2pix.labels.space import LabelSpace

__all__ = ["Scene", "draw_scenes", "write_sheet"]

_COLUMNS, _SIDE, _GAP, _TITLE, _LINE = 2, 192, 8, 26, 22
_PAPER, _INK = "#f7f6f3", "#3b3a36"


@dataclass(frozen=True)
class Scene:
    """A held-out scene with its generated images.

    Attributes:
        name: name of the scene.
        label: `[H, W]` int64 class ids, or lines.
        real: `[3, H, W]` uint8.
        generated: `[seeds, 3, H, W]` uint8; None before generation.
        smaller: smaller images of the same pass as the first one, `[3, H/2, W/2]` and `[3, H/4, W/4]` uint8, if any.
    """

    name: str
    label: Tensor
    real: Tensor
    generated: Tensor | None = None
    smaller: tuple[Tensor, ...] = ()

    @classmethod
    def from_sample(cls, sample: Sample) -> Self:
        """Return the scene of a sample."""
        image = sample["image"]
        assert image is not None
        return cls(sample["name"], sample["label"], float_to_uint8(image))


def draw_scenes(synthesizer: Synthesizer, scenes: Sequence[Scene], count: int, seeds: int = 1) -> list[Scene]:
    """Generate images of the first `count` scenes from their label maps, one per seed."""
    drawn = []
    for scene in scenes[:count]:
        pictures = torch.cat([synthesizer(scene.label, seed=seed) for seed in range(seeds)])
        smaller: tuple[Tensor, ...] = ()
        if synthesizer.sampling.outputs > 1:
            images = synthesizer.generate_pyramid(synthesizer.read(scene.label), synthesizer.noise(0)[None])
            smaller = tuple(float_to_uint8(image)[0] for image in images[1:])
        drawn.append(replace(scene, generated=pictures, smaller=smaller))
    return drawn


def write_sheet(file: Path, scenes: Sequence[Scene], label_space: LabelSpace, kind: DemoVariant) -> None:
    """Write a contact sheet as PNG: condition, generated and true image of each scene, with titles."""
    sheet = _unpaired_sheet(scenes, label_space, kind) if kind.unpaired else _paired_sheet(scenes, label_space)
    sheet.save(file)


class _Cells:
    """Cells of a contact sheet: images upsampled to one size.

    Args:
        scenes: the scenes, which determine the size.
        label_space: colors of the label maps.
    """

    def __init__(self, scenes: Sequence[Scene], label_space: LabelSpace) -> None:
        height, width = scenes[0].label.shape
        factor = max(1, round(_SIDE / max(height, width)))
        self.width, self.height = width * factor, height * factor
        self.label_space = label_space

    def label(self, scene: Scene) -> Image.Image:
        """Return the colored label map of a scene."""
        return self.upsampled(self.label_space.to_colors(scene.label), Image.Resampling.NEAREST)

    def upsampled(self, pixels: Tensor, way: Image.Resampling = Image.Resampling.LANCZOS) -> Image.Image:
        """Return `[3, h, w]` uint8 as an image of the cells' size."""
        return to_pil(pixels).resize((self.width, self.height), way)

    def paste(self, sheet: Image.Image, row: Sequence[Image.Image], left: int, top: int) -> None:
        """Paste images side by side."""
        for place, picture in enumerate(row):
            sheet.paste(picture, (left + place * (self.width + _GAP), top))


def _paired_sheet(scenes: Sequence[Scene], label_space: LabelSpace) -> Image.Image:
    """Return label map, generated and true image of each scene, two scenes per row."""
    cells = _Cells(scenes, label_space)
    block = 3 * (cells.width + _GAP) + 2 * _GAP
    rows = -(-len(scenes) // _COLUMNS)
    columns = min(_COLUMNS, len(scenes))
    sheet = Image.new("RGB", (columns * block - _GAP, _TITLE + rows * (cells.height + _GAP)), _PAPER)
    for column in range(columns):
        _write(sheet, ("label map", "generated", "true picture"), _GAP + column * block, 5, cells)
    for index, scene in enumerate(scenes):
        generated = scene.real if scene.generated is None else scene.generated[0]
        row = [cells.label(scene), cells.upsampled(generated), cells.upsampled(scene.real)]
        left, top = _GAP + index % _COLUMNS * block, _TITLE + index // _COLUMNS * (cells.height + _GAP)
        cells.paste(sheet, row, left, top)
    return sheet


def _unpaired_sheet(scenes: Sequence[Scene], label_space: LabelSpace, kind: DemoVariant) -> Image.Image:
    """Return a row per scene (condition, several seeds, the scene), then the three sizes of the first scene."""
    cells = _Cells(scenes, label_space)
    seeds = 0 if scenes[0].generated is None else len(scenes[0].generated)
    lines = (
        f"{kind.system} ({kind.preset}), learnt without pairs: each {kind.condition} met scenes of others. None below "
        "was seen in training.",
        f"Right: the scene that was drawn for this {kind.condition}, never shown with it in training.",
    )
    top = len(lines) * _LINE + _GAP + _TITLE
    size = ((seeds + 2) * (cells.width + _GAP) + _GAP, top + (len(scenes) + 1) * (cells.height + _GAP) + _TITLE)
    sheet = Image.new("RGB", size, _PAPER)
    for number, line in enumerate(lines):
        ImageDraw.Draw(sheet).text((_GAP, 5 + number * _LINE), line, fill=_INK, font=ImageFont.load_default(14))
    titles = [kind.condition, *(f"{kind.generated}, seed {seed}" for seed in range(seeds)), kind.real]
    _write(sheet, titles, _GAP, top - _LINE, cells)
    for scene in scenes:
        generated = () if scene.generated is None else scene.generated
        cells.paste(
            sheet, [cells.label(scene), *map(cells.upsampled, generated), cells.upsampled(scene.real)], _GAP, top
        )
        top += cells.height + _GAP
    first = scenes[0]
    sizes = () if first.generated is None else (*first.smaller[::-1], first.generated[0])
    titles = [f"X{scale}, {size.shape[-1]} x {size.shape[-2]}" for scale, size in enumerate(sizes, start=1)]
    _write(sheet, ["one pass:", *titles], _GAP, top + 3, cells)
    row = [cells.upsampled(size, Image.Resampling.NEAREST) for size in sizes]
    cells.paste(sheet, [cells.label(first), *row], _GAP, top + _TITLE)
    return sheet


def _write(sheet: Image.Image, titles: Sequence[str], left: int, top: int, cells: _Cells) -> None:
    """Write titles above cells."""
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for place, title in enumerate(titles):
        pen.text((left + place * (cells.width + _GAP), top), title, fill=_INK, font=font)
