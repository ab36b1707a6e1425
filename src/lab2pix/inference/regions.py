"""Regions of an image with noise or style of their own.

The whole image is generated once for each pair of seed and style, and each pixel is taken from the image of its pair.
So a region changes no pixel outside its mask by a bit, whether the noise is a vector, a map or seeded dropout, and
whatever global features and norms the generator has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import index
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lab2pix.batch import Batch
from lab2pix.data.transforms import resize_nearest
from lab2pix.errors import ConfigError, DataError, LabelError, did_you_mean
from lab2pix.inference.label_input import StyleSource
from lab2pix.methods import Condition, Sampling
from lab2pix.utils.extras import import_extra

SeedSource = int | Mapping[str | None, int] | Tensor | NDArray[Any]
"""Seed of the noise; or seeds by class name, with that of all other classes under None (default 0); or a map of seeds
`[H, W]` of the label map's size."""

RegionStyle = StyleSource | Mapping[str | None, StyleSource]
"""Style image; or style images by class name, with that of all other classes under None."""

Value = TypeVar("Value")


class Region(NamedTuple):
    """Pixels of an image with the same seed and style.

    Attributes:
        seed: seed of the noise.
        style: style image, or None.
        mask: `[H, W]` bool.
    """

    seed: int
    style: StyleSource | None
    mask: Tensor


def split_regions(
    seed: SeedSource, style: RegionStyle | None, sampling: Sampling, batch: Batch, input_size: tuple[int, int]
) -> Iterator[Region]:
    """Yield the regions of an image; together they cover it.

    Args:
        seed: seed or seeds.
        style: style image or images.
        sampling: sampling of the generator.
        batch: batch of one.
        input_size: height and width of the label map before it was resized.

    Raises:
        ConfigError: seeds for a generator without noise, or classes for one that takes images.
        DataError: a map of seeds of another size than the label map, or without whole numbers.
        LabelError: a name that no class has.
    """
    everywhere = torch.zeros(batch.size, dtype=torch.int64)
    seeds, styles, places = everywhere, [None if isinstance(style, Mapping) else style], everywhere
    if isinstance(seed, Mapping | Tensor | np.ndarray) and not sampling.noise_channels:
        raise ConfigError("this generator takes no noise, so a region has no seed of its own; give one number")
    if isinstance(seed, Mapping):
        numbers = {name: _whole(one) for name, one in seed.items()}
        seeds = torch.tensor(_by_class(numbers, 0, sampling.condition))[batch.label[0]]
    elif isinstance(seed, Tensor | np.ndarray):
        seeds = _read_seeds(seed, input_size, batch.size)
    else:
        seeds = everywhere + _whole(seed)
    if isinstance(style, Mapping):
        styles = _by_class(style, None, sampling.condition)
        keys = [id(one) for one in styles]  # classes without a style image of their own share one
        places = torch.tensor([keys.index(key) for key in keys])[batch.label[0]]
    for number in torch.unique(seeds).tolist():
        for place in torch.unique(places).tolist():
            mask = (seeds == number) & (places == place)
            if mask.any():
                yield Region(number, styles[place], mask)


def _whole(seed: Any) -> int:
    try:
        return index(seed)
    except TypeError as error:
        raise ConfigError(
            f"seed is {seed!r}, which is not a whole number; give one such as 3, seeds by class name, or a map of "
            "seeds [height, width]"
        ) from error


def _by_class(values: Mapping[str | None, Value], rest: Value, condition: Condition) -> list[Value]:
    """Return the value of each class id."""
    space = condition.label_space
    if condition.source == "images":
        raise ConfigError("this generator takes images, which have no classes; give a map of seeds [height, width]")
    names = [*space.names, "unknown"][: space.num_channels]
    for name in values:
        if name is not None and name not in names:
            raise LabelError(f"label space '{space.name}' has no class '{name}'{did_you_mean(str(name), names)}")
    return [values.get(name, values.get(None, rest)) for name in names]


def _read_seeds(seeds: Tensor | NDArray[Any], input_size: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Return a map of seeds at the size of the image, `[H, W]` int64."""
    array = np.asarray(seeds)
    if array.dtype.kind not in "iu" or array.shape != input_size:
        raise DataError(
            f"a map of seeds must be whole numbers of the label map's size {input_size} (height, width), not "
            f"{array.dtype} {array.shape}; give one seed per pixel"
        )
    return resize_nearest(torch.from_numpy(array.astype(np.int64)), size)


def paste(images: list[Tensor], new: list[Tensor], mask: Tensor) -> list[Tensor]:
    """Return images `[3, H, W]` with the pixels of new ones inside a mask; the new ones if there are none yet."""
    inside = mask.to(new[0].device)
    return [torch.where(inside, *pair) for pair in zip(new, images, strict=True)] if images else new


def connected_area(ids: Tensor, row: int, column: int) -> Tensor:
    """Return the mask of the 4-connected area of one class around a pixel, `[H, W]` bool.

    Args:
        ids: `[H, W]` class ids.
        row: row of the pixel.
        column: column of the pixel.

    Raises:
        ConfigError: the extra `web` is not installed.
    """
    image = import_extra("scipy.ndimage", "web", "finding connected areas")
    areas = torch.from_numpy(image.label((ids == ids[row, column]).numpy())[0])
    return areas == areas[row, column]
