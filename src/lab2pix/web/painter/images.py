"""Decoding and encoding of images and label maps, with limits that are checked before decoding."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageChops, ImageOps
from torch import Tensor

from lab2pix.data.image_file import ImageFile, bits_per_channel, require_one_page, to_rgb, white_level
from lab2pix.data.label_maps import decode_label, write_label_png
from lab2pix.data.line_drawings import SKETCH, resize_label
from lab2pix.data.sketches import find_edges
from lab2pix.data.transforms import resize_image, to_pil
from lab2pix.errors import ConfigError, DataError, LabelError
from lab2pix.inference import Synthesizer
from lab2pix.labels.space import LabelSpace
from lab2pix.web.painter.formats import FORMATS, MAX_EXIF, check_jpeg, strip_png
from lab2pix.web.responses import HTTPError

MAX_BYTES = 8 * 2**20
"""Bytes of an uploaded image."""
MAX_PIXELS = 16_000_000
"""Pixels of an uploaded image, as its header says."""
MAX_SIDE = 16_384
"""Pixels of a side; resizing needs memory in proportion to it."""

PHOTO_HEADER = {"x-lab2pix-content": "photo"}
"""Header of the response to a photo where a label map is expected."""
_PHOTO = "This looks like a photo, not a label map; trace it in the painter, or send a PNG of class ids or colors"
_PROBE = 256
"""Pixels along the shorter side that are looked at, to tell photos."""
_PHOTO_COLORS = 64
"""Least colors of a photo."""
_FLAT = 4
"""Largest difference of a flat pixel to its neighbors."""
_FLAT_COLORS = 16
"""Least colors of a photo's flat pixels."""
_FLAT_SHARE = 0.25
"""Share of flat pixels below which an image is textured."""

_SEGMENTED_SIDE = 256
"""Photos for a smaller model are segmented at the multiple of its size whose longer side is at most this."""

InputFormat = Literal["file", "ids"]
"""Encoding of an uploaded label map: that of label files, or gray values that are canonical ids."""
OutputFormat = Literal["palette", "ids"]
"""Encoding of a returned label map: a palette PNG as in label files, or gray values that are canonical ids."""


def decode_image(body: bytes, media_type: str) -> ImageFile:
    """Decode an image and apply its EXIF orientation.

    Args:
        body: the file.
        media_type: a key of `FORMATS`; no other decoder is tried, whatever the file contains.

    Raises:
        DataError: it has several frames.
        HTTPError: 415, another format; 413, too large; 422, truncated or damaged.
    """
    name, signature = FORMATS[media_type].name, FORMATS[media_type].signature
    if not body.startswith(signature):
        raise HTTPError(415, f"The body is not a {name} image, although its content type says so")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large images, where the limit here is lower, and of damaged tags
            if name == "PNG":
                body = strip_png(body)
            else:
                check_jpeg(body)
            image = Image.open(io.BytesIO(body), formats=(name,))
            _check_size(*image.size)
            require_one_page(image, "the image")
            bits, white = bits_per_channel(image), white_level(image)
            image.load()
            if len(image.info.get("exif", b"")) > MAX_EXIF:
                raise HTTPError(413, f"The image has more than {MAX_EXIF} bytes of EXIF data; save it without")
            ImageOps.exif_transpose(image, in_place=True)
            return ImageFile(image, name, bits, name == "JPEG", source=io.BytesIO(body), white=white)
    except (HTTPError, DataError):
        raise
    except Image.DecompressionBombError as error:
        raise HTTPError(413, f"The image has more than {MAX_PIXELS} pixels; make it smaller") from error
    except Exception as error:  # decoders raise exceptions of every type for damaged files
        raise HTTPError(422, f"The {name} image is truncated or damaged; save it again") from error


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise HTTPError(
            413, f"The image has more than {MAX_PIXELS} pixels ({height}x{width}, height x width); make it smaller"
        )
    if max(width, height) > MAX_SIDE:
        raise HTTPError(
            413,
            f"A side of the image has more than {MAX_SIDE} pixels ({height}x{width}, height x width); make it smaller",
        )
    if min(width, height) < 1:
        raise ValueError("no pixels")


def read_label_map(file: ImageFile, synthesizer: Synthesizer, encoding: InputFormat) -> Tensor:
    """Return the canonical ids of a label map at the model's size.

    Args:
        file: the label map.
        synthesizer: the model.
        encoding: encoding of the label map.

    Returns:
        `[H, W]` int64.

    Raises:
        HTTPError: 400, it is a photo.
        LabelError: the label map has ids or colors that the label space does not have.
    """
    space = synthesizer.label_space
    if encoding == "file":
        lines = synthesizer.config.data.sketch.lines
        # As uint8 until it is resized: int64 ids of a large image would fill the memory.
        try:
            ids = decode_label(file, space, "the label map", lines=lines, dtype=torch.uint8).ids
        except LabelError as error:
            if space.name == SKETCH or not is_photo(file.image):
                raise
            raise HTTPError(400, _PHOTO, PHOTO_HEADER) from error
    else:
        ids = read_ids(file, space)
    return resize_label(ids, synthesizer.size, space).long()


def read_ids(file: ImageFile, space: LabelSpace) -> Tensor:
    """Return the canonical ids of a file whose gray values they are, `[H, W]` uint8.

    Raises:
        LabelError: the file is lossy or not gray, or has ids that the label space does not have.
    """
    if file.lossy:
        raise LabelError("the label map is compressed with loss, which does not keep ids exact; send ids as PNG")
    ids = torch.from_numpy(_gray_values(file))
    if (largest := int(ids.max())) >= space.num_channels:
        raise LabelError(
            f"the label map holds id {largest}, but label space '{space.name}' has 0 to {space.num_channels - 1}; "
            "send ids of that space"
        )
    return ids


def require_8_bits(space: LabelSpace) -> None:
    """Check that the page's label maps, which have 8 bits, hold all classes.

    Raises:
        ConfigError: there are too many.
    """
    if space.num_channels > 256:
        raise ConfigError(
            f"label space '{space.name}' has {space.num_channels} classes, but the painter's label maps hold 256; "
            "use `lab2pix generate` instead"
        )


def is_photo(image: Image.Image) -> bool:
    """Return whether an image has many colors also in its flat parts, as photos do.

    A label map has few colors there, even with compression artifacts or smoothed borders.
    """
    step = max(1, min(image.size) // _PROBE)
    pixels = np.asarray(image.convert("RGB"))
    here = pixels[:-1:step, :-1:step].astype(np.int16)
    right, below = pixels[:-1:step, 1::step], pixels[1::step, :-1:step]
    apart = np.maximum(np.abs(right - here).max(-1), np.abs(below - here).max(-1))
    flat = here[apart <= _FLAT]
    textured = len(flat) < _FLAT_SHARE * apart.size
    return _count_colors(here.reshape(-1, 3)) >= _PHOTO_COLORS and (textured or _count_colors(flat) >= _FLAT_COLORS)


def _count_colors(pixels: np.ndarray[tuple[int, ...], np.dtype[np.int16]]) -> int:
    """Return how many colors, of 32 levels per channel or 256 grays, nine tenths of the pixels `[N, 3]` have."""
    red, green, blue = np.moveaxis(pixels.astype(np.int64), -1, 0)
    is_gray = bool((red == green).all() and (red == blue).all())
    colors = red if is_gray else (red >> 3 << 10) | (green >> 3 << 5) | blue >> 3
    counts = np.sort(np.bincount(colors))[::-1]
    return int((np.cumsum(counts) < 0.9 * len(colors)).sum())


def _gray_values(file: ImageFile) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return gray values or palette indices; browsers write gray as three equal channels and opaque alpha."""
    image = file.image
    if image.mode in ("L", "P"):
        return file.stored()
    if image.mode in ("RGB", "RGBA") and file.bits == 8:
        gray = image.getchannel(0)
        equal = all(ImageChops.difference(gray, image.getchannel(index)).getbbox() is None for index in (1, 2))
        if equal and (image.mode == "RGB" or image.getchannel(3).getextrema() == (255, 255)):
            return np.array(gray)
    raise LabelError("the label map is not gray with 8 bits, as input_format=ids requires; send ids as gray values")


def to_label_map(
    file: ImageFile, synthesizer: Synthesizer, encoding: InputFormat, segment: Callable[[Tensor], Tensor] | None
) -> Tensor:
    """Return a label map as `read_label_map` does; turn a photo into its edges for a sketch model, else its layout.

    Args:
        file: a label map or a photo.
        synthesizer: the model.
        encoding: encoding of the label map.
        segment: returns the ids `[H, W]` of a photo `[3, H, W]` uint8; None: photos are refused.

    Returns:
        `[H, W]` int64.

    Raises:
        HTTPError: 400, it is a photo, and nothing segments it.
        LabelError: the label map has ids or colors that the label space does not have.
    """
    try:
        return read_label_map(file, synthesizer, encoding)
    except LabelError:
        if synthesizer.label_space.name != SKETCH or encoding == "ids":
            raise
    except HTTPError as error:
        if error.headers != PHOTO_HEADER or segment is None:
            raise
    # Outside the except clause, because the error's traceback keeps the label map alive.
    if segment is None:
        return find_edges(read_photo(file, synthesizer.size), synthesizer.config.data.sketch.sigma)
    factor = max(1, _SEGMENTED_SIDE // max(synthesizer.size))
    height, width = (factor * side for side in synthesizer.size)
    ids = segment(read_photo(file, (height, width), crop=True))
    return resize_label(ids, synthesizer.size, synthesizer.label_space)


def read_photo(file: ImageFile, size: tuple[int, int], *, crop: bool = False) -> Tensor:
    """Return a photo at a size, `[3, H, W]` uint8; with `crop` its middle in the proportions of that size."""
    pixels = to_rgb(file.image)
    if crop:
        height, width = pixels.shape[1:]
        rows = min(height, max(1, round(width * size[0] / size[1])))
        columns = min(width, max(1, round(height * size[1] / size[0])))
        top, left = (height - rows) // 2, (width - columns) // 2
        pixels = pixels[:, top : top + rows, left : left + columns]
    # One channel at a time, because three in float32 take too much memory.
    return torch.cat([resize_image(channel[None], size) for channel in pixels])


def encode_label_map(ids: Tensor, label_space: LabelSpace, encoding: OutputFormat) -> bytes:
    """Encode canonical ids `[H, W]` as PNG."""
    out = io.BytesIO()
    if encoding == "palette":
        write_label_png(out, ids, label_space)
    else:
        Image.fromarray(ids.to(torch.uint8).numpy()).save(out, format="PNG")
    return out.getvalue()


def encode_png(pixels: Tensor) -> bytes:
    """Encode `[3, H, W]` uint8 as PNG, byte for byte as `lab2pix generate` does."""
    out = io.BytesIO()
    to_pil(pixels).save(out, format="PNG")
    return out.getvalue()


def encode_zip(files: Mapping[str, bytes]) -> bytes:
    """Encode files as an uncompressed ZIP without time stamps, so that equal files give equal bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()
