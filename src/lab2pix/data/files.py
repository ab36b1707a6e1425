"""Readers of photos, label maps and instance maps, and a writer of label maps."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from lab2pix.data.line_drawings import SKETCH, Lines, find_lines
from lab2pix.errors import DataError, LabelError
from lab2pix.labels.colors import look_up, row_chunks
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.text import reason_of

__all__ = [
    "ARRAY_SUFFIX",
    "IMAGE_SUFFIXES",
    "find_images",
    "is_lossy",
    "list_images",
    "list_inputs",
    "open_image",
    "path_prefix",
    "read_image",
    "read_instances",
    "read_label",
    "read_label_image",
    "to_label",
    "to_rgb",
    "write_label_png",
]

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
"""File name suffixes of images, in lower case."""

ARRAY_SUFFIX = ".npy"
"""Suffix of NumPy arrays, for source images that image formats do not support."""

_LOSSY_IDS = "{} is gray and compressed with loss, which does not keep ids exact; save label maps as PNG"

_ID_MODES = frozenset({"1", "L", "I", "I;16", "I;16L", "I;16B"})
"""Pillow modes with one integer per pixel."""


def find_images(folder: Path) -> Iterator[Path]:
    """Yield the images in a folder and its sub-folders by suffix, sorted per folder, without hidden ones.

    No file is opened.
    """
    return (folder / f"{stem}{suffix}" for stem, suffix in list_images(folder))


def list_inputs(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield images as `list_images` does, or the NumPy arrays of a folder without images."""
    images = list_images(folder)
    first = next(images, None)
    return list_images(folder, frozenset({ARRAY_SUFFIX})) if first is None else chain([first], images)


def list_images(folder: Path, suffixes: frozenset[str] = IMAGE_SUFFIXES) -> Iterator[tuple[str, str]]:
    """Yield relative path without suffix (separated by slashes), and suffix, of each image in a folder.

    Same files as `find_images`, several times faster.
    """
    top = str(folder)
    for parent, folders, names in os.walk(top):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inner = parent[len(top) :].replace(os.sep, "/").strip("/")
        below = f"{inner}/" if inner else ""
        for name in sorted(names):
            stem, dot, suffix = name.rpartition(".")
            if dot and f".{suffix.lower()}" in suffixes and not name.startswith("."):
                yield below + stem, f".{suffix}"


def path_prefix(folder: Path) -> str:
    """Return the path prefix of the files in a folder."""
    text = str(folder)
    return "" if text == "." else text if text.endswith(os.sep) else text + os.sep


def read_image(path: Path) -> Tensor:
    """Read a photo: palette, gray, RGB, RGBA (alpha is dropped) or CMYK, 8 or 16 bit; EXIF orientation is applied.

    Returns:
        `[3, H, W]` uint8 RGB.

    Raises:
        DataError: the file is missing, truncated or not an image, or its value range is unknown (float, 32-bit).
    """
    image, kind = open_image(path)
    if image.mode == "F" or (image.mode == "I" and kind != "PNG"):
        what = "fractions" if image.mode == "F" else "whole numbers of 32 bits"
        raise DataError(f"{path} holds {what}, which do not say how bright white is; save photos with 8 or 16 bits")
    return to_rgb(image)


def read_label(path: Path, label_space: LabelSpace, lines: Lines = "auto") -> Tensor:
    """Read a label map in any of the encodings of `to_label`.

    `lines` says which pixels of a line drawing are lines.

    Returns:
        `[H, W]` int64 canonical ids.

    Raises:
        DataError: the file is missing, truncated or not an image.
        LabelError: it has ids or colors outside the label space.
    """
    image, lossy = read_label_image(path)
    return to_label(image, label_space, str(path), lossy=lossy, lines=lines)


def read_label_image(path: Path) -> tuple[Image.Image, bool]:
    """Open a label map (EXIF orientation is applied), and return it and whether its compression is lossy.

    Raises:
        DataError: the file is missing, truncated or not an image.
    """
    image, kind = open_image(path)
    with path.open("rb") as file:
        return image, is_lossy(image, kind, file)


def is_lossy(image: Image.Image, kind: str | None, file: BinaryIO) -> bool:
    """Return whether the compression of an image file is lossy: JPEG, JPEG in TIFF, or lossy WebP.

    `kind` is Pillow's name of the file format; `file` is read from its start.
    """
    if kind == "WEBP":
        return _is_lossy_webp(file)
    return kind == "JPEG" or image.info.get("compression") in ("jpeg", "tiff_jpeg")


def to_label(
    image: Image.Image,
    label_space: LabelSpace,
    where: str,
    *,
    lossy: bool = False,
    lines: Lines = "auto",
    dtype: torch.dtype = torch.int64,
) -> Tensor:
    """Decode an opened label map to canonical ids.

    - Gray (8 or 16 bit): file values of the label space.
    - Palette: the indices are file values, unless all palette colors in use are class colors at other indices, as
      drawing programs reorder palettes; then the colors decide.
    - RGB and RGBA (alpha is dropped): colors. If every pixel is gray and not all grays are class colors, they are file
      values.

    With label space `sketch`, images of all these modes are line drawings: see `line_drawings.find_lines`. Transparent
    pixels become white, or black if `lines` is `light`.

    Args:
        image: the label map.
        label_space: its classes.
        where: name of the map in errors, usually the file.
        lossy: whether the compression of the file is lossy, so that ids are not exact.
        lines: which pixels of a line drawing are lines.
        dtype: dtype of the ids; must hold all of them. uint8 takes an eighth of the memory.

    Returns:
        `[H, W]` ids.

    Raises:
        LabelError: there are ids or colors outside the label space, or ids in a lossy file.
    """
    if label_space.name == SKETCH and image.mode != "F":
        return find_lines(to_rgb(_on_paper(image, lines)), lines, where, dtype=dtype)
    if image.mode == "P":
        return _from_palette(image, label_space, where, dtype)
    if image.mode == "LA":
        image = image.getchannel(0)
    if image.mode in _ID_MODES:
        if lossy:
            raise LabelError(_LOSSY_IDS.format(where))
        return label_space.decode_ids(_to_values(image), where, dtype=dtype)
    if image.mode == "F":
        raise LabelError(f"{where} holds fractions instead of ids; save label maps as PNG with 8 or 16 bits")
    rgb = to_rgb(image)
    if bool((rgb[0] == rgb[1]).all()) and bool((rgb[0] == rgb[2]).all()):
        grays = _used(rgb[0])
        if lossy and len(grays) > 1 and grays[-1] < label_space.file_offset + label_space.num_classes:
            raise LabelError(_LOSSY_IDS.format(where))
        if not lossy and not {(gray, gray, gray) for gray in grays} <= set(map(tuple, label_space.palette.tolist())):
            return label_space.decode_ids(rgb[0], where, dtype=dtype)
    return label_space.decode_colors(rgb, where, dtype=dtype)


def read_instances(path: Path) -> Tensor:
    """Read an instance map: 8 or 16 bit gray, palette indices, or one color per instance.

    Returns:
        `[H, W]` int64 instance ids.

    Raises:
        DataError: the file is missing, truncated or not an image.
    """
    image, _ = open_image(path)
    if image.mode == "LA":
        image = image.getchannel(0)
    if image.mode == "P" or image.mode in _ID_MODES:
        return _to_integers(image)
    rgb = to_rgb(image).to(torch.int64)
    return rgb[0] * 65536 + rgb[1] * 256 + rgb[2]


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
    table[places[places < 256]] = label_space.palette.numpy()[places < 256]
    height, width = values.shape
    image = Image.frombytes("P", (width, height), values.astype(np.uint8).tobytes())
    image.putpalette(table.tobytes())
    image.save(path, format="PNG")


def open_image(path: Path) -> tuple[Image.Image, str | None]:
    """Load an image with Pillow, apply its EXIF orientation, and return it with Pillow's name of the file format.

    Raises:
        DataError: the file is missing, truncated or not an image.
    """
    try:
        with Image.open(path) as image:
            image.load()
            kind = image.format
            ImageOps.exif_transpose(image, in_place=True)
            return image, kind
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; put it back, or remove its partner") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is no picture, or a damaged one; replace or remove it") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read ({reason_of(error)}); replace or remove it") from error


def _is_lossy_webp(file: BinaryIO) -> bool:
    """Return whether a WebP file is lossy: whether its first image chunk is `VP8 ` rather than `VP8L`."""
    file.seek(12)
    while len(head := file.read(8)) == 8:
        if head[:4] in (b"VP8 ", b"VP8L"):
            return head[:4] == b"VP8 "
        size = int.from_bytes(head[4:], "little")
        # An animation frame has a header of 16 bytes before its chunks.
        file.seek(16 if head[:4] == b"ANMF" else size + size % 2, os.SEEK_CUR)
    return False


def _to_integers(image: Image.Image) -> Tensor:
    """Return the values of a single-channel image: `[H, W]` int64."""
    return torch.from_numpy(np.asarray(image).astype(np.int64))


def _to_values(image: Image.Image) -> Tensor:
    """Return the values of a single-channel image, `[H, W]` uint8 or int32."""
    values = np.array(image)
    return torch.from_numpy(values.astype(np.uint8 if values.dtype.itemsize == 1 else np.int32, copy=False))


def _used(values: Tensor) -> list[int]:
    """Return the sorted distinct values of a uint8 map."""
    return torch.bincount(values.flatten()).nonzero()[:, 0].tolist()


def _on_paper(drawing: Image.Image, lines: Lines) -> Image.Image:
    """Composite a drawing with transparency onto a background that contrasts with its lines."""
    if not drawing.has_transparency_data:
        return drawing
    drawing = drawing.convert("RGBA")
    paper = Image.new("RGBA", drawing.size, "black" if lines == "light" else "white")
    return Image.alpha_composite(paper, drawing)


def to_rgb(image: Image.Image) -> Tensor:
    """Convert an image to `[3, H, W]` uint8 RGB; of 16 bits the upper 8 are kept."""
    if image.mode.startswith("I"):
        upper = torch.from_numpy((np.asarray(image) // 256).clip(0, 255).astype(np.uint8))
        return upper.expand(3, -1, -1).contiguous()
    width, height = image.size
    pixels = torch.empty((3, height, width), dtype=torch.uint8)
    for rows in row_chunks(height, width):
        band = image.crop((0, rows.start, width, rows.stop)).convert("RGB")
        pixels[:, rows] = torch.from_numpy(np.array(band)).permute(2, 0, 1)
    return pixels


def _from_palette(image: Image.Image, label_space: LabelSpace, where: str, dtype: torch.dtype) -> Tensor:
    """Decode a palette image to canonical ids, by index or by color (see `to_label`)."""
    indices = _to_values(image)
    entries = image.getpalette("RGB") or []
    used = _used(indices)
    colors = [tuple(entries[index * 3 : index * 3 + 3]) for index in used]
    palette = [tuple(color) for color in label_space.palette.tolist()]
    values = label_space.encode_values(torch.arange(label_space.num_channels)).tolist()
    as_written = dict(zip(values, palette, strict=True))
    # A single gray entry carries no information: an empty or default palette (a gray ramp) has it, too.
    telling = len(set(colors)) == len(colors) and (len(colors) > 1 or len(set(colors[0])) > 1)
    if telling and set(colors) <= set(palette) and colors != [as_written.get(index) for index in used]:
        table = torch.zeros(256, dtype=dtype)
        table[used] = torch.tensor([palette.index(color) for color in colors], dtype=dtype)
        return look_up(table, indices)
    return label_space.decode_ids(indices, where, dtype=dtype)
