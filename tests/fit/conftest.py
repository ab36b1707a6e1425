"""Small drawn sets in the three forms that `lab2pix fit` takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Draw = Callable[..., Path]


def photo(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)


def label_map(seed: int, size: tuple[int, int] = (64, 64), classes: int = 3) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, classes, (4, 4), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size[::-1], Image.Resampling.NEAREST)


@pytest.fixture
def draw(tmp_path: Path) -> Draw:
    """Draws a set of `count` photos in `tmp_path/mine`, with label maps as `form` says."""

    def call(form: str = "pairs", count: int = 24, size: tuple[int, int] = (64, 64), photos: str = "images") -> Path:
        root = tmp_path / "mine"
        for number in range(count):
            file = root / (f"{number:02}.png" if form == "photos" else f"{photos}/{number:02}.png")
            file.parent.mkdir(parents=True, exist_ok=True)
            photo(number, size).save(file)
            if form != "photos":
                name = f"{number:02}" if form == "pairs" else f"map-{number}"
                file = root / "labels" / f"{name}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                label_map(number, size).save(file)
        return root

    return call
