"""Convolving a map after enlarging it, computed on what is distinct."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["conv3x3_of_doubled", "conv3x3_of_enlarged"]

# _MERGE[phase][tap on the small map][tap of the kernel]: which of the kernel's three rows (or columns) fall on the
# block before, the same block, or the next one, for a pixel at the first, an inner or the last place of its block.
_MERGE = (
    ((1.0, 0.0, 0.0), (0.0, 1.0, 1.0), (0.0, 0.0, 0.0)),
    ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)),
    ((0.0, 0.0, 0.0), (1.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
)

# The same for blocks of two, where a pixel's neighbours lie in two blocks only: one before and its own, or its own and
# the next.
_MERGE_OF_TWO = (
    ((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)),
    ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
)


def conv3x3_of_enlarged(small: Tensor, weight: Tensor, bias: Tensor | None, factor: int) -> Tensor:
    """Return `relu(conv3x3(enlarge(small)))` without convolving equal pixels again and again.

    After nearest-neighbour enlargement the map is constant on blocks, so a 3x3 convolution (padding 1) has only three
    different results per axis and block: at its first, its inner and its last pixels. They are nine convolutions of
    the small map with merged kernels. At 256x256 from 8x8 this replaces 39 GMACs by 0.4.

    Args:
        small: `[N, C, h, w]`.
        weight: `[O, C, 3, 3]`.
        bias: `[O]` or None.
        factor: how much the map is enlarged per axis, at least 1.

    Returns:
        `[N, O, h·factor, w·factor]`, equal to the plain way but for rounding.
    """
    if factor == 1:
        return F.relu(F.conv2d(small, weight, bias, padding=1))
    merge = torch.tensor(_MERGE, dtype=weight.dtype, device=weight.device)
    if factor == 2:  # blocks of two pixels have no inner ones
        merge = merge[::2]
    phases = merge.shape[0]
    count, out_channels, (height, width) = small.shape[0], weight.shape[0], small.shape[-2:]
    if not (torch.is_grad_enabled() or torch.compiler.is_compiling()):  # all kernels are nine times the weight: in turn
        flat = torch.cat([F.conv2d(small, kernel, bias, padding=1) for kernel in _merged(weight, merge)], 1)
    else:
        merged = _kernels(weight, merge)
        flat = F.conv2d(small, merged.flatten(0, 2), None if bias is None else bias.repeat(phases**2), padding=1)
    distinct = F.relu(flat).view(count, phases, phases, out_channels, height, width)
    # [N, phase y, phase x, O, h, w] -> [N, O, h, phase y, w, phase x], then each inner phase as often as it occurs
    tiles = _spread(_spread(distinct.permute(0, 3, 4, 1, 5, 2), 3, factor), 5, factor)
    return tiles.reshape(count, out_channels, height * factor, width * factor)


def conv3x3_of_doubled(small: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `conv3x3(enlarge(small))` for an enlargement by 2, with four ninths of the work.

    Each pixel's nine neighbours are only four pixels of the small map; which four depends on where in its block of two
    by two it lies. That makes four convolutions of 2x2 kernels.

    Args:
        small: `[N, C, h, w]`.
        weight: `[O, C, 3, 3]`.
        bias: `[O]` or None.

    Returns:
        `[N, O, 2h, 2w]`, equal to the plain way but for rounding.
    """
    count, out_channels, (height, width) = small.shape[0], weight.shape[0], small.shape[-2:]
    merged = _kernels(weight, weight.new_tensor(_MERGE_OF_TWO)).flatten(0, 2)
    corners = F.conv2d(small, merged, None if bias is None else bias.repeat(4), padding=1)  # [N, 4·O, h + 1, w + 1]
    four = corners.view(count, 2, 2, out_channels, height + 1, width + 1)
    rows = [
        torch.stack([four[:, down, across, :, down:, across:][..., :height, :width] for across in range(2)], -1)
        for down in range(2)
    ]
    return torch.stack(rows, -3).view(count, out_channels, 2 * height, 2 * width)


def _kernels(weight: Tensor, merge: Tensor) -> Tensor:
    """Return the kernels of all phases, `[phases, phases, O, C, taps, taps]`, in the weight's own type."""
    with torch.autocast(weight.device.type, enabled=False):
        return torch.einsum("psk,qtl,ockl->pqocst", merge, merge, weight)


def _merged(weight: Tensor, merge: Tensor) -> Iterator[Tensor]:
    """Yield the kernel of each phase, row by row, `[O, C, 3, 3]`."""
    for down in merge:
        rows = torch.einsum("sk,ockl->ocsl", down, weight)
        for across in merge:
            yield torch.einsum("tl,ocsl->ocst", across, rows)


def _spread(tiles: Tensor, axis: int, factor: int) -> Tensor:
    """Repeat the inner phase along an axis so that it holds one entry per pixel of a block."""
    if factor == 2:
        return tiles
    first, inner, last = torch.split(tiles, 1, dim=axis)
    shape = list(inner.shape)
    shape[axis] = factor - 2
    return torch.cat([first, inner.expand(shape), last], dim=axis)
