"""Output files of the images of a folder's label maps."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab2pix.data.files import IMAGE_SUFFIXES
from lab2pix.data.pairs import Pair
from lab2pix.errors import DataError, OutputError

_SCALES = ("", "_x2", "_x1")
"""File name suffixes of X3, X2 and X1."""


def check_outputs(sources: Sequence[Path], out: Path, pairs: Sequence[Pair], suffixes: Sequence[Sequence[str]]) -> None:
    """Check that no image overwrites a label map or another image, and that none is written into the label folder.

    Names can collide: `a_x2.png` is a scale of `a`, or the image of label map `a_x2`.
    """
    made: dict[Path, str] = {}
    for pair in pairs:
        for _, _, file in _files(out, pair.name, suffixes):
            if file in made:
                raise DataError(
                    f"label maps {made[file]} and {pair.name} would both become {file}; rename one of them, or choose "
                    "a folder of its own for each"
                )
            made[file] = pair.name
    written = {file.resolve() for file in made}
    inside = any(source.is_dir() and out.resolve().is_relative_to(source.resolve()) for source in sources)
    if inside or any(source.resolve() in written for source in sources):
        raise OutputError(f"the images would be written among the label maps in {out}; choose another folder")
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file, not a folder for images; choose another one")
    if out.suffix.lower() in IMAGE_SUFFIXES and not out.exists():
        raise OutputError(
            f"{out} is named like an image, but images are written into a folder, under the names of their label "
            f"maps; give a folder such as {out.with_suffix('')}"
        )


def output_suffixes(count: int, interpolated: bool, scales: bool) -> list[list[str]]:
    """Return the file name suffix of each image of a label map, per image and scale."""
    digits = 3 if interpolated else 0
    numbers = [""] if count == 1 and not digits else [f"_{index:0{digits}d}" for index in range(count)]
    return [[f"{number}{scale}.png" for scale in _SCALES[: 3 if scales else 1]] for number in numbers]


def _files(out: Path, name: str, suffixes: Sequence[Sequence[str]]) -> Iterator[tuple[int, int, Path]]:
    """Yield image index, scale and output file of each image of a label map."""
    for index, row in enumerate(suffixes):
        for scale, end in enumerate(row):
            yield index, scale, out / f"{name}{end}"


def select_files(
    out: Path, name: str, suffixes: Sequence[Sequence[str]], overwrite: bool
) -> tuple[dict[int, dict[int, Path]], list[Path]]:
    """Return the files to write for a label map, by image and scale, and the files that already exist."""
    wanted: dict[int, dict[int, Path]] = {}
    existing: list[Path] = []
    for index, scale, file in _files(out, name, suffixes):
        if overwrite or not os.path.exists(file):  # noqa: PTH110 - False for names that are too long
            wanted.setdefault(index, {})[scale] = file
        else:
            existing.append(file)
    return wanted, existing
