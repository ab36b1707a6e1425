"""Unique patches of a label map.

A convolution of a label map has at most as many distinct outputs as the map has distinct patches, so each is computed
once. Of the 5x5 patches of a street scene at 256x256, 7 to 13 % are distinct, and two 3x3 convolutions depend on
nothing else. Unlike class-adaptive normalization, which is constant inside regions, this is exact at their borders too.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_PIXELS = 2**21 - 2
"""Most pixels, or distinct values, of which three indices fit into one int64."""


@cache
def _projection(channels: int) -> Tensor:
    return torch.rand(channels, generator=torch.Generator().manual_seed(0)) + 1


def unique_pixels(condition: Tensor) -> tuple[Tensor, Tensor]:
    """Find the distinct pixels of a condition.

    Args:
        condition: `[N, C, H, W]`, of any content: one-hot classes with or without borders, a sketch.

    Returns:
        The index of each pixel's value, `[N, H, W]` int64, and the values, `[S, C]`.
    """
    count, channels, height, width = condition.shape
    channels_last = condition.permute(0, 2, 3, 1).reshape(-1, channels)
    # Compares random projections of the channels, which is fast, and falls back to the channels in case of a collision.
    projected = torch.einsum("nchw,c->nhw", condition, _projection(channels).to(condition)).flatten()
    values, index = torch.unique(projected, return_inverse=True)
    position = torch.arange(len(index), device=index.device)
    pixels = channels_last[torch.empty_like(index[: len(values)]).scatter_(0, index, position)]
    if not torch.equal(pixels[index], channels_last):
        pixels, index = torch.unique(channels_last, dim=0, return_inverse=True)
    return index.view(count, height, width), pixels


def unique_patches3x3(symbols: Tensor, kinds: int) -> tuple[Tensor, Tensor]:
    """Find the distinct 3x3 patches of a map of symbols.

    Args:
        symbols: `[N, H, W]` int64, 0 to `kinds` - 1.
        kinds: number of symbols; itself the symbol of the padding.

    Returns:
        The index of the patch around each pixel, `[N, H, W]` int64, and the patches, nine symbols each row by row,
        `[U, 9]` int64.
    """
    padded = F.pad(symbols, (1, 1, 1, 1), value=kinds)
    across, rows = _triples(padded, -1, kinds + 1)
    found, index = _triples(rows, -2, len(across))
    return index, across[found].flatten(1)


def _triples(symbols: Tensor, axis: int, base: int) -> tuple[Tensor, Tensor]:
    """Return the distinct triples along an axis, `[U, 3]`, and the index of each position's."""
    length = symbols.shape[axis] - 2
    first, middle, last = (symbols.narrow(axis, start, length) for start in range(3))
    values, index = torch.unique((first * base + middle) * base + last, return_inverse=True)
    return torch.stack([values // base**2, values // base % base, values % base], 1), index


def upsampled_index(length: int, factor: int, reach: int) -> Tensor:
    """Return where the pixels of a strongly upsampled map have their equals in a map upsampled by less, along one axis.

    After nearest-neighbor upsampling and convolutions with a receptive field of `2 * reach + 1`, all pixels of a block
    are equal except the first and last `reach`; a block of `2 * reach + 1` pixels has one of each.

    Args:
        length: blocks along the axis.
        factor: pixels of a block.
        reach: 2 for two 3x3 convolutions.

    Returns:
        `[length * factor]` int64, 0 to `length * min(factor, 2 * reach + 1)` - 1.
    """
    least = min(factor, 2 * reach + 1)
    pixel = torch.arange(factor)
    if factor > least:
        pixel = torch.where(pixel < reach, pixel, torch.where(pixel >= factor - reach, pixel - factor + least, reach))
    return (torch.arange(length)[:, None] * least + pixel).flatten()
