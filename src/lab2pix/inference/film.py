"""Films of generated frames: H.264 by ffmpeg where it is installed, else animated WebP."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from lab2pix.errors import DataError, OutputError
from lab2pix.utils.files import atomic_write, output_errors

_H264 = ("-c:v", "libx264", "-crf", "16", "-pix_fmt", "yuv420p", "-movflags", "+faststart")
_EVEN = ("-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2")
"""The pixel format needs even sides."""


def find_encoder() -> str | None:
    """Return the program of ffmpeg: the system's, or that of the package `imageio-ffmpeg`; None if there is none."""
    if (program := shutil.which("ffmpeg")) is not None:
        return program
    if find_spec("imageio_ffmpeg") is None:
        return None
    return str(import_module("imageio_ffmpeg").get_ffmpeg_exe())


def film_path(folder: Path, *, overwrite: bool) -> Path:
    """Return the file of the film of a folder: `frames.mp4`, or without ffmpeg `frames.webp`.

    Raises:
        OutputError: it exists, and `overwrite` is false.
    """
    film = folder / f"frames.{'mp4' if find_encoder() else 'webp'}"
    if film.exists() and not overwrite:
        raise OutputError(f"{film} exists; choose another folder, or pass --overwrite")
    return film


def frame_order(file: Path) -> list[tuple[str, int]]:
    """Return the key that sorts files by name, with numbers in it by value: `a9` before `a10`."""
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D*)(\d*)", file.as_posix())]


def write_film(film: Path, files: Sequence[Path], fps: int) -> None:
    """Write a film atomically.

    Args:
        film: `.mp4` file, or `.webp` file where ffmpeg is not installed.
        files: PNG files of one size, in order of `frame_order`.
        fps: frames per second.

    Raises:
        DataError: the frames have different sizes.
        OutputError: the film cannot be written.
    """
    ordered = sorted(files, key=frame_order)
    sizes: dict[tuple[int, int], Path] = {}
    for file in ordered:
        with Image.open(file) as image:
            sizes.setdefault(image.size, file)
    if len(sizes) > 1:
        one, other, *_ = sizes.values()
        raise DataError(f"a film needs frames of one size, but {one} and {other} differ; omit --keep-size")
    with output_errors(film, "choose another folder"), atomic_write(film) as [unfinished]:
        if film.suffix == ".mp4":
            _encode(unfinished, ordered, fps)
        else:
            first, *others = (Image.open(file) for file in ordered)
            first.save(unfinished, save_all=True, append_images=others, duration=round(1000 / fps), loop=0, quality=90)


def _encode(film: Path, files: Sequence[Path], fps: int) -> None:
    """Encode a film with ffmpeg, which reads the PNG files one after the other."""
    program = find_encoder()
    assert program is not None
    read = ("-f", "image2pipe", "-c:v", "png", "-framerate", str(fps), "-i", "-")
    command = [program, "-loglevel", "error", "-y", *read, *_EVEN, *_H264, str(film)]
    frames = b"".join(file.read_bytes() for file in files)
    done = subprocess.run(command, input=frames, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise OutputError(
            f"ffmpeg cannot encode {film.parent / 'frames.mp4'} ({said[-1] if said else 'it says nothing'}); the "
            "frames are written, so encode them with another program"
        )
