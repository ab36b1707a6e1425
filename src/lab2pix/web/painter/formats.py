"""Accepted image formats, and what is checked in a file before it is decoded.

Guards against decompression bombs.
The size in the header is not enough: EXIF data may hold a million numbers, a JPEG may refine its pixels ten thousand
times, and a PNG may compress a megabyte of color profile just as often.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lab2pix.web.responses import HTTPError

MAX_EXIF = 2**18
"""Bytes of EXIF data; one JPEG segment holds a quarter of that."""
MAX_SCANS = 100
"""Scans of a JPEG; ordinary files have ten at most."""
MAX_CHUNKS = 2**16
"""Chunks of a PNG; ordinary encoders write at least some kilobytes into each."""


@dataclass(frozen=True)
class ImageFormat:
    """An image format.

    Attributes:
        name: name of the format, which is also that of Pillow's decoder.
        signature: first bytes of its files.
    """

    name: str
    signature: bytes


FORMATS: Mapping[str, ImageFormat] = {
    "image/png": ImageFormat("PNG", b"\x89PNG\r\n\x1a\n"),
    "image/jpeg": ImageFormat("JPEG", b"\xff\xd8\xff"),
}
"""Accepted formats by media type. No other decoder is ever used."""


def check_jpeg(body: bytes) -> None:
    """Refuse a JPEG with too many scans or too much EXIF data.

    Raises:
        HTTPError: 413.
    """
    if body.count(b"\xff\xda") > MAX_SCANS:  # never part of pixel data; embedded thumbnails have a few of their own
        raise HTTPError(413, f"The JPEG image has more than {MAX_SCANS} scans; save it again")
    if body.count(b"Exif\0\0") * 2**16 > MAX_EXIF:  # Pillow joins segments of 64 KiB
        raise HTTPError(413, f"The image has more than {MAX_EXIF} bytes of EXIF data; save it without")


_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf", b"acTL", b"fcTL"})


def strip_png(body: bytes) -> bytes:
    """Return a PNG without chunks that are not needed for its pixels, orientation and number of frames.

    Color profiles and text are left out, and the pixels of further frames.

    Raises:
        HTTPError: 413, it has too many chunks.
    """
    signature = FORMATS["image/png"].signature
    kept, start = [signature], len(signature)
    for _ in range(MAX_CHUNKS):
        end = start + 12 + int.from_bytes(body[start : start + 4], "big")
        name = body[start + 4 : start + 8]
        if name in _CHUNKS:
            kept.append(body[start:end])
        if name == b"IEND" or end >= len(body):
            return b"".join(kept)
        start = end
    raise HTTPError(413, f"The PNG image has more than {MAX_CHUNKS} chunks; save it again")
