"""Readers of label maps and instance maps from image files, and the writer of label maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lab2pix.data.image_file import ImageFile, flatten, open_image, to_rgb
from lab2pix.data.line_drawings import SKETCH, Lines, find_lines
from lab2pix.errors import DataError, LabelError
from lab2pix.labels.decoding import LabelDecoder, LabelMap, to_8_bits
from lab2pix.labels.space import LabelSpace

ID_MODES = frozenset({"1", "L", "I", "I;16", "I;16L", "I;16B", "I;16N"})
"""Pillow modes with one integer per pixel."""

_ROUNDED = "colors of 0 to {}, which are rounded to 8 bits when they are read; save it as PNG"


def read_label(path: Path, label_space: LabelSpace, lines: Lines = "auto") -> Tensor:
    """Read a label map by the rules of `decode_label`: `[H, W]` int64 canonical ids.

    Args:
        path: path of the file.
        label_space: its classes.
        lines: which pixels of a line drawing are lines.

    Raises:
        DataError: the file is missing, truncated or not an image, or has several pages.
        LabelError: it has ids or colors outside the label space.
    """
    return decode_label(open_image(path), label_space, str(path), lines=lines).ids


def decode_label(
    file: ImageFile,
    label_space: LabelSpace,
    where: str,
    *,
    lines: Lines = "auto",
    dtype: torch.dtype = torch.int64,
) -> LabelMap:
    """Decode an opened label map to canonical ids.

    - Gray (1 to 32 bits): file values of the label space. Values that are none are read as gray class colors if all
      are exactly such. 1 bit is 0 and 1, or 0 and 255 for a label space without the value 1.
    - Palette: the indices are file values if the palette does not contradict, that is, each index in use has about the
      color of its class. Otherwise the palette's colors decide if all are about class colors, as drawing programs
      reorder palettes. A palette in other colors is an error, unless the label space gives no colors.
    - Color (alpha is dropped): colors. If every pixel is gray and not all grays are class colors, file values.
    - 16 bits per channel: file values or, where all are multiples of 257 or 256, the same with 8 bits.

    Only colors that the label space gives count, never generated ones.

    With label space `sketch`, images of all these modes are line drawings: see `line_drawings.find_lines`. Transparent
    pixels become white, or black if `lines` is `light`.

    Args:
        file: the label map.
        label_space: its classes.
        where: name of the map in errors, usually the file.
        lines: which pixels of a line drawing are lines.
        dtype: dtype of the ids; must hold all of them. uint8 takes an eighth of the memory.

    Raises:
        LabelError: there are ids or colors outside the label space, ids in a lossy file, or two possible readings.
    """
    if label_space.name == SKETCH and file.image.mode != "F":
        return LabelMap(find_lines(read_tones(file, lines), lines, where, dtype=dtype), "lines", {})
    return decode_with(LabelDecoder(label_space, where, file.lossy, dtype), file)


def decode_with(decoder: LabelDecoder, file: ImageFile) -> LabelMap:
    """Decode an opened label map by the method of a decoder for its kind of file; see `decode_label`."""
    image, where = file.image, decoder.where
    if image.mode == "F":
        raise LabelError(f"{where} holds fractions instead of ids; save label maps as PNG with 8 or 16 bits")
    if file.white_is_zero and file.bits > 1:
        raise LabelError(f"{where} stores white as 0, so its values may be inverted ids; save label maps as PNG")
    if file.white is not None:
        if image.mode not in ID_MODES:
            raise LabelError(f"{where} has {_ROUNDED.format(file.white)}")
        return decoder.stretched(to_values(image), torch.from_numpy(file.stored().astype(np.int32)), file.white)
    if image.mode in ("P", "PA"):
        flat = image.getpalette("RGB") or []
        return decoder.palette(to_values(image), list(zip(flat[0::3], flat[1::3], flat[2::3], strict=True)))
    if image.mode in ID_MODES or image.mode in ("LA", "La"):
        return (decoder.bits if image.mode == "1" else decoder.gray)(to_values(image))
    if file.wide is not None:
        return decoder.wide(file.wide)
    return decoder.color(to_rgb(image))


def read_tones(file: ImageFile, lines: Lines) -> Tensor:
    """Return the tones of a line drawing, `[3, H, W]` uint8; transparent pixels contrast with the lines."""
    smaller: Tensor | None = None
    if file.image.mode in ID_MODES and file.bits > 8:
        smaller = to_8_bits(to_values(file.image)[None].expand(3, -1, -1))
    elif file.wide is not None and file.image.mode == "RGB":
        smaller = to_8_bits(torch.from_numpy(file.wide.astype(np.int32)).permute(2, 0, 1))
    return (
        to_rgb(flatten(file.image, "black" if lines == "light" else "white"), file.bits) if smaller is None else smaller
    )


def to_values(image: Image.Image) -> Tensor:
    """Return the gray values or palette indices of an image, `[H, W]` uint8 or int32; alpha is dropped."""
    values = np.array(image)
    values = values[..., 0] if values.ndim == 3 else values
    return torch.from_numpy(values.astype(np.uint8 if values.dtype.itemsize == 1 else np.int32, copy=False))


def read_instances(path: Path) -> Tensor:
    """Read an instance map: gray with up to 32 bits, palette indices, or one color of 8 or 16 bits per instance.

    Returns:
        `[H, W]` int64 instance ids.

    Raises:
        DataError: the file is missing, truncated or not an image, has several pages, or does not hold exact numbers.
    """
    return decode_instances(open_image(path), path)


def decode_instances(file: ImageFile, path: Path) -> Tensor:
    """Decode an opened instance map; see `read_instances`."""
    mode = file.image.mode
    if file.white is not None and mode not in ID_MODES:
        raise DataError(f"{path} has {_ROUNDED.format(file.white)}")
    if file.lossy:
        raise DataError(f"{path} is compressed with loss, which does not keep instances exact; save it as PNG")
    if mode == "F":
        values: Any = np.asarray(file.image)
        if not np.array_equal(values, np.round(values)):
            raise DataError(f"{path} holds fractions instead of instance ids; save it as PNG with 16 bits")
        return torch.from_numpy(values.astype(np.int64))
    if mode in ID_MODES or mode in ("P", "PA", "LA", "La"):
        return to_values(file.image).to(torch.int64)
    pixels = np.asarray(to_rgb(file.image).permute(1, 2, 0)) if file.wide is None else file.wide
    bits = 8 if file.wide is None else 16
    colors = torch.from_numpy(pixels[..., : 3 if pixels.shape[2] >= 3 else 1].astype(np.int64))
    number = torch.zeros(colors.shape[:2], dtype=torch.int64)
    for channel in colors.unbind(-1):
        number = (number << bits) | channel
    return number


def write_label_png(path: Path | BinaryIO, ids: Tensor, label_space: LabelSpace) -> None:
    """Write canonical ids `[H, W]` as a palette PNG in the class colors (16-bit gray if file values exceed 255).

    An existing file is replaced.
    """
    values = label_space.encode_values(ids).cpu().numpy()
    if values.max(initial=0) > 255:
        Image.fromarray(values.astype(np.uint16)).save(path, format="PNG")
        return
    table = np.zeros((256, 3), dtype=np.uint8)
    places = label_space.encode_values(torch.arange(label_space.num_channels)).numpy()
    fits = (places >= 0) & (places < 256)
    table[places[fits]] = label_space.palette.numpy()[fits]
    height, width = values.shape
    image = Image.frombytes("P", (width, height), values.astype(np.uint8).tobytes())
    image.putpalette(table.tobytes())
    image.save(path, format="PNG")
