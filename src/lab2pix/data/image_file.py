"""Decoding of image files without loss: all bits of each channel, one page only, and why a file cannot be read."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from lab2pix.config.schema import Alpha
from lab2pix.data.image_errors import Source, errors_named, source_name
from lab2pix.errors import DataError
from lab2pix.labels.colors import row_chunks

# Pillow warns of large images and damaged metadata; errors here say what matters.
warnings.filterwarnings("ignore", module=r"PIL\.")

_LOSSY_FORMATS = frozenset({"AVIF", "JPEG", "JPEG2000", "MPO"})
_LOSSY_TIFF = frozenset({"jpeg", "tiff_jpeg", "webp"})
_BITS = {"1": 1, "I;16": 16, "I;16L": 16, "I;16B": 16, "I;16N": 16, "I": 32, "F": 32}
_REDUCED, _MASK = 1, 4
"""Bits of TIFF's NewSubfileType: a page that is a smaller copy, or a mask, of another one."""
_NEW_SUBFILE_TYPE, _BITS_PER_SAMPLE, _PHOTOMETRIC, _PLANAR, _SAMPLE_FORMAT = 254, 258, 262, 284, 339


@dataclass(frozen=True)
class ImageFile:
    """Decoded image, upright (EXIF orientation is applied).

    Attributes:
        image: pixels; color images of 16 bits per channel are reduced to 8, see `wide`.
        kind: Pillow's name of the file format; None for an image from memory.
        bits: bits per channel in the file.
        lossy: whether the compression of the file changes pixels.
        white_is_zero: whether a gray file stores white as 0 (TIFF), which is undone here.
        source: the file; None for an image from memory.
        box: part of the file that `image` is (left, top, right, bottom); None: all.
        white: value of white in the file if the decoder has stretched the values to 8 or 16 bits, else None.
        signed: whether a TIFF holds signed whole numbers, whose values below 0 the decoder may wrap.
    """

    image: Image.Image
    kind: str | None = None
    bits: int = 8
    lossy: bool = False
    white_is_zero: bool = False
    source: Source | None = None
    box: tuple[int, int, int, int] | None = None
    white: int | None = None
    signed: bool = False

    @classmethod
    def of(cls, image: Image.Image) -> ImageFile:
        """Wrap an opened Pillow image, turned as EXIF says; one with 16 bits per color is read from its file.

        Raises:
            DataError: it has 16 bits per color, but no file.
        """
        if any(_is_wide(_rawmode(tile)) for tile in getattr(image, "tile", ())):
            if name := getattr(image, "filename", ""):
                return open_image(Path(name))
            raise DataError("the image has 16 bits per color, which Pillow reduces to 8; give its file or an array")
        bits, white, form = bits_per_channel(image), white_level(image), image.format
        lossy, signed = form in _LOSSY_FORMATS, _is_signed(image)
        return cls(ImageOps.exif_transpose(image), form, bits, lossy, white=white, signed=signed)

    def crop(self, left: int, right: int) -> ImageFile:
        """Return a range of columns."""
        box = (left, 0, right, self.image.height)
        return replace(self, image=self.image.crop(box), box=box)

    @cached_property
    def wide(self) -> NDArray[np.uint16] | None:
        """All bits of a color image with 16 bits per channel, `[H, W, C]`; None for other images.

        Gray with alpha has two channels.

        Raises:
            DataError: the file cannot be read.
        """
        if self.source is None or self.bits != 16 or self.image.mode not in ("RGB", "RGBA"):
            return None
        with errors_named(self.source):
            pixels = _decode_wide(self.source, self.kind)
        if self.box is not None:
            left, top, right, bottom = self.box
            pixels = pixels[top:bottom, left:right]
        return pixels

    def stored(self) -> NDArray[Any]:
        """Return the gray values of the file, `[H, W]`, as they were before the decoder stretched them."""
        values = np.array(self.image)
        if self.white is None:
            return values
        full = 255 if values.dtype == np.uint8 else 65535
        return ((values.astype(np.int64) * self.white + full // 2) // full).astype(values.dtype)

    @property
    def channels(self) -> str:
        """Name of the channels, for reports."""
        mode = self.image.mode
        if mode == "P":
            return "palette"
        if mode in _BITS or mode == "L":
            return "gray"
        if self.wide is not None and self.wide.shape[2] == 2:
            return "gray and alpha"
        return {"LA": "gray and alpha", "RGBA": "RGB and alpha"}.get(mode, mode)

    def describe(self) -> str:
        """Return format, channels and depth, such as `PNG, RGB, 16 bits`."""
        return f"{self.kind or 'image'}, {self.channels}, {self.bits} bit{'' if self.bits == 1 else 's'}"


def open_image(source: Source) -> ImageFile:
    """Decode an image file, given by path or opened.

    Raises:
        DataError: the file is missing, damaged, not an image, of a kind that is not read, or has several pages.
    """
    with errors_named(source), _opened(source) as image:
        require_one_page(image, source_name(source))
        bits, white, lossy = bits_per_channel(image), white_level(image), _is_lossy(image, source)
        _mend_planes(image)
        image.load()
        white_is_zero = image.format == "TIFF" and _tag(image, _PHOTOMETRIC) == 0
        kind, signed = image.format, _is_signed(image)
        ImageOps.exif_transpose(image, in_place=True)
        if white_is_zero and image.mode.startswith("I;16"):  # Pillow inverts 8 bits only
            inverted = np.iinfo(np.uint16).max - np.asarray(image).astype(np.uint16)
            return ImageFile(Image.fromarray(inverted), kind, bits, lossy, white_is_zero, source)
        return ImageFile(image, kind, bits, lossy, white_is_zero, source, white=white, signed=signed)


def flatten(image: Image.Image, alpha: Alpha) -> Image.Image:
    """Composite an image with transparency onto a background; `drop` returns it unchanged."""
    if alpha == "drop" or image.mode.startswith("I") or not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, alpha), image)


def is_transparent(image: Image.Image) -> bool:
    """Return whether any pixel is not opaque."""
    if image.mode.startswith("I") or not image.has_transparency_data:
        return False
    extrema: Any = image.convert("RGBA").getchannel("A").getextrema()
    return bool(extrema[0] < 255)


def transparency_notes(found: Mapping[str, tuple[int, str]], used: str, setting: str) -> Iterator[str]:
    """Describe the files with transparent pixels.

    Args:
        found: number of files and an example, by what the files are.
        used: what is done with the hidden colors of photos and images.
        setting: setting that puts these on a background instead.
    """
    for role, (count, example) in found.items():
        what = f"{role} with transparent pixels: {count}, such as {example}"
        if role in ("photos", "generated images"):
            yield f"{what}; their hidden colors are {used}, unless {setting} is white or black"
        else:
            yield f"{what}; transparency is ignored there"


def to_rgb(image: Image.Image, bits: int = 16) -> Tensor:
    """Convert an image to `[3, H, W]` uint8 RGB; of gray with more than 8 bits the upper 8 of `bits` are kept."""
    if image.mode.startswith("I"):
        upper = torch.from_numpy((np.asarray(image) >> (min(bits, 16) - 8)).clip(0, 255).astype(np.uint8))
        return upper.expand(3, -1, -1).contiguous()
    width, height = image.size
    pixels = torch.empty((3, height, width), dtype=torch.uint8)
    for rows in row_chunks(height, width):
        band = image.crop((0, rows.start, width, rows.stop)).convert("RGB")
        pixels[:, rows] = torch.from_numpy(np.array(band)).permute(2, 0, 1)
    return pixels


# --- depth and pages ------------------------------------------------------------------------------------------------


@contextmanager
def _opened(source: Source, kind: str | None = None) -> Iterator[Image.Image]:
    """Open a file with Pillow, without decoding it, as the given format or as what it is."""
    if not isinstance(source, Path):
        source.seek(0)
    with Image.open(source, formats=None if kind is None else (kind,)) as image:
        yield image


def require_one_page(image: Image.Image, where: str) -> None:
    """Refuse an opened image of several pages.

    Raises:
        DataError: there are several.
    """
    pages = _count_pages(image)
    if pages > 1:
        raise DataError(
            f"{where} holds {pages} pages or frames, of which only one can be meant; save that one as a file of its own"
        )


def _tag(image: Image.Image, tag: int) -> Any:
    """Return a TIFF tag of the current page, or None."""
    tags = getattr(image, "tag_v2", None)
    return None if tags is None else tags.get(tag)


def _is_signed(image: Image.Image) -> bool:
    return 2 in (_tag(image, _SAMPLE_FORMAT) or ())


def _count_pages(image: Image.Image) -> int:
    """Return the number of pages or frames; further images of a camera's JPEG and small copies in TIFF do not count."""
    frames = getattr(image, "n_frames", 1)
    if frames == 1 or image.format == "MPO":
        return 1
    if image.format != "TIFF":
        return int(frames)
    count = 0
    for frame in range(frames):
        try:
            image.seek(frame)
        except SyntaxError:  # a page of a kind that Pillow does not know
            count += 1
            continue
        count += not (_tag(image, _NEW_SUBFILE_TYPE) or 0) & (_REDUCED | _MASK)
    image.seek(0)
    return count


def _rawmode(tile: Any) -> str:
    """Return Pillow's name of the layout of a tile in the file."""
    arguments = tile[3]
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _is_wide(rawmode: str) -> bool:
    """Return whether the layout has 16 bits per color, which Pillow reduces to 8."""
    return ";16" in rawmode and not rawmode.startswith(("I;", "CMYK"))


def bits_per_channel(image: Image.Image) -> int:
    """Return the bits per channel in the file of an image that is opened but not decoded yet."""
    if any(_is_wide(_rawmode(tile)) for tile in getattr(image, "tile", ())):
        return 16
    if image.format == "TIFF":
        per_sample = _tag(image, _BITS_PER_SAMPLE) or (1,)
        return int(max(per_sample))
    if image.format in ("PNG", "PPM") and image.mode == "I":
        return 16
    white = white_level(image)
    return white.bit_length() if white is not None and image.mode == "L" else _BITS.get(image.mode, 8)


def white_level(image: Image.Image) -> int | None:
    """Return the value of white in a file whose values the decoder stretches to 8 or 16 bits; None for others.

    These are gray of 2 and 4 bits, and the PNM formats.
    """
    tile = next(iter(getattr(image, "tile", ())), None)
    if tile is None:
        return None
    if tile[0].startswith("ppm"):
        white = int(tile[3][-1])
        return None if white == (65535 if image.mode == "I" else 255) else white
    found = re.match(r"L;([24])", _rawmode(tile))
    return None if found is None else 2 ** int(found[1]) - 1


def _with_rawmode(tile: Any, rawmode: str) -> Any:
    arguments = (rawmode, *tile[3][1:]) if isinstance(tile[3], tuple) else rawmode
    fields = (*tile[:3], arguments)
    return tile._make(fields) if hasattr(tile, "_make") else fields


def _mend_planes(image: Any) -> None:
    """Correct the layout of uncompressed 16-bit TIFFs with one plane per channel, which Pillow reads as 8 bits."""
    if image.format != "TIFF" or _tag(image, _PLANAR) != 2 or bits_per_channel(image) != 16 or image.use_load_libtiff:
        return
    if image.mode != "RGB":
        raise DataError(
            f"{getattr(image, 'filename', '') or 'the image'} stores {image.mode} with 16 bits in separate planes; "
            "save it with interleaved channels"
        )
    order = "L" if image.tag_v2.prefix == b"II" else "B"
    image.tile = [_with_rawmode(tile, f"{_rawmode(tile)};16{order}") for tile in image.tile]


def _decode_wide(source: Source, kind: str | None) -> NDArray[np.uint16]:
    """Decode a color image with 16 bits per channel: the upper and then the lower byte of each value."""
    with _opened(source, kind) as image:
        if _rawmode(cast(Any, image).tile[0]).startswith("LA;16"):
            return _join_bytes(_decode_as(image, lambda _: "RGBA"))
        values = _decode_as(image, lambda rawmode: rawmode.replace("RGBa", "RGBA")).astype(np.uint16)
    values <<= 8
    with _opened(source, kind) as image:
        values |= _decode_as(image, lambda rawmode: _swapped(rawmode.replace("RGBa", "RGBA")))
    return values


def _decode_as(image: Any, rawmode_of: Callable[[str], str]) -> NDArray[np.uint8]:
    """Decode an opened image with other layouts of its tiles."""
    if image.format == "TIFF" and _tag(image, _PLANAR) == 2 and image.use_load_libtiff:
        raise DataError(
            f"{image.filename or 'the image'} stores 16 bits per color in compressed planes, of which 8 can be read; "
            "save it with interleaved channels"
        )
    _mend_planes(image)
    image.tile = [_with_rawmode(tile, rawmode_of(_rawmode(tile))) for tile in image.tile]
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return np.asarray(image)


def _swapped(rawmode: str) -> str:
    """Return the layout with the other byte order, in which Pillow keeps the lower byte as the upper one."""
    channels, _, order = rawmode.rpartition(";16")
    little = order == "L" or (order == "N" and sys.byteorder == "little")
    return f"{channels};16{'B' if little else 'L'}"


def _join_bytes(pixels: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Return big-endian bytes `[H, W, 2C]` as values `[H, W, C]`."""
    values = pixels[..., 0::2].astype(np.uint16)
    values <<= 8
    values |= pixels[..., 1::2]
    return values


# --- compression ----------------------------------------------------------------------------------------------------


def _is_lossy(image: Image.Image, source: Source) -> bool:
    if image.format == "WEBP":
        if not isinstance(source, Path):
            return _is_lossy_webp(source)
        with source.open("rb") as file:
            return _is_lossy_webp(file)
    return image.format in _LOSSY_FORMATS or image.info.get("compression") in _LOSSY_TIFF


def _is_lossy_webp(file: BinaryIO) -> bool:
    """Return whether a WebP file is lossy: whether its first image chunk is `VP8 ` rather than `VP8L`."""
    file.seek(12)
    while len(head := file.read(8)) == 8:
        if head[:4] in (b"VP8 ", b"VP8L"):
            return head[:4] == b"VP8 "
        size = int.from_bytes(head[4:], "little")
        # An animation frame has a header of 16 bytes before its chunks.
        file.seek(16 if head[:4] == b"ANMF" else size + size % 2, 1)
    return False
