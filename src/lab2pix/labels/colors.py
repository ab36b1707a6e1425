"""Color matching of label maps in row chunks, which bounds peak memory, and generated colors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lab2pix.labels.reader import Color

BAND = 2**18
"""Pixels per chunk."""


def row_chunks(height: int, width: int) -> Iterator[slice]:
    """Yield slices of rows that cover a map from the top, about `BAND` pixels each."""
    step = max(1, BAND // max(1, width))
    return (slice(top, min(top + step, height)) for top in range(0, height, step))


def look_up(table: Tensor, places: Tensor) -> Tensor:
    """Return `table[places]` for a 1-D table and integer indices `[H, W]`."""
    found = torch.empty(places.shape, dtype=table.dtype)
    for rows in row_chunks(*places.shape):
        found[rows] = table[places[rows].long()]
    return found


@dataclass
class _ColorErrors:
    """Count of wrongly colored pixels, and the color most frequent in any one chunk."""

    pixels: int = 0
    most: int = 0
    color: int = 0

    def add(self, colors: Tensor, counts: Tensor) -> None:
        if len(colors):
            self.pixels += int(counts.sum())
            place = int(counts.argmax())
            if int(counts[place]) > self.most:
                self.most, self.color = int(counts[place]), int(colors[place])


@dataclass(frozen=True)
class Colored:
    """Result of color matching.

    Attributes:
        ids: `[H, W]` ids of the nearest known colors; strays that only form seams get a neighbor's id.
        share: fraction of wrong pixels: the strays if `spotted`, else all unsure pixels.
        color: a frequent color of these, 8-bit RGB.
        noisy: whether there are more colors than in a map without compression artifacts.
        spotted: whether strays form areas larger than seams.
    """

    ids: Tensor
    share: float
    color: tuple[int, int, int]
    noisy: bool
    spotted: bool


def match_colors(
    rgb: Tensor, known: Tensor, *, ids: Tensor, many: int, stray: float, unsure: float, seam: int
) -> Colored:
    """Match each pixel to the nearest known color (Euclidean distance in RGB).

    Args:
        rgb: `[3, H, W]` uint8.
        known: `[C, 3]` uint8 colors.
        ids: `[C]` ids of the colors.
        many: number of colors above which a map is noisy.
        stray: distance beyond which a pixel of a noisy map takes the class of its neighbors.
        unsure: distance beyond which the class of a pixel is uncertain.
        seam: side in pixels of the smallest square of strays that is larger than a seam.
    """
    size = (rgb.shape[1], rgb.shape[2])
    found, strays = torch.empty(size, dtype=ids.dtype), torch.empty(size, dtype=torch.bool)
    seen: set[int] = set()
    far, near = _ColorErrors(), _ColorErrors()
    for rows in row_chunks(*size):
        red, green, blue = rgb[:, rows].to(torch.int32)
        colors, inverse = torch.unique((red << 16) | (green << 8) | blue, return_inverse=True)
        counts = torch.bincount(inverse.flatten(), minlength=len(colors))
        nearest, apart = _nearest(colors, known.float())
        found[rows], strays[rows] = ids[nearest][inverse], (apart > stray)[inverse]
        far.add(colors[apart > stray], counts[apart > stray])
        near.add(colors[apart > unsure], counts[apart > unsure])
        if len(seen) <= many:
            seen.update(colors[: many + 1].tolist())
    noisy = len(seen) > many
    spotted = noisy and far.pixels > 0 and _has_square(strays, seam)
    wrong = far if spotted else near
    if noisy and far.pixels and not spotted:
        found = _fill(found, strays, seam)
    share, color = wrong.pixels / max(1, strays.numel()), wrong.color
    return Colored(found, share, (color >> 16, (color >> 8) & 255, color & 255), noisy, spotted)


def _nearest(colors: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Return index of and distance to the nearest known color `[C, 3]`, for each packed color."""
    unpacked = torch.stack([colors >> 16, (colors >> 8) & 255, colors & 255], dim=1).float()
    parts = [
        torch.cdist(part, known, compute_mode="donot_use_mm_for_euclid_dist").min(dim=1)
        for part in torch.split(unpacked, 8192)  # bounds memory when a photo is read as a label map
    ]
    return torch.cat([part.indices for part in parts]), torch.cat([part.values for part in parts])


def _has_square(mask: Tensor, side: int) -> bool:
    """Return whether a bool mask `[H, W]` contains a full square of `side` pixels."""
    if min(mask.shape) < side:
        return False
    for rows in row_chunks(*mask.shape):
        part = mask[rows.start : rows.stop + side - 1]
        if len(part) >= side and bool((F.max_pool2d(1.0 - part.float()[None, None], side, stride=1) == 0).any()):
            return True
    return False


def _fill(ids: Tensor, stray: Tensor, seam: int) -> Tensor:
    """Fill strays with the id of a neighbor that is not a stray, ring by ring from the outside (`[H, W]` each).

    No square of `seam` pixels is full of strays, so each has another pixel within that distance.
    """
    filled = ids.clone()
    height, width = ids.shape
    for rows in row_chunks(height, width) if min(height, width) >= seam else [slice(0, height)]:
        if bool(stray[rows].any()):
            top = max(0, rows.start - seam)
            around = slice(top, rows.stop + seam)
            filled[rows] = _fill_rings(ids[around], stray[around])[rows.start - top : rows.stop - top]
    return filled


def _fill_rings(ids: Tensor, stray: Tensor) -> Tensor:
    filled = torch.where(stray, -1.0, ids.float())[None, None]
    while bool((filled < 0).any()):
        filled = torch.where(filled < 0, F.max_pool2d(filled, 3, stride=1, padding=1), filled)
    return filled[0, 0].to(ids.dtype)


def generate_colors(count: int) -> list[Color]:
    """Generate distinct colors, deterministically.

    Greedy farthest-point selection on a grid of 1331 colors, starting from black.
    """
    level = torch.linspace(0, 255, 11).round()
    grid = torch.cartesian_prod(level, level, level)
    distance = torch.linalg.vector_norm(grid, dim=1)  # to black, the default color of unknown
    chosen: list[Color] = []
    for _ in range(count):
        best = grid[int(distance.argmax())]
        chosen.append((int(best[0]), int(best[1]), int(best[2])))
        distance = torch.minimum(distance, torch.linalg.vector_norm(grid - best, dim=1))
    return chosen
