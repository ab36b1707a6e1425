"""Label space of a fit: as given, the folder's own, or derived from what its label maps hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor

from lab2pix.data.image_file import open_image
from lab2pix.data.label_maps import decode_with
from lab2pix.errors import LabelError
from lab2pix.fit.dataset import Found
from lab2pix.labels.decoding import LabelDecoder, LabelMap, to_8_bits
from lab2pix.labels.space import Color, LabelSpace
from lab2pix.utils.files import output_errors, write_atomically

Kind = Literal["values", "wide values", "colors"]

CLASSES_FILE = "classes.yaml"
_MOST_COLORS, _MOST_VALUES = 200, 256
_UNKNOWN = 255
_AREA = 3
"""Side in pixels of the square that a class fills in some label map; blended colors along edges fill none."""
_FEW = 4
"""Colors that fill no such square, of which a set may have more only if most of its colors do."""
_ANY = LabelSpace.from_dict({"name": "any", "classes": [str(value) for value in range(64)]})


def find_label_space(given: str | None, found: Found, file: Path) -> tuple[LabelSpace, str]:
    """Return the label space and where it is: as given, the folder's `classes.yaml`, or derived from the label maps.

    Args:
        given: name or file; None: none is given.
        found: the data.
        file: file to write a derived label space to.

    Raises:
        LabelError: an invalid label space, or label maps from which none can be derived.
        DataError: a label map cannot be read.
        OutputError: the file cannot be written.
    """
    own = found.root / CLASSES_FILE
    if given is not None or own.is_file():
        source = given if given is not None else str(own)
        return LabelSpace.load(source), source
    space = derive_label_space(found.labels.values(), found.root)
    with output_errors(file, "choose another --out"):
        write_atomically(file, yaml.safe_dump(space.to_dict(), sort_keys=False))
    return space, str(file)


def derive_label_space(files: Iterable[Path], root: Path) -> LabelSpace:
    """Return a label space of the values or colors in label maps, with classes named `class 0`, `class 1`, ...

    A value of 255 above several ids is unknown, but the white of masks is a class; palettes give the colors.

    Raises:
        LabelError: the files have too many or blended values or colors, are compressed with loss, or differ in kind.
        DataError: a file cannot be read.
    """
    held = _Held(root)
    for path in files:
        held.add(path)
    return LabelSpace.from_dict({"name": root.resolve().name, **held.classes()})


class _RawDecoder(LabelDecoder):
    """Decoder of label maps whose classes are not known yet: ids are values, or colors as `red << 16 | ...`.

    Attributes:
        bright: values as the decoder of a file with less than 8 bits stretches them; None for other files.
    """

    def __init__(self, where: str, lossy: bool, advice: str) -> None:
        super().__init__(_ANY, where, lossy, torch.int64)
        self.bright: Tensor | None = None
        if lossy:
            raise LabelError(
                f"{where} is compressed with loss, which mixes up ids and colors; {advice}, or save label maps as PNG"
            )

    def gray(self, values: Tensor) -> LabelMap:
        return LabelMap(values.long(), "ids", {})

    def bits(self, values: Tensor) -> LabelMap:
        return self.stretched(values * 255, values, 1)

    def stretched(self, values: Tensor, stored: Tensor, white: int) -> LabelMap:
        self.bright = values
        return self.gray(stored)

    def color(self, rgb: Tensor) -> LabelMap:
        if bool(rgb[0].any()) and not bool(rgb[1:].any()):
            self._refuse_red_ids(rgb[0])
        red, green, blue = rgb.long()
        return LabelMap(red << 16 | green << 8 | blue, "colors", {})

    def palette(self, indices: Tensor, entries: Sequence[Color]) -> LabelMap:
        used = torch.unique(indices).tolist()
        colors = {index: entries[index] for index in used if index < len(entries)}
        ramp = all(color == (index,) * 3 for index, color in colors.items())
        if ramp or len(colors) < len(used) or (len(entries) > 1 and len(set(entries)) == 1):
            return self.gray(indices)
        return LabelMap(indices.long(), "palette indices", colors)


class _Held:
    """What the label maps of a folder hold, by how it is stored: with a file for each value or color."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.advice = f"list the classes with their colors in {root / CLASSES_FILE}"
        self.codes: dict[Kind, dict[int, Path]] = {"values": {}, "wide values": {}, "colors": {}}
        self.solid: dict[Kind, set[int]] = {kind: set() for kind in self.codes}
        self.low: set[tuple[frozenset[int], frozenset[int]]] = set()
        self.palette: dict[int, set[Color]] = {}

    def add(self, path: Path) -> None:
        """Read a label map."""
        file = open_image(path)
        decoder = _RawDecoder(str(path), file.lossy, self.advice)
        label = decode_with(decoder, file)
        used = torch.unique(label.ids).tolist()
        if label.palette:
            for index, color in label.palette.items():
                self.palette.setdefault(index, set()).add(color)
        elif decoder.bright is not None:
            self.low.add((frozenset(used), frozenset(torch.unique(decoder.bright).tolist())))
        else:
            kind: Kind = "colors" if label.reading == "colors" else "values" if used[-1] <= 255 else "wide values"
            for code in used:
                self.codes[kind].setdefault(code, path)
            self.solid[kind] |= _solid(label.ids)
            if len(self.codes[kind]) > (_MOST_COLORS if kind == "colors" else _MOST_VALUES):
                raise self._too_many(path)

    def classes(self) -> dict[str, Any]:
        """Return classes and the value of unknown, for `LabelSpace.from_dict`."""
        for kind, codes in self.codes.items():
            thin = [code for code in codes if code not in self.solid[kind]]
            if len(thin) > max(_FEW, len(self.solid[kind])):
                raise self._too_many(codes[thin[0]])
        values, colors = self._values(), set(self.codes["colors"])
        if all(code == (code & 255) * 0x010101 for code in colors):
            values, colors = values | {code & 255 for code in colors}, set()
        if colors or any(len(found) > 1 for found in self.palette.values()):
            colors |= {red << 16 | green << 8 | blue for found in self.palette.values() for red, green, blue in found}
            if any(0 < value < len(colors) or value > 255 for value in values):
                raise LabelError(f"some label maps of {self.root} hold ids and some hold colors; {self.advice}")
            colors |= {value * 0x010101 for value in values}
            listed = [[code >> 16, code >> 8 & 255, code & 255] for code in sorted(colors)]
            return {"classes": [{"name": f"class {index}", "color": color} for index, color in enumerate(listed)]}
        values |= self.palette.keys()
        unknown = _UNKNOWN if _UNKNOWN in values and not _is_mask(values) else -1 if -1 in values else None
        entries: list[dict[str, Any]] = []
        for value in sorted(values - {unknown, -1}):
            given = [list(color) for color in self.palette.get(value, ())]
            entries.append({"name": f"class {value}", "value": value, "color": given[0] if given else None})
        return {"classes": entries, "unknown_value": unknown}

    def _values(self) -> set[int]:
        """Return the values of gray files, where those of other depths are stretched as decoders do if others are."""
        values, wide = set(self.codes["values"]), sorted(self.codes["wide values"])
        smaller = to_8_bits(torch.tensor(wide)) if wide else None
        values |= set(wide if smaller is None else smaller.tolist())
        for stored, bright in self.low:
            values |= bright if bright <= values and not stored <= values else stored
        return values

    def _too_many(self, path: Path) -> LabelError:
        return LabelError(
            f"the label maps of {self.root} have more values or colors than classes can have, or blended ones along "
            f"edges, such as in {path}; {self.advice}"
        )


def _is_mask(values: set[int]) -> bool:
    """Return whether values are even steps from black to white, such as 0, 128, 255, rather than ids and unknown."""
    if len(values) < 3:
        return True
    step = 255 / (len(values) - 1)
    return max(values) == 255 and all(abs(value - index * step) < 2 for index, value in enumerate(sorted(values)))


def _solid(codes: Tensor) -> set[int]:
    """Return the codes of a map `[H, W]` that fill a square of `_AREA` pixels, or of the map's shorter side."""
    side = min(_AREA, *codes.shape)
    height, width = (length - side + 1 for length in codes.shape)
    corner = codes[:height, :width]
    filled = torch.ones_like(corner, dtype=torch.bool)
    for top in range(side):
        for left in range(side):
            filled &= codes[top : top + height, left : left + width] == corner
    return set(torch.unique(corner[filled]).tolist())
