"""Kinds of picture that are taken, and what is looked at in each before a decoder sees it.

A decoder makes much of few bytes, and not only where the header tells: WebP's makes room for a picture before anybody
can ask how large it is, a TIFF's tiles may be larger than the picture, camera data may hold a million numbers, a JPEG
may paint over all its pixels ten thousand times, and a PNG may unfold a megabyte of colour profile as often.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from lab2pix.web.guard import RefusedError

__all__ = ["KINDS", "MAX_EXIF", "Kind", "check_scans", "plain_png", "plain_tiff", "webp_size"]

MAX_EXIF = 2**18
"""Bytes of data that a camera adds; JPEG allows a quarter of that in one piece."""
MAX_SCANS = 100
"""Times that a JPEG may go over its pixels; those in use do so ten times or less."""
MAX_CHUNKS = 2**16
"""Parts of a PNG; the smallest that programs make have some kilobytes."""
MAX_TABLES = 2**20
"""Bytes of a TIFF's tables: where its parts begin, its palette."""


@dataclass(frozen=True)
class Kind:
    """A kind of picture.

    Attributes:
        form: Pillow's name of its decoder.
        title: what people call it.
        beginnings: what its files begin with, one of them.
    """

    form: str
    title: str
    beginnings: tuple[bytes, ...]

    def fits(self, body: bytes) -> bool:
        """Say whether a file is of this kind by what it begins with."""
        return body.startswith(self.beginnings) and (self.form != "WEBP" or body[8:12] == b"WEBP")


KINDS: Mapping[str, Kind] = {
    "image/png": Kind("PNG", "PNG", (b"\x89PNG\r\n\x1a\n",)),
    "image/jpeg": Kind("JPEG", "JPEG", (b"\xff\xd8\xff",)),
    "image/webp": Kind("WEBP", "WebP", (b"RIFF",)),
    "image/bmp": Kind("BMP", "BMP", (b"BM",)),
    "image/tiff": Kind("TIFF", "TIFF", (b"II*\0", b"MM\0*", b"II+\0")),
}
"""The kinds that label files may be of, by content type. No other decoder is ever tried."""


def webp_size(body: bytes) -> tuple[int, int]:
    """Return width and height of a WebP picture as its first chunk says.

    Raises:
        ValueError: it is cut short or damaged.
    """
    if len(body) < 30:
        raise ValueError("cut short")
    chunk = body[12:16]
    if chunk == b"VP8X":
        return int.from_bytes(body[24:27], "little") + 1, int.from_bytes(body[27:30], "little") + 1
    if chunk == b"VP8L" and body[20] == 0x2F:
        bits = int.from_bytes(body[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 " and body[23:26] == b"\x9d\x01\x2a":
        return int.from_bytes(body[26:28], "little") & 0x3FFF, int.from_bytes(body[28:30], "little") & 0x3FFF
    raise ValueError("no picture in it")


def check_scans(body: bytes) -> None:
    """Refuse a JPEG that goes over its pixels again and again.

    Raises:
        RefusedError: 413.
    """
    if body.count(b"\xff\xda") > MAX_SCANS:  # which pixels never hold; thumbnails have a few of their own
        raise RefusedError(413, f"The JPEG picture has more than {MAX_SCANS} scans; save it anew")


_PNG_HEAD = 8
_PNG_KEPT = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"})
"""Parts that say what the pixels are and which way is up; all others say what is not looked at here."""


def plain_png(body: bytes) -> bytes:
    """Return a PNG with nothing but what its pixels need: no colour profile, no text, no further pictures.

    Raises:
        RefusedError: 413, it has too many parts.
    """
    kept, place = [body[:_PNG_HEAD]], _PNG_HEAD
    for _ in range(MAX_CHUNKS):
        end = place + 12 + int.from_bytes(body[place : place + 4], "big")
        name = body[place + 4 : place + 8]
        if name in _PNG_KEPT:
            kept.append(body[place:end])
        if name == b"IEND" or end >= len(body):
            return b"".join(kept)
        place = end
    raise RefusedError(413, f"The PNG picture has more than {MAX_CHUNKS} parts; save it anew")


# --- TIFF -----------------------------------------------------------------------------------------------------------

_WIDTH, _HEIGHT, _COMPRESSION, _SAMPLES, _PLANES = 256, 257, 259, 277, 284
_STRIP_ROWS, _TILE_WIDTH, _TILE_LENGTH = 278, 322, 323
_LEAST_TILE = 16
"""Pixels of a tile's side, as TIFF wants it."""
_KEPT = frozenset(
    {_WIDTH, _HEIGHT, 258, _COMPRESSION, 262, 266, 273, 274, _SAMPLES, _STRIP_ROWS, 279, _PLANES, 292, 293, 317, 320}
    | {_TILE_WIDTH, _TILE_LENGTH, 324, 325, 338, 339, 347, 529, 530, 531, 532}
)
"""Tags that say what the pixels are; all others say who made the picture, where and when."""
_COMPRESSIONS = frozenset({1, 2, 3, 4, 5, 7, 8, 32773, 32946})
"""None, fax, LZW, JPEG, Deflate, PackBits: those whose decoders take no more memory than a part of the picture."""
_UNITS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of a value, by type."""
_WHOLE = {3: "H", 4: "L", 16: "Q"}
"""Types of whole numbers, as `struct` spells them."""


@dataclass(frozen=True)
class _Entry:
    """A tag: its number, its type, how many values, and in bytes these or where they lie."""

    tag: int
    type: int
    count: int
    place: bytes

    @property
    def size(self) -> int:
        return self.count * _UNITS[self.type]


@dataclass(frozen=True)
class _Layout:
    """How numbers are laid out in a TIFF: order of bytes, then lengths, which BigTIFF doubles."""

    order: str
    big: bool

    @property
    def entry(self) -> struct.Struct:
        return struct.Struct(self.order + ("HHQ8s" if self.big else "HHL4s"))

    @property
    def count(self) -> struct.Struct:
        return struct.Struct(self.order + ("Q" if self.big else "H"))

    @property
    def offset(self) -> struct.Struct:
        return struct.Struct(self.order + ("Q" if self.big else "L"))

    def numbers(self, body: bytes, entry: _Entry) -> list[int]:
        """Return the values of a tag of whole numbers."""
        values = struct.Struct(f"{self.order}{entry.count}{_WHOLE[entry.type]}")
        if values.size <= len(entry.place):
            return list(values.unpack_from(entry.place))
        return list(values.unpack_from(body, *self.offset.unpack(entry.place)))

    def number(self, entry: _Entry) -> int:
        """Return the value of a tag that has one, a whole number."""
        if entry.count != 1:
            raise ValueError(f"tag {entry.tag} has {entry.count} values")
        return int(struct.unpack_from(self.order + _WHOLE[entry.type], entry.place)[0])


def plain_tiff(body: bytes, check_size: Callable[[int, int], None]) -> bytes:
    """Return a TIFF's first picture with nothing but what its pixels need: no camera data, no further pages.

    The pixels stay where they are; a new list of tags is put behind them.

    Args:
        body: the file.
        check_size: refuses a width and a height; asked about the tiles, for which decoders make room as they say.

    Raises:
        RefusedError: 413, the tables are too large; 415, it is compressed in a way that is not taken.
        ValueError: it is no TIFF, or cut short.
        struct.error: the same.
    """
    layout = _Layout("<" if body[:2] == b"II" else ">", b"+" in body[2:4])
    start = 8 if layout.big else 4
    kept: dict[int, _Entry] = {}
    for entry in _entries(body, layout, *layout.offset.unpack_from(body, start)):
        if entry.tag in _KEPT:
            kept.setdefault(entry.tag, entry)  # of doubles decoders disagree which one counts
    if sum(entry.size for entry in kept.values()) > MAX_TABLES:
        raise RefusedError(
            413, f"The TIFF picture has tables of more than {MAX_TABLES} bytes; save it in larger strips"
        )
    compression = layout.number(kept[_COMPRESSION]) if _COMPRESSION in kept else 1
    if compression not in _COMPRESSIONS:
        raise RefusedError(
            415, f"The TIFF picture has compression {compression}, which is not taken; save it with LZW or Deflate"
        )
    _check_parts(body, layout, kept, check_size)
    tags = [layout.entry.pack(entry.tag, entry.type, entry.count, entry.place) for _, entry in sorted(kept.items())]
    pixels = body[start + layout.offset.size :] + b"\0" * (len(body) % 2)
    head = body[:start] + layout.offset.pack(start + layout.offset.size + len(pixels))
    return b"".join([head, pixels, layout.count.pack(len(tags)), *tags, layout.offset.pack(0)])


def _check_parts(
    body: bytes, layout: _Layout, kept: Mapping[int, _Entry], check_size: Callable[[int, int], None]
) -> None:
    """Check strips or tiles: how large they are, that they lie in the file, and that there are not too many."""

    def number(tag: int, default: int) -> int:
        return layout.number(kept[tag]) if tag in kept else default

    width, height = number(_WIDTH, 0), number(_HEIGHT, 0)
    check_size(width, height)
    if _TILE_WIDTH in kept:
        places, sizes, across, down = 324, 325, number(_TILE_WIDTH, 0), number(_TILE_LENGTH, 0)
        check_size(across, down)
        if min(across, down) < _LEAST_TILE:
            raise ValueError("the tiles are too small")
    else:
        places, sizes, across, down = 273, 279, width, min(number(_STRIP_ROWS, height), height)
    layers = number(_SAMPLES, 1) if number(_PLANES, 1) == 2 else 1
    if places not in kept or kept[places].count > layers * -(-width // across) * -(-height // down):
        raise ValueError("there are too many parts")  # each would be decoded, one over the other
    if sizes in kept:
        parts = zip(layout.numbers(body, kept[places]), layout.numbers(body, kept[sizes]), strict=False)
        if any(place + size > len(body) for place, size in parts):  # or what comes behind would pass for pixels
            raise ValueError("the pixels are cut short")


def _entries(body: bytes, layout: _Layout, start: int) -> Iterator[_Entry]:
    """Yield the tags of the list that begins somewhere."""
    (count,) = layout.count.unpack_from(body, start)
    start += layout.count.size
    if count * layout.entry.size > len(body) - start:
        raise ValueError("the list of tags is cut short")
    for values in layout.entry.iter_unpack(body[start : start + count * layout.entry.size]):
        entry = _Entry(*values)
        if entry.type in _UNITS:
            yield entry
