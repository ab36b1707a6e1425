"""Meaning of the pixels of a label map: the one place where file values and colors become class ids.

The same rules hold for every file of a set. They depend on the label space and on what a file is (gray, palette or
color), and a file that fits two readings is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lab2pix.errors import LabelError
from lab2pix.labels.colors import look_up
from lab2pix.labels.space import COLOR_TOLERANCE, Color, LabelClass, LabelSpace

Reading = Literal["ids", "colors", "palette indices", "palette colors", "lines"]
"""How a label map was read."""

_LOSSY_IDS = "{} is gray and compressed with loss, which does not keep ids exact; save label maps as PNG"
_NEAR = COLOR_TOLERANCE / 4
"""Largest distance of a palette entry to the color of its class, as for pixels of a map with few colors."""
_SCALE = 257
"""Factor from 8 to 16 bits: 255 becomes 65535."""
_SMALL = 4096
"""Largest color value of 16 bits below which a map holds numbers rather than colors."""


@dataclass(frozen=True)
class LabelMap:
    """Decoded label map.

    Attributes:
        ids: `[H, W]` canonical ids.
        reading: how the file was read.
        palette: colors of the palette entries in use, by index; empty without a palette.
    """

    ids: Tensor
    reading: Reading
    palette: dict[int, Color]


class LabelDecoder:
    """Decoder of one label map.

    Args:
        space: its classes.
        where: name of the map in errors.
        lossy: whether the compression of the file changes pixels.
        dtype: dtype of the ids.
    """

    def __init__(self, space: LabelSpace, where: str, lossy: bool, dtype: torch.dtype) -> None:
        self.space, self.where, self.lossy, self.dtype = space, where, lossy, dtype
        self.levels = {color[0]: index for color, index in space.file_colors.items() if len(set(color)) == 1}
        self.all_gray = len({item.color for item in space.classes if self._is_gray(item)}) == space.num_classes

    def gray(self, values: Tensor) -> LabelMap:
        """Decode gray values `[H, W]`: ids, or gray class colors."""
        if values.dtype != torch.uint8 and int(values.min()) >= 0 and int(values.max()) <= 255:
            values = values.to(torch.uint8)
        if self.lossy:
            if not self.all_gray or values.dtype != torch.uint8:
                raise LabelError(_LOSSY_IDS.format(self.where))
            return self.color(values.expand(3, -1, -1))
        if self.all_gray and values.dtype == torch.uint8:
            self._refuse_two_readings(_used(values), self.levels)
        try:
            return LabelMap(self.space.decode_ids(values, self.where, dtype=self.dtype), "ids", {})
        except LabelError as error:
            smaller = to_8_bits(values)
            if smaller is not None and set(_used(smaller)) <= self.levels.keys():
                return self._from_table(smaller, self.levels, "colors")
            if smaller is None or smaller is values:
                raise
            with suppress(LabelError):
                return self.gray(smaller)
            raise error

    def bits(self, values: Tensor) -> LabelMap:
        """Decode 1 bit per pixel, `[H, W]` uint8: 0 and 1, or black and white."""
        if 1 not in self.space.file_values:
            return self.gray(values * 255)
        if self.levels.keys() >= {0, 255}:
            self._refuse_two_readings(_used(values), {0: self.levels[0], 1: self.levels[255]})
        return LabelMap(self.space.decode_ids(values, self.where, dtype=self.dtype), "ids", {})

    def stretched(self, values: Tensor, stored: Tensor, white: int) -> LabelMap:
        """Decode gray of a file whose `stored` values 0 to `white`, `[H, W]`, became 0 to 255 or 65535 as `values`."""
        used = torch.unique(stored).tolist()
        if not set(used) <= self.space.file_values.keys():
            return self.gray(values)
        levels = {value: round(value * 255 / white) for value in used}
        by_color = {value: self.levels[level] for value, level in levels.items() if level in self.levels}
        self._refuse_two_readings(used, by_color)
        return LabelMap(self.space.decode_ids(stored, self.where, dtype=self.dtype), "ids", {})

    def color(self, rgb: Tensor) -> LabelMap:
        """Decode `[3, H, W]` uint8: colors, or ids if all pixels are gray."""
        if bool((rgb[0] == rgb[1]).all()) and bool((rgb[0] == rgb[2]).all()):
            grays = _used(rgb[0])
            ids = max(2, self.space.file_offset + self.space.num_classes - 1)
            if self.lossy and (not self.levels or (len(grays) > 1 and grays[-1] <= ids)):
                raise LabelError(_LOSSY_IDS.format(self.where))
            if not self.lossy and not set(grays) <= self.levels.keys():
                return self._gray_or_near(rgb)
            if not self.lossy and self._black_by_default() and set(grays) <= self.space.file_values.keys():
                if self._gives_values():
                    return self.gray(rgb[0])
                self._refuse_two_readings(grays, self.levels)
        elif not bool(rgb[1:].any()):
            self._refuse_red_ids(rgb[0])
        return LabelMap(self.space.decode_colors(rgb, self.where, dtype=self.dtype), "colors", {})

    def _black_by_default(self) -> bool:
        """Return whether black means unknown only because the label space gives no color of it."""
        return self.space.unknown_color is None and self.levels.get(0) == self.space.num_classes

    def _gray_or_near(self, rgb: Tensor) -> LabelMap:
        """Decode ids stored as gray colors, or colors that are nearly those of gray classes."""
        try:
            return self.gray(rgb[0])
        except LabelError:
            with suppress(LabelError):
                return LabelMap(self.space.decode_colors(rgb, self.where, dtype=self.dtype), "colors", {})
            raise

    def _refuse_red_ids(self, red: Tensor) -> None:
        """Refuse ids in the red channel alone, which would all be near to black."""
        used = _used(red)
        known = {(value, 0, 0) for value in used} <= self.space.file_colors.keys()
        if not (self.lossy or known) and used[-1] <= min(max(self.space.class_values), 63):
            raise LabelError(
                f"{self.where} holds values up to {used[-1]} in its red channel alone, as simulators store ids; save "
                "that channel as gray PNG"
            )

    def wide(self, pixels: NDArray[np.uint16]) -> LabelMap:
        """Decode `[H, W, C]` of 16 bits per channel; an alpha channel is dropped."""
        first = pixels[..., 0]
        if pixels.shape[2] < 3 or bool((pixels[..., :3] == first[..., None]).all()):
            values = torch.from_numpy(first.astype(np.int32))
            smaller = to_8_bits(values)
            if pixels.shape[2] >= 3 and smaller is not None and set(_used(smaller)) <= self.levels.keys():
                return self.color(smaller.expand(3, -1, -1))
            return self.gray(values)
        colors = pixels[..., :3]
        most = int(colors.max())
        scales = (scale for scale in (1, _SCALE, 256) if most // scale <= 255 and not (colors % scale).any())
        scale = next(scales, None)
        if scale is None and most < _SMALL:
            raise LabelError(
                f"{self.where} holds values up to {most} with 16 bits per color, which are neither ids nor colors; "
                "save ids as gray PNG with 8 or 16 bits"
            )
        reduced = (colors // (scale or _SCALE)).astype(np.uint8)
        return self.color(torch.from_numpy(reduced).permute(2, 0, 1))

    def palette(self, indices: Tensor, entries: Sequence[Color]) -> LabelMap:
        """Decode palette indices `[H, W]` uint8, by the indices or by the colors of the palette."""
        used = _used(indices)
        colors = {index: entries[index] for index in used if index < len(entries)}
        end = max((index for index, entry in enumerate(entries) if any(entry)), default=0)  # GIF fills up with black
        ramp = end > 0 and all(entry == (index,) * 3 for index, entry in enumerate(entries[: end + 1]))
        if ramp:
            return self.gray(indices)
        empty = len(colors) < len(used) or (len(entries) > 1 and len(set(entries)) == 1)
        if empty or self._agrees(colors):
            return self._from_indices(indices, colors)
        table = {index: self._nearest(color) for index, color in colors.items()}
        known = {index: found for index, found in table.items() if found is not None}
        if len(known) == len(colors):
            if entries == [(0, 0, 0)] and 0 in self.space.file_values:
                raise LabelError(self._two_readings(0, self.space.file_values[0], known[0]))
            return self._from_table(indices, known, "palette colors", colors)
        if self._gives_values() and all(len(set(entry)) == 1 for entry in entries):
            return self.gray(
                look_up(_table({index: color[0] for index, color in colors.items()}, torch.uint8), indices)
            )
        if not self.space.file_colors:
            return self._from_indices(indices, colors)
        index = next(index for index in colors if index not in known)
        raise LabelError(
            f"{self.where} has a palette whose color {colors[index]}, of index {index}, belongs to no class of label "
            f"space '{self.space.name}'; correct the colors there, or leave all of them out to read the indices"
        )

    def _from_indices(self, indices: Tensor, colors: dict[int, Color]) -> LabelMap:
        ids = self.space.decode_ids(indices, self.where, dtype=self.dtype)
        return LabelMap(ids, "palette indices", colors)

    def _from_table(
        self, values: Tensor, table: dict[int, int], reading: Reading, palette: dict[int, Color] | None = None
    ) -> LabelMap:
        return LabelMap(look_up(_table(table, self.dtype), values), reading, palette or {})

    def _agrees(self, colors: dict[int, Color]) -> bool:
        """Return whether each palette index is a file value whose color is near its class's, or is no other class's."""
        if self._gives_values() and not self.space.file_colors:
            return False
        for index, color in colors.items():
            found = self.space.file_values.get(index)
            if found is None:
                return False
            own = self._given_color(found)
            named = found < self.space.num_classes
            if own is None and named and self.space.file_colors.get(color, found) != found:
                return False
            if own is not None and (_distance(own, color) > _NEAR or _distance(own, color) > self._least(color)):
                return False
        return True

    @staticmethod
    def _is_gray(item: LabelClass) -> bool:
        return not item.generated and len(set(item.color)) == 1

    def _gives_values(self) -> bool:
        return any(item.value is not None for item in self.space.classes)

    def _given_color(self, index: int) -> Color | None:
        if index == self.space.num_classes:
            return self.space.unknown_color
        item = self.space.classes[index]
        return None if item.generated else item.color

    def _least(self, color: Color) -> float:
        return min(_distance(known, color) for known in self.space.file_colors)

    def _nearest(self, color: Color) -> int | None:
        """Return the class of the nearest given color; None if none is near."""
        known = self.space.file_colors
        nearest = min(known, key=lambda other: _distance(other, color), default=None)
        return None if nearest is None or _distance(nearest, color) > _NEAR else known[nearest]

    def _refuse_two_readings(self, used: list[int], by_color: Mapping[int, int]) -> None:
        """Refuse gray values that are ids of some classes and exactly the gray colors of others."""
        by_value = self.space.file_values
        if set(used) <= by_color.keys() & by_value.keys():
            for value in used:
                if by_color[value] != by_value[value]:
                    raise LabelError(self._two_readings(value, by_value[value], by_color[value]))

    def _two_readings(self, value: int, by_value: int, by_color: int) -> str:
        names = [*self.space.names, "unknown"]
        return (
            f"{self.where} holds the value {value}, which is both the id of '{names[by_value]}' and the color of "
            f"'{names[by_color]}' in label space '{self.space.name}'; give its classes the `value` that files hold, or "
            + ("unknown an `unknown_color`" if by_color == self.space.num_classes else "save the map in color")
        )


def _distance(one: Color, other: Color) -> float:
    return float(sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5)


def _table(values: dict[int, int], dtype: torch.dtype) -> Tensor:
    table = torch.zeros(256, dtype=dtype)
    table[list(values)] = torch.tensor(list(values.values()), dtype=dtype)
    return table


def to_8_bits(values: Tensor) -> Tensor | None:
    """Return integers as uint8 if they are at most 255, or all multiples of 257 or of 256; else None."""
    if values.dtype == torch.uint8:
        return values
    if int(values.min()) < 0 or int(values.max()) > 65535:
        return None
    for scale in (1, _SCALE, 256):
        smaller = values // scale
        if int(smaller.max()) <= 255 and bool((smaller * scale == values).all()):
            return smaller.to(torch.uint8)
    return None


def _used(values: Tensor) -> list[int]:
    """Return the sorted distinct values of a uint8 map."""
    return torch.bincount(values.flatten(), minlength=1).nonzero()[:, 0].tolist()
