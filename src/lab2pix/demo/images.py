"""Images of the demonstration: held-out scenes with generated images, and a contact sheet of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from PIL import Image
from torch import Tensor

from lab2pix.data.samples import Sample
from lab2pix.data.transforms import float_to_uint8, to_pil
from lab2pix.demo.variants import DemoVariant
from lab2pix.inference import Synthesizer
from lab2pix.labels.space import LabelSpace
from lab2pix.reporting.grid import image_grid
from lab2pix.utils.files import write_png

_SIDE = 192  # pixels
_PAPER = "#f7f6f3"


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
        pictures = torch.cat([synthesizer(scene.label, seed=seed).tensor for seed in range(seeds)])
        smaller: tuple[Tensor, ...] = ()
        if synthesizer.sampling.outputs > 1:
            images = synthesizer.generate_pyramid(synthesizer.read(scene.label), synthesizer.noise(0)[None])
            smaller = tuple(float_to_uint8(image)[0] for image in images[1:])
        drawn.append(replace(scene, generated=pictures, smaller=smaller))
    return drawn


def write_sheet(file: Path, scenes: Sequence[Scene], label_space: LabelSpace, kind: DemoVariant) -> None:
    """Write a contact sheet as PNG: condition, generated and true image of each scene, with titles."""
    height, width = scenes[0].label.shape
    factor = max(1, round(_SIDE / max(height, width)))

    def cell(pixels: Tensor, mode: Image.Resampling = Image.Resampling.LANCZOS) -> Image.Image:
        return to_pil(pixels).resize((width * factor, height * factor), mode)

    def row(scene: Scene) -> list[Image.Image]:
        assert scene.generated is not None
        label = cell(label_space.to_colors(scene.label), Image.Resampling.NEAREST)
        return [label, *map(cell, scene.generated if kind.unpaired else scene.generated[:1]), cell(scene.real)]

    rows = [row(scene) for scene in scenes]
    if not kind.unpaired:
        pairs = [[*itertools.chain(*rows[start : start + 2])] for start in range(0, len(rows), 2)]
        titles = ["label map", "generated", "real image"] * min(2, len(rows))
        write_png(file, image_grid(pairs, titles, paper=_PAPER))
        return
    lines = (
        f"{kind.system} ({kind.preset}), trained without pairs: each {kind.condition} met scenes of others. None below "
        "was seen in training.",
        f"Right: the scene of this {kind.condition}, never shown with it in training.",
    )
    titles = [kind.condition, *(f"{kind.generated}, seed {seed}" for seed in range(len(rows[0]) - 2)), kind.real]
    above = image_grid(rows, titles, paper=_PAPER, lines=lines)
    assert scenes[0].generated is not None
    sizes = (*scenes[0].smaller[::-1], scenes[0].generated[0])
    titles = ["one pass:", *(f"X{scale}, {x.shape[-2]} x {x.shape[-1]}" for scale, x in enumerate(sizes, start=1))]
    below = image_grid([[rows[0][0], *(cell(x, Image.Resampling.NEAREST) for x in sizes)]], titles, paper=_PAPER)
    sheet = Image.new("RGB", (above.width, above.height + below.height), _PAPER)
    sheet.paste(above, (0, 0))
    sheet.paste(below, (0, above.height))
    write_png(file, sheet)
