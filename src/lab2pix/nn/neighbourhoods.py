"""Which neighbourhoods a label map has: a convolution of it has no more different results than that.

A label map repeats itself: inside regions, along straight borders. Of the 5x5 neighbourhoods of a street scene at
256x256, seven to thirteen per cent differ; whatever two 3x3 convolutions make of the map need be computed for those
only. This holds what class-adaptive normalisation saves inside regions, and the borders as well, and is exact.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["MOST_PLACES", "neighbourhoods", "places_in_blocks", "symbols_of"]

MOST_PLACES = 2**21 - 2
"""The most pixels, or different symbols, of which three still fit into one int64."""


@cache
def _mixing(channels: int) -> Tensor:
    return torch.rand(channels, generator=torch.Generator().manual_seed(0)) + 1


def symbols_of(condition: Tensor) -> tuple[Tensor, Tensor]:
    """Number the different pixels of a condition.

    Args:
        condition: `[N, C, H, W]`: one-hot classes with or without borders, a sketch, anything.

    Returns:
        The pixels' numbers, `[N, H, W]` int64, and what each number stands for, `[S, C]`.
    """
    count, channels, height, width = condition.shape
    flat = condition.permute(0, 2, 3, 1).reshape(-1, channels)
    # Pixels are told apart by a weighted sum of their channels, which is looked after: it may be equal by chance.
    mixed = torch.einsum("nchw,c->nhw", condition, _mixing(channels).to(condition)).flatten()
    values, numbers = torch.unique(mixed, return_inverse=True)
    where = torch.arange(len(numbers), device=numbers.device)
    columns = flat[torch.empty_like(numbers[: len(values)]).scatter_(0, numbers, where)]
    if not torch.equal(columns[numbers], flat):
        columns, numbers = torch.unique(flat, dim=0, return_inverse=True)
    return numbers.view(count, height, width), columns


def neighbourhoods(symbols: Tensor, kinds: int) -> tuple[Tensor, Tensor]:
    """Number the different 3x3 neighbourhoods of a map of symbols.

    Args:
        symbols: `[N, H, W]` int64, 0 to `kinds` - 1.
        kinds: how many symbols there are; as a symbol it stands for places outside the map.

    Returns:
        The number of every pixel's neighbourhood, `[N, H, W]` int64, and the nine symbols of each, row by row,
        `[U, 9]` int64.
    """
    padded = F.pad(symbols, (1, 1, 1, 1), value=kinds)
    across, rows = _triples(padded, -1, kinds + 1)
    found, numbers = _triples(rows, -2, len(across))
    return numbers, across[found].flatten(1)


def _triples(symbols: Tensor, axis: int, base: int) -> tuple[Tensor, Tensor]:
    """Return the different triples along an axis, `[U, 3]`, and the number of each place's."""
    length = symbols.shape[axis] - 2
    first, middle, last = (symbols.narrow(axis, start, length) for start in range(3))
    values, numbers = torch.unique((first * base + middle) * base + last, return_inverse=True)
    return torch.stack([values // base**2, values // base % base, values % base], 1), numbers


def places_in_blocks(length: int, factor: int, reach: int) -> Tensor:
    """Return where, in a map enlarged by less, the pixels of one enlarged by more find their equals, along one axis.

    After nearest-neighbour enlargement and convolutions that together reach `reach` pixels far, all places of a block
    are equal but its first and last `reach`; a block of `2 * reach + 1` has one of each.

    Args:
        length: blocks along the axis.
        factor: places of a block.
        reach: 2 for two 3x3 convolutions.

    Returns:
        `[length * factor]` int64, 0 to `length * min(factor, 2 * reach + 1)` - 1.
    """
    least = min(factor, 2 * reach + 1)
    place = torch.arange(factor)
    if factor > least:
        place = torch.where(place < reach, place, torch.where(place >= factor - reach, place - factor + least, reach))
    return (torch.arange(length)[:, None] * least + place).flatten()
