"""Pictures that come in as bytes and go out as bytes: limits first, then decoding; label maps in their forms."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageChops, ImageOps
from torch import Tensor

from lab2pix.data.files import is_lossy, to_label, to_rgb, write_label_png
from lab2pix.data.line_drawings import SKETCH, resize_label
from lab2pix.data.sketches import find_edges
from lab2pix.data.transforms import resize_image, to_pil
from lab2pix.errors import LabelError
from lab2pix.inference import Synthesizer
from lab2pix.web.guard import RefusedError
from lab2pix.web.painter_kinds import KINDS, MAX_EXIF, Kind, check_scans, plain_png, plain_tiff, webp_size

__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "MAX_SIDE",
    "Given",
    "Shown",
    "label_png",
    "open_picture",
    "picture_png",
    "pictures_zip",
    "read_ids",
    "read_layout",
    "to_layout",
]

MAX_BYTES = 8 * 2**20
"""Bytes of a picture that is sent here."""
MAX_PIXELS = 16_000_000
"""Pixels of one, as its header says: of few bytes a decoder can make many."""
MAX_SIDE = 16_384
"""Pixels of a side: resizing makes strips as long as one."""

Given = Literal["file", "ids"]
"""How a label map that comes in is meant: as label files are, or gray values that are canonical ids."""
Shown = Literal["palette", "ids"]
"""How a label map goes out: as a palette PNG such as label files are, or as gray values that are canonical ids."""


def open_picture(body: bytes, kind: str) -> tuple[Image.Image, bool]:
    """Decode a picture, turned as its EXIF data say, and tell whether its file's compression changes pixels.

    Args:
        body: the file.
        kind: its content type, one of `KINDS`; no other decoder is tried, whatever the file says.

    Raises:
        RefusedError: 415, it is of another kind; 413, it has too many pixels; 422, it is cut short or damaged.
    """
    known = KINDS[kind]
    if not known.fits(body):
        raise RefusedError(415, f"The body is no {known.title} picture, though its content type says so")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures, the limit here is lower; of damage, one a tag
            return _decode(_made_safe(body, known), known)
    except RefusedError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_many("far too many") from error
    except Exception as error:  # what decoders raise of damaged files is of every kind there is
        raise RefusedError(422, f"The {known.title} picture is cut short or damaged; save it anew") from error


def _made_safe(body: bytes, kind: Kind) -> bytes:
    """Refuse what a decoder would make too much of as soon as it opens a file, or leave it out."""
    if kind.form == "WEBP":
        _check_size(*webp_size(body))
    if kind.form == "JPEG":
        check_scans(body)
        if body.count(b"Exif\0\0") * 2**16 > MAX_EXIF:  # pieces of 64 KiB are put together
            raise _too_much_exif()
    if kind.form == "PNG":
        return plain_png(body)
    return plain_tiff(body, _check_size) if kind.form == "TIFF" else body


def _decode(body: bytes, kind: Kind) -> tuple[Image.Image, bool]:
    image = Image.open(io.BytesIO(body), formats=(kind.form,))
    _check_size(*image.size)
    image.load()
    if len(image.info.get("exif", b"")) > MAX_EXIF:
        raise _too_much_exif()
    lossy = is_lossy(image, kind.form, io.BytesIO(body))
    ImageOps.exif_transpose(image, in_place=True)
    return image, lossy


def _check_size(width: int, height: int) -> None:
    found = f"{width}x{height}"
    if width * height > MAX_PIXELS:
        raise _too_many(found)
    if max(width, height) > MAX_SIDE:
        raise RefusedError(413, f"The picture has a side of more than {MAX_SIDE} pixels ({found}); make it smaller")
    if min(width, height) < 1:
        raise ValueError("no pixels")


def _too_many(found: str) -> RefusedError:
    return RefusedError(413, f"The picture has more than {MAX_PIXELS} pixels ({found}); make it smaller")


def _too_much_exif() -> RefusedError:
    return RefusedError(413, f"The picture holds more than {MAX_EXIF} bytes of camera data (EXIF); save it without")


def read_ids(image: Image.Image, synthesizer: Synthesizer, given: Given, *, lossy: bool = False) -> Tensor:
    """Return a label map's canonical ids, at its own size: `[H, W]` uint8, as a large one would fill the memory else.

    Args:
        image: the label map.
        synthesizer: whose label space it is in.
        given: how it is meant.
        lossy: the file's compression changes pixels.

    Raises:
        LabelError: ids or colours that the label space does not have.
    """
    if given == "file":
        lines = synthesizer.config.data.sketch.lines
        return to_label(image, synthesizer.label_space, "the label map", lossy=lossy, lines=lines, dtype=torch.uint8)
    if lossy:
        raise LabelError("the label map is compressed with loss, which does not keep ids exact; send ids as PNG")
    ids = _grays(image)
    channels = synthesizer.label_space.num_channels
    if ids.max() >= channels:
        raise LabelError(
            f"the label map holds id {ids.max()}, but label space '{synthesizer.label_space.name}' has 0 to "
            f"{channels - 1}; give ids of that space"
        )
    return torch.from_numpy(ids)


def _grays(image: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return the values of a picture that holds ids: gray, indices, or as browsers write gray, three channels alike."""
    if image.mode in ("L", "P"):
        return np.array(image)
    if image.mode in ("RGB", "RGBA"):
        gray = image.getchannel(0)
        alike = all(ImageChops.difference(gray, image.getchannel(place)).getbbox() is None for place in (1, 2))
        if alike and (image.mode == "RGB" or image.getchannel(3).getextrema() == (255, 255)):
            return np.array(gray)
    raise LabelError("the label map is not gray with 8 bits, as form=ids says; send ids as gray values")


def read_layout(image: Image.Image, synthesizer: Synthesizer, given: Given, *, lossy: bool = False) -> Tensor:
    """Return a label map's canonical ids at the model's size, `[H, W]` int64; takes what `read_ids` does."""
    ids = read_ids(image, synthesizer, given, lossy=lossy)
    return resize_label(ids, synthesizer.size, synthesizer.label_space).long()


def to_layout(image: Image.Image, synthesizer: Synthesizer, given: Given, *, lossy: bool = False) -> Tensor:
    """Return what a person gave to begin with as canonical ids at the model's size.

    Of a model that draws from sketches, whatever is no drawing becomes one along its edges.

    Args:
        image: a label map in any form; for sketches also a photo.
        synthesizer: the model.
        given: how a label map is meant.
        lossy: the file's compression changes pixels.

    Returns:
        `[H, W]` int64.

    Raises:
        LabelError: ids or colours that the label space does not have.
    """
    try:
        return read_layout(image, synthesizer, given, lossy=lossy)
    except LabelError:
        if synthesizer.label_space.name != SKETCH or given == "ids":
            raise
    # Not in that clause, as the error keeps what it was found in; by channel, as all in 32 bits take too much memory.
    photo = torch.cat([resize_image(channel[None], synthesizer.size) for channel in to_rgb(image)])
    return find_edges(photo, synthesizer.config.data.sketch.sigma)


def label_png(ids: Tensor, synthesizer: Synthesizer, shown: Shown) -> bytes:
    """Return canonical ids `[H, W]` as PNG."""
    out = io.BytesIO()
    if shown == "palette":
        write_label_png(out, ids, synthesizer.label_space)
    else:
        Image.fromarray(ids.to(torch.uint8).numpy()).save(out, format="PNG")
    return out.getvalue()


def picture_png(pixels: Tensor) -> bytes:
    """Return `[3, H, W]` uint8 as PNG, byte by byte what `lab2pix generate` writes."""
    out = io.BytesIO()
    to_pil(pixels).save(out, format="PNG")
    return out.getvalue()


def pictures_zip(files: Mapping[str, bytes]) -> bytes:
    """Return files as a ZIP, the same one each time; pictures are not packed any tighter."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()
