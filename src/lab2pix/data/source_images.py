"""Readers of source images for image-to-image translation: any number of channels; 8-bit, 16-bit or float."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lab2pix.data.files import ARRAY_SUFFIX
from lab2pix.data.image_errors import Source, source_name
from lab2pix.data.image_file import open_image, to_rgb
from lab2pix.data.transforms import to_luma
from lab2pix.errors import DataError


def read_source(file: Source, channels: int | None, value_range: tuple[float, float] | None) -> Tensor:
    """Read a source image: any image file with all of its bits, or `.npy` of shape `[H, W(, C)]`.

    Args:
        file: the file, by path or opened.
        channels: number of channels C; RGB is converted to gray, or gray to RGB, if needed. For C of 1 or 3, alpha is
            dropped. None: as in the file.
        value_range: file values that become -1 and 1; None: the full range of 8 or 16 bits, 0 to 1 for float.

    Returns:
        `[C, H, W]` float32 in [-1, 1].

    Raises:
        DataError: the file is missing, damaged or not an image, or channels or values do not match.
    """
    name = source_name(file)
    if name.lower().endswith(ARRAY_SUFFIX):
        try:
            values = np.load(file, allow_pickle=False)
        except FileNotFoundError as error:
            raise DataError(f"{name} is missing; put it back, or remove its partner") from error
        except PermissionError as error:
            raise DataError(f"{name} cannot be read ({error.strerror}); change its permissions") from error
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{name} is not a NumPy array, or is damaged; replace or remove it") from error
        return to_source(values, channels, value_range, name)
    opened = open_image(file)
    if opened.white is not None and opened.white > 255 and opened.image.mode == "RGB":
        raise DataError(f"{name} has colors of 0 to {opened.white}, of which 8 bits are read; save it as PNG")
    if opened.signed and (value_range is None or opened.bits == 8):
        cure = "set data.source.range" if opened.bits > 8 else "save it with 8 bits without sign, or as .npy"
        raise DataError(f"{name} holds signed whole numbers of {opened.bits} bits, whose range is unknown; {cure}")
    if value_range is None and 8 < opened.bits < 16:
        value_range = (0.0, float(2**opened.bits - 1))
    return to_source(opened.image if opened.wide is None else opened.wide, channels, value_range, name)


def to_source(
    image: Image.Image | NDArray[Any], channels: int | None, value_range: tuple[float, float] | None, where: str
) -> Tensor:
    """Convert an opened image or an array `[H, W(, C)]` to `[C, H, W]` float32 in [-1, 1]; see `read_source`.

    Raises:
        DataError: channels or values do not match, or the dtype is not supported.
    """
    values = _pixels(image) if isinstance(image, Image.Image) else np.asarray(image)
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or not values.size:
        raise DataError(f"{where} has shape {list(values.shape)}; an image is [height, width, channels]")
    low, high = value_range or _full_range(values, where)
    pixels = torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1), dtype=np.float32))
    scaled = (pixels - low) * (2 / (high - low)) - 1
    if not bool((scaled.abs() <= 1 + 1e-5).all()):
        raise DataError(
            f"{where} holds values from {float(values.min()):g} to {float(values.max()):g}, outside of {low:g} to "
            f"{high:g}; set data.source.range to the values that mean -1 and 1"
        )
    return _with_channels(scaled.clamp_(-1, 1), channels, where)


def _full_range(values: NDArray[Any], where: str) -> tuple[float, float]:
    if values.dtype.kind == "f":
        return 0.0, 1.0
    if values.dtype in (np.uint8, np.uint16):
        return 0.0, float(np.iinfo(values.dtype).max)
    raise DataError(f"{where} holds {values.dtype}, whose range is unknown; set data.source.range")


def _with_channels(image: Tensor, channels: int | None, where: str) -> Tensor:
    found = image.shape[0]
    if channels is None:
        return image.contiguous()
    if found in (2, 4) and channels in (1, 3):
        image, found = image[:-1], found - 1  # alpha
    if found == channels:
        return image.contiguous()
    if found == 1 and channels == 3:
        return image.expand(3, -1, -1).contiguous()
    if found == 3 and channels == 1:
        return to_luma(image)[None]
    raise DataError(f"{where} has {found} channels, but data.source.channels is {channels}; set that, or convert it")


def _pixels(image: Image.Image) -> NDArray[Any]:
    """Return the pixels of an image, `[H, W(, C)]`; palette, CMYK and similar modes as RGB."""
    if image.mode in ("L", "LA", "RGB", "RGBA", "F"):
        return np.array(image)
    if image.mode.startswith("I"):
        values = np.array(image)
        fits = values.size and values.min() >= 0 and values.max() <= 65535
        return values.astype(np.uint16) if fits else values
    if image.mode == "1":
        return np.array(image.convert("L"))
    return to_rgb(image).permute(1, 2, 0).numpy()
