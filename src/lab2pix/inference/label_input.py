"""Readers of user-supplied label maps and source images: tensors, arrays, Pillow images or files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lab2pix.config.schema import SourceConfig
from lab2pix.data.files import read_image
from lab2pix.data.image_file import ImageFile, to_rgb
from lab2pix.data.label_maps import decode_label, read_instances, read_label
from lab2pix.data.line_drawings import Lines
from lab2pix.data.source_images import read_source, to_source
from lab2pix.data.transforms import resize_image, uint8_to_float
from lab2pix.errors import DataError, LabelError
from lab2pix.labels.space import LabelSpace

LabelSource = Tensor | NDArray[Any] | Image.Image | str | Path
"""A label map: class ids `[H, W]` as tensor or array (axes of size 1 before or after are dropped), colors as a uint8
array `[H, W, 3]`, a Pillow image (ids, palette or colors), or a file; or a source image: a tensor `[C, H, W]`, an array
`[H, W, C]`, a Pillow image or a file."""

InstanceSource = Tensor | NDArray[Any] | str | Path
"""An instance map: ids `[H, W]` as tensor or array, or a file."""

StyleSource = Tensor | NDArray[np.uint8] | Image.Image | str | Path
"""A style image: a tensor `[3, H, W]` (uint8, or float in [-1, 1]), a uint8 array `[H, W, 3]`, a Pillow image or a
file."""


def check_source(label: LabelSource) -> None:
    """Raise DataError unless a label map or source image is of a type that is read, and its file exists."""
    if not isinstance(label, Tensor | np.ndarray | Image.Image | str | Path):
        kind = "None" if label is None else f"of type {type(label).__name__}"
        raise DataError(f"the input is {kind}; give a tensor, an array, a Pillow image or the path of a file")
    if isinstance(label, str | Path) and Path(label).is_dir():
        raise DataError(
            f"{label} is a folder; give one of its files, or generate from all with generate_folder or "
            "`lab2pix generate`"
        )


def read_ids(label: LabelSource, label_space: LabelSpace, lines: Lines) -> Tensor:
    """Read a label map as canonical class ids, `[H, W]` int64 on the CPU.

    Args:
        label: the label map.
        label_space: defines its ids or colors.
        lines: which pixels of a line drawing are lines.

    Raises:
        DataError: unreadable file.
        LabelError: ids or colors that the label space does not define, or not a label map.
    """
    if isinstance(label, str | Path):
        return read_label(Path(label), label_space, lines)
    if isinstance(label, Image.Image):
        return decode_label(ImageFile.of(label), label_space, "the label map", lines=lines).ids
    if isinstance(label, np.ndarray) and label.dtype == np.uint8 and label.ndim == 3 and label.shape[-1] == 3:
        return read_ids(Image.fromarray(label), label_space, lines)
    given = f"{type(label).__name__} of {label.dtype} {list(label.shape)}"
    if isinstance(label, np.ndarray) and label.dtype.kind in "iu":
        label = label.astype(np.int64)  # torch supports few unsigned dtypes
    elif isinstance(label, np.ndarray) and label.dtype.kind not in "bf":
        raise LabelError(f"a label map must be whole numbers [height, width], not {given}; give class ids")
    ids = torch.as_tensor(label)
    while ids.ndim in (3, 4) and 1 in (ids.shape[0], ids.shape[-1]):
        ids = ids.squeeze(0 if ids.shape[0] == 1 else -1)
    if ids.ndim == 3 and ids.shape[0] in (label_space.num_classes, label_space.num_channels):
        raise LabelError(f"the label map is one-hot ({given}); give class ids [height, width]: take argmax(0)")
    if ids.ndim != 2 or ids.is_floating_point() or ids.is_complex():
        raise LabelError(f"a label map must be whole numbers [height, width], not {given}; give class ids")
    if not ids.numel():
        raise LabelError(f"the label map is empty ({list(ids.shape)}); give one of at least one pixel")
    ids = ids.to(device="cpu", dtype=torch.int64)
    wrong = ids[(ids < 0) | (ids >= label_space.num_channels)]
    if wrong.numel():
        raise LabelError(
            f"the label map holds id {int(wrong[0])}, but label space '{label_space.name}' has 0 to "
            f"{label_space.num_channels - 1}; give ids of that space"
        )
    return ids


def read_source_image(image: LabelSource, settings: SourceConfig) -> Tensor:
    """Read a source image as `[C, H, W]` float32 in [-1, 1] on the CPU.

    Raises:
        DataError: unreadable file, wrong number of channels, or values not covered by the settings.
    """
    if isinstance(image, str | Path):
        return read_source(Path(image), settings.channels, settings.range)
    if isinstance(image, Tensor):
        image = (image.movedim(0, -1) if image.ndim == 3 else image).cpu().numpy()
    return to_source(image, settings.channels, settings.range, "the source image")


def read_instance_ids(instances: InstanceSource) -> Tensor:
    """Read an instance map from a tensor, an array or a file, `[H, W]` int64 on the CPU."""
    if isinstance(instances, str | Path):
        return read_instances(Path(instances))
    ids = instances if isinstance(instances, Tensor) else torch.from_numpy(instances.astype(np.int64))
    return ids.cpu().to(torch.int64)


def read_style_image(style: StyleSource, size: tuple[int, int]) -> Tensor:
    """Read a style image at a size, `[3, H, W]` float32 in [-1, 1] on the CPU.

    Args:
        style: the image.
        size: height and width to resize to.

    Raises:
        DataError: unreadable file, or not an RGB image.
    """
    if isinstance(style, str | Path):
        pixels = read_image(Path(style))
    elif isinstance(style, Image.Image):
        pixels = to_rgb(style)
    else:
        pixels = style.cpu() if isinstance(style, Tensor) else torch.tensor(style).movedim(-1, 0)
    if pixels.ndim != 3 or pixels.shape[0] != 3 or not (pixels.dtype == torch.uint8 or pixels.is_floating_point()):
        raise DataError(
            f"a style image must be RGB, [3, height, width] of uint8 or of fractions in [-1, 1], not {pixels.dtype} "
            f"{list(pixels.shape)}; give an RGB image"
        )
    resized = resize_image(pixels, size)
    return uint8_to_float(resized) if resized.dtype == torch.uint8 else resized.float()
