"""Canvas of image and label map, noise and color functions for procedural scenes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

NAMES = "sky cloud sun mountain snow water sand grass tree rock road house flower boat"
CLASSES = {name: index for index, name in enumerate(NAMES.split())}
"""Class ids of label space `scenes`, by name."""

_LATTICE = 512


def color(red: float, green: float, blue: float) -> Floats:
    """Return an 8-bit RGB color as `[3, 1, 1]` float32 in 0..1."""
    return np.array([red, green, blue], dtype=np.float32).reshape(3, 1, 1) / np.float32(255)


def mix(first: Floats, second: Floats, share: Floats | float) -> Floats:
    """Interpolate linearly from `first` (`share` 0) to `second` (`share` 1)."""
    result: Floats = first + (second - first) * np.asarray(share, dtype=np.float32)
    return result


def smooth(value: Floats, low: float, high: float) -> Floats:
    """Smoothstep: 0 below `low`, 1 above `high`, cubic between."""
    ramp = np.clip((value - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)
    result: Floats = ramp * ramp * (3 - 2 * ramp)
    return result


@lru_cache(maxsize=1)
def _lattice() -> Floats:
    """Return the fixed lattice of random numbers for all value noise; scenes differ in their offsets."""
    numbers = np.random.Generator(np.random.PCG64(20220914)).uniform(-1, 1, (_LATTICE, _LATTICE))
    return numbers.astype(np.float32)


def _cells(places: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Return the lattice indices around `places` `[n]`, the left neighbor of each among them, and the fraction."""
    floor = np.floor(places)
    fraction = (places - floor).astype(np.float32)
    left = floor.astype(np.int64)
    first = int(left.min())
    left -= first
    return np.arange(first, first + int(left.max()) + 2) % _LATTICE, left, fraction * fraction * (3 - 2 * fraction)


def _value_noise(x: Floats, y: Floats) -> Floats:
    """Return value noise `[len(y), len(x)]` in -1..1 with cells of width 1; separable, interpolated in x first."""
    columns, left, share = _cells(x)
    rows, above, share_down = _cells(y)
    lattice = _lattice()[rows[:, None], columns]
    lines = lattice[:, left]
    lines += (lattice[:, left + 1] - lines) * share
    result = lines[above]
    rest = lines[above + 1]
    rest -= result
    rest *= share_down[:, None]
    result += rest
    return result


def fbm(x: Floats, y: Floats, frequency: float, octaves: int, offset: float, *, stretch: float = 1.0) -> Floats:
    """Fractal Brownian motion: value noise of several octaves on a grid.

    Args:
        x: `[w]` coordinates, in image heights.
        y: `[h]` coordinates, in image heights.
        frequency: cells per image height in the first octave.
        octaves: number of octaves, each with twice the frequency and half the amplitude.
        offset: noise offset; selects the pattern.
        stretch: width of the pattern relative to its height.

    Returns:
        `[h, w]` float32, mostly in -1..1.
    """
    total = np.zeros((y.size, x.size), dtype=np.float32)
    columns, rows = np.ravel(x), np.ravel(y)
    for octave in range(octaves):
        scale = frequency * 2**octave
        shift = offset * (octave + 1) + 17.3 * octave
        total += _value_noise(columns * (scale / stretch) + shift, rows * scale + 1.7 * shift) * 0.5**octave
    return total


def ground_noise(x: Floats, depth: Floats, frequency: float, offset: float, *, stretch: float, finest: float) -> Floats:
    """Value noise on a ground plane in perspective: finer and flatter toward the horizon.

    Blends separable bands whose frequency doubles as the depth halves.

    Args:
        x: `[w]` coordinates, in image heights.
        depth: `[h]` distances below the horizon, positive and increasing, in image heights.
        frequency: cells per image height at depth 1.
        offset: noise offset.
        stretch: width of the pattern relative to its height.
        finest: cells per image height above which bands are skipped.

    Returns:
        `[h, w]` float32 in -1..1.
    """
    columns = np.ravel(x)
    level = np.log2(np.maximum(np.ravel(depth), 1e-3))
    total = np.zeros((level.size, columns.size), dtype=np.float32)
    for band in range(int(np.floor(level.min())), int(np.ceil(level.max())) + 1):
        weight = np.maximum(1 - np.abs(level - band), 0).astype(np.float32)
        rows = np.flatnonzero(weight)
        scale = frequency * 2.0**-band
        if rows.size == 0 or scale / stretch > finest:
            continue
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        shift = offset + 31.7 * band
        down = level[part] * np.float32(frequency * 1.44) + np.float32(shift)
        total[part] += _value_noise(columns * (scale / stretch) + shift, down) * weight[part, None]
    return total


@dataclass(frozen=True)
class Area:
    """Rectangle of the canvas: slices, and pixel coordinates in image heights."""

    rows: slice
    columns: slice
    x: Floats
    y: Floats


class Canvas:
    """Supersampled image and label map, painted together from back to front.

    Attributes:
        rgb: `[3, h, w]` float32 in 0..1 (clipped only by `finish`).
        label: `[h, w]` uint8 class ids.
        x: `[1, w]` coordinates, 0 to `aspect`.
        y: `[h, 1]` coordinates, 0 to 1.
    """

    def __init__(self, size: tuple[int, int], detail: int) -> None:
        """Create a canvas of `detail` times `size` (height, width) pixels."""
        self.size, self.detail = size, detail
        height, width = size[0] * detail, size[1] * detail
        self.rgb: Floats = np.zeros((3, height, width), dtype=np.float32)
        self.label = np.zeros((height, width), dtype=np.uint8)
        self.x: Floats = ((np.arange(width, dtype=np.float32) + 0.5) / np.float32(height))[None]
        self.y: Floats = ((np.arange(height, dtype=np.float32) + 0.5) / np.float32(height))[:, None]
        self.aspect = width / height

    def area(self, top: float, bottom: float, left: float = 0.0, right: float = np.inf) -> Area | None:
        """Return the rectangle between the given coordinates, or None if it is outside of the image."""
        height, width = self.label.shape
        first, last = max(int(top * height), 0), min(int(np.ceil(bottom * height)), height)
        start, stop = max(int(left * height), 0), int(min(np.ceil(right * height), width))
        if first >= last or start >= stop:
            return None
        rows, columns = slice(first, last), slice(start, stop)
        return Area(rows, columns, self.x[:, columns], self.y[rows])

    def below(self, top: float) -> Area:
        """Return the rectangle from `top` to the lower edge, at least the last row."""
        height, width = self.label.shape
        rows = slice(min(int(top * height), height - 1), height)
        return Area(rows, slice(0, width), self.x, self.y[rows])

    def paint(self, area: Area, mask: NDArray[np.bool_], rgb: Floats, name: str) -> None:
        """Set masked pixels `[h, w]` of an area to colors `[3, h, w]` and to the class `name`."""
        np.copyto(self.rgb[:, area.rows, area.columns], rgb, where=mask)
        np.copyto(self.label[area.rows, area.columns], np.uint8(CLASSES[name]), where=mask)

    def blend(self, area: Area, rgb: Floats, alpha: Floats) -> None:
        """Alpha-blend colors `[3, h, w]` by `alpha` `[h, w]`; labels do not change."""
        view = self.rgb[:, area.rows, area.columns]
        view += (rgb - view) * alpha

    def finish(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Downsample: image `[3, H, W]` uint8 by averaging, and ids `[H, W]` uint8 from the pixel centers."""
        detail, (height, width) = self.detail, self.size
        fine = np.clip(self.rgb, 0, 1, out=self.rgb)
        rows = fine.reshape(3, height, detail, width * detail).sum(axis=2)
        small = rows[..., ::detail].copy()
        for step in range(1, detail):
            small += rows[..., step::detail]
        image = (small * np.float32(255 / detail**2) + np.float32(0.5)).astype(np.uint8)
        middle = detail // 2
        return image, self.label[middle::detail, middle::detail].copy()
