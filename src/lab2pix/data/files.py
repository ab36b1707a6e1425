"""Reads photos, label maps and instance maps of every kind that people keep, and writes label maps."""

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
"""What counts as a picture, in lower case."""

ARRAY_SUFFIX = ".npy"
"""Arrays of NumPy, for images to generate from that image files cannot hold."""

_LOSSY_IDS = "{} is gray and compressed with loss, which does not keep ids exact; save label maps as PNG"

_ID_MODES = frozenset({"1", "L", "I", "I;16", "I;16L", "I;16B"})
"""Pillow's names for one whole number per pixel."""


def find_images(folder: Path) -> Iterator[Path]:
    """Yield the pictures in a folder and all its sub-folders, sorted within each; hidden ones are left out.

    Names alone decide, no file is opened or asked for its size.
    """
    return (folder / f"{stem}{suffix}" for stem, suffix in list_images(folder))


def list_inputs(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield what `list_images` does, or in a folder without images its arrays of NumPy."""
    images = list_images(folder)
    first = next(images, None)
    return list_images(folder, frozenset({ARRAY_SUFFIX})) if first is None else chain([first], images)


def list_images(folder: Path, suffixes: frozenset[str] = IMAGE_SUFFIXES) -> Iterator[tuple[str, str]]:
    """Yield what `find_images` does as text, which is several times faster: path below the folder, and its suffix.

    Parts of the path are separated by slashes.
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
    """Return what the path of whatever lies in a folder begins with, as text."""
    text = str(folder)
    return "" if text == "." else text if text.endswith(os.sep) else text + os.sep


def read_image(path: Path) -> Tensor:
    """Read a photo: palette, gray, RGB, RGBA (alpha is dropped), CMYK, 8 or 16 bit; turned as its EXIF data say.

    Returns:
        `[3, H, W]` uint8 RGB.

    Raises:
        DataError: the file is missing, truncated, or no picture, or has numbers of which nobody knows which is white.
    """
    image, kind = open_image(path)
    if image.mode == "F" or (image.mode == "I" and kind != "PNG"):
        what = "fractions" if image.mode == "F" else "whole numbers of 32 bits"
        raise DataError(f"{path} holds {what}, which do not say how bright white is; save photos with 8 or 16 bits")
    return to_rgb(image)


def read_label(path: Path, label_space: LabelSpace, lines: Lines = "auto") -> Tensor:
    """Read a label map, whichever way it spells its classes; see `to_label`.

    Args:
        path: the file.
        label_space: its classes.
        lines: which pixels of a line drawing are lines.

    Returns:
        `[H, W]` int64 canonical ids.

    Raises:
        DataError: the file is missing, truncated, or no picture.
        LabelError: it holds ids or colours that the label space does not have.
    """
    image, lossy = read_label_image(path)
    return to_label(image, label_space, str(path), lossy=lossy, lines=lines)


def read_label_image(path: Path) -> tuple[Image.Image, bool]:
    """Open a label map, turned as its EXIF data say, and tell whether its file's compression changes pixels.

    Raises:
        DataError: the file is missing, truncated, or no picture.
    """
    image, kind = open_image(path)
    with path.open("rb") as file:
        return image, is_lossy(image, kind, file)


def is_lossy(image: Image.Image, kind: str | None, file: BinaryIO) -> bool:
    """Say whether a picture's file does not keep pixels exact: JPEG, also within TIFF, and most of WebP.

    Args:
        image: the picture as it was opened.
        kind: Pillow's name of the file's format.
        file: the file, at its beginning.
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
    """Turn an opened label map into canonical ids.

    - One number per pixel (8 or 16 bit gray): ids, as the label space's files spell them.
    - Palette: the indices are ids, unless all palette colours in use are the space's own under other indices, as
      drawing programs like to sort them: then the colours count.
    - RGB and RGBA (alpha is dropped): colours. Where red, green and blue agree in every pixel and not all of these
      grays are class colours, they are ids.

    With label space `sketch` it is a line drawing instead, whatever its mode: see `drawings.find_lines`. Paper that is
    transparent is white, or black where lines are said to be light.

    Args:
        image: the label map.
        label_space: the classes.
        where: what to call the map in an error, usually the file.
        lossy: the file's compression changes pixels, as JPEG's does, so that it cannot hold ids.
        lines: which pixels of a line drawing are lines.
        dtype: of the ids; one that holds all of the label space's. A small one takes an eighth of the memory.

    Returns:
        `[H, W]` ids.

    Raises:
        LabelError: ids or colours that the label space does not have, or ids in a file that cannot hold them.
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
    """Read an instance map: 8 or 16 bit gray, palette indices, or a colour per instance.

    Returns:
        `[H, W]` int64; equal numbers are one instance.

    Raises:
        DataError: the file is missing, truncated, or no picture.
    """
    image, _ = open_image(path)
    if image.mode == "LA":
        image = image.getchannel(0)
    if image.mode == "P" or image.mode in _ID_MODES:
        return _to_integers(image)
    rgb = to_rgb(image).to(torch.int64)
    return rgb[0] * 65536 + rgb[1] * 256 + rgb[2]


def write_label_png(path: Path | BinaryIO, ids: Tensor, label_space: LabelSpace) -> None:
    """Write canonical ids `[H, W]` as a palette PNG in the class colours (16-bit gray if values pass 255).

    Takes a path or an open file. An existing file is replaced; whoever calls decides whether it may be.
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
    """Load a picture with Pillow, turned as its EXIF data say; return it and its file's format."""
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
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise DataError(f"{path} cannot be read ({reason}); replace or remove it") from error


def _is_lossy_webp(file: BinaryIO) -> bool:
    """Say whether a WebP file holds a lossy picture: its chunk `VP8 `, after those of the extended form if any."""
    file.seek(12)
    while len(head := file.read(8)) == 8:
        if head[:4] in (b"VP8 ", b"VP8L"):
            return head[:4] == b"VP8 "
        size = int.from_bytes(head[4:], "little")
        # A frame of a moving picture has 16 bytes of its own before its chunks.
        file.seek(16 if head[:4] == b"ANMF" else size + size % 2, os.SEEK_CUR)
    return False


def _to_integers(image: Image.Image) -> Tensor:
    """Return the numbers of a picture with one number per pixel: `[H, W]` int64."""
    return torch.from_numpy(np.asarray(image).astype(np.int64))


def _to_values(image: Image.Image) -> Tensor:
    """Return the numbers of a picture with one number per pixel, `[H, W]`, in a small type that holds them."""
    values = np.array(image)
    return torch.from_numpy(values.astype(np.uint8 if values.dtype.itemsize == 1 else np.int32, copy=False))


def _used(values: Tensor) -> list[int]:
    """Return the numbers that are in a map of 8 bits, in order."""
    return torch.bincount(values.flatten()).nonzero()[:, 0].tolist()


def _on_paper(drawing: Image.Image, lines: Lines) -> Image.Image:
    """Lay a drawing with transparent parts on paper that its lines stand out from."""
    if not drawing.has_transparency_data:
        return drawing
    drawing = drawing.convert("RGBA")
    paper = Image.new("RGBA", drawing.size, "black" if lines == "light" else "white")
    return Image.alpha_composite(paper, drawing)


def to_rgb(image: Image.Image) -> Tensor:
    """Return any picture as `[3, H, W]` uint8; of 16 bits the upper 8."""
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
    """Turn a palette picture into canonical ids, by its indices or by its colours; `to_label` says when."""
    indices = _to_values(image)
    entries = image.getpalette("RGB") or []
    used = _used(indices)
    colors = [tuple(entries[index * 3 : index * 3 + 3]) for index in used]
    palette = [tuple(color) for color in label_space.palette.tolist()]
    values = label_space.encode_values(torch.arange(label_space.num_channels)).tolist()
    as_written = dict(zip(values, palette, strict=True))
    # One entry of black, or of gray as in a gray ramp, says nothing: so does an empty or default palette.
    telling = len(set(colors)) == len(colors) and (len(colors) > 1 or len(set(colors[0])) > 1)
    if telling and set(colors) <= set(palette) and colors != [as_written.get(index) for index in used]:
        table = torch.zeros(256, dtype=dtype)
        table[used] = torch.tensor([palette.index(color) for color in colors], dtype=dtype)
        return look_up(table, indices)
    return label_space.decode_ids(indices, where, dtype=dtype)
