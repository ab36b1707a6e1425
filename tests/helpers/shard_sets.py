"""A small dataset of format `folder` to write as tar shards, and tar files of any members."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

COUNTS = {"train": 7, "val": 3}


def write_set(root: Path) -> Path:
    """Write pairs with instance maps, of random pixels and classes of `scenes`."""
    generator = np.random.default_rng(0)
    for split, count in COUNTS.items():
        for number in range(count):
            for part, shape, most in (
                ("images", (12, 16, 3), 256),
                ("labels", (12, 16), 14),
                ("instances", (12, 16), 5),
            ):
                file = root / part / split / f"{'ab'[number % 2]}{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(generator.integers(0, most, shape, dtype=np.uint8)).save(file)
    return root


def tar_of(file: Path, members: dict[str, bytes], *, form: int = tarfile.USTAR_FORMAT) -> None:
    """Write a tar file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w", format=form) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """Return an image file."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()
