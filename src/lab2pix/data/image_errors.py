"""Errors of image decoders, as sentences that say what a file is and what to do."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from lab2pix.errors import DataError

Source = Path | BinaryIO

_BITS_PER_SAMPLE, _SAMPLES, _SAMPLE_FORMAT = 258, 277, 339
"""Tags of TIFF."""


def source_name(source: Source) -> str:
    """Return the name of a file for messages."""
    return str(source) if isinstance(source, Path) else getattr(source, "name", "the image")


@contextmanager
def errors_named(source: Source) -> Iterator[None]:
    """Turn the errors of decoders into a `DataError` that says what the file is and what to do."""
    name = source_name(source)
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{name} is missing; put it back, or remove its partner") from error
    except Image.DecompressionBombError as error:
        count = int((re.search(r"\d+", str(error)) or ["0"])[0])
        raise DataError(
            f"{name} has {count / 1e6:.0f} million pixels, more than the {2 * _max_pixels() / 1e6:.0f} million that "
            "are read; cut it into tiles or make it smaller"
        ) from error
    except UnidentifiedImageError as error:
        raise DataError(f"{name} {_identify(source)}") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, TypeError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise DataError(f"{name} cannot be read ({reason}); {cure_of(error, 'replace or remove it')}") from error


def cure_of(error: BaseException, other: str) -> str:
    """Return what to do about an error of the file system: change permissions, or something else."""
    return "change its permissions" if isinstance(error, PermissionError) else other


def _max_pixels() -> int:
    return Image.MAX_IMAGE_PIXELS or 0


_BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC", b"mif1": "HEIF", b"msf1": "HEIF", b"avif": "AVIF"}


_STARTS = {
    b"version https://git-lfs": "is a pointer of Git LFS instead of the file; fetch the files with `git lfs pull`",
    b"<": "is a web page or other markup instead of an image; download it again",
    b"\x93NUMPY": "is an array of NumPy; save it as an image, or name it .npy if it is an input image",
}
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _identify(source: Source) -> str:
    """Return what a file that Pillow cannot read is, and what to do, as the end of a sentence."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            return _identify(file)
    source.seek(0)
    head = source.read(512)
    if head.startswith(_TIFF):
        return _identify_tiff(source)
    if head[4:8] == b"ftyp" and head[8:12] in _BRANDS:
        return f"is {_BRANDS[head[8:12]]}, which cannot be read here; convert it to JPEG or PNG"
    what = "is not an image, or a damaged one; replace or remove it" if head else "is empty; replace or remove it"
    return next((text for start, text in _STARTS.items() if head.lstrip().startswith(start)), what)


def _identify_tiff(file: BinaryIO) -> str:
    """Describe the bands of a TIFF that Pillow does not read."""
    file.seek(0)
    try:
        header = file.read(8)
        header += file.read(8) if 43 in header[2:4] else b""  # BigTIFF
        tags = TiffImagePlugin.ImageFileDirectory_v2(header)
        file.seek(tags.next)
        tags.load(file)
        bands, bits = int(tags.get(_SAMPLES, 1)), int(max(tags[_BITS_PER_SAMPLE]))
        kinds = {1: "whole numbers", 2: "signed whole numbers", 3: "fractions"}
        what = kinds.get(int(max(tags.get(_SAMPLE_FORMAT, (1,)))), "other values")
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return "is a damaged TIFF; replace or remove it"
    return (
        f"is a TIFF of {bands} band{'' if bands == 1 else 's'} of {what} with {bits} bits, which is not a gray, "
        "palette or RGB image; save label maps as PNG, photos as RGB, each with 8 or 16 bits, and other inputs as .npy"
    )
