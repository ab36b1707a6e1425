"""PNG files of 16 bits per channel, which Pillow does not write."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

GRAY, GRAY_ALPHA, RGB, RGBA = 0, 4, 2, 6
CHANNELS = {GRAY: 1, GRAY_ALPHA: 2, RGB: 3, RGBA: 4}


def write_png(path: Path, values: NDArray[np.uint16], kind: int) -> Path:
    """Write `[H, W]` or `[H, W, C]` as a PNG of 16 bits; ids are repeated, and alpha is opaque."""
    channels = CHANNELS[kind]
    if values.ndim == 2:
        values = np.repeat(values[..., None], 1 if channels < 3 else 3, axis=2)
    if channels in (2, 4):
        values = np.concatenate([values, np.full_like(values[..., :1], 65535)], axis=2)

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return write_chunks(path, (values.shape[1], values.shape[0], 16, kind), rows)


def write_chunks(path: Path, head: tuple[int, int, int, int], rows: bytes) -> Path:
    """Write a PNG of width, height, bits and color type."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    parts = chunk(b"IHDR", struct.pack(">IIBBBBB", *head, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IEND", b""))
    return path
