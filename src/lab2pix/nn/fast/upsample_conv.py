"""3x3 convolution after nearest-neighbor upsampling, without computing equal pixels repeatedly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lab2pix.nn.fast.memory_format import is_channels_last, memory_format_of

# [phase][tap on the small map][tap of the kernel]: which of the kernel's three rows (or columns) fall on which pixel of
# the small map, for the first and the second pixel of a block of two.
_MERGE = (
    ((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)),
    ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
)


def upsample_conv3x3_relu(small: Tensor, weight: Tensor, bias: Tensor | None, factor: int) -> Tensor:
    """Return `relu(conv3x3(upsample(small)))` without computing equal pixels repeatedly.

    A nearest-neighbor upsampled map is constant on blocks, so a 3x3 convolution (padding 1) has only three different
    outputs per axis and block: at the first, the inner and the last pixels. Upsampling by three has one of each. At
    256x256 from 8x8 this replaces 39 GMACs by 0.4. `lab2pix.nn.encoders.upsampled_conv` is the plain form.

    Args:
        small: `[N, C, h, w]`.
        weight: `[O, C, 3, 3]`.
        bias: `[O]` or None.
        factor: scale factor per axis, at least 1.

    Returns:
        `[N, O, h·factor, w·factor]`, equal to the plain computation up to rounding.
    """
    least = min(factor, 3)
    upsampled = small if least == 1 else F.interpolate(small, scale_factor=float(least), mode="nearest")
    distinct = F.relu(F.conv2d(upsampled, weight, bias, padding=1))
    if factor == least:
        return distinct
    count, channels, (height, width) = small.shape[0], len(weight), small.shape[-2:]
    if is_channels_last(distinct):
        tiles = distinct.permute(0, 2, 3, 1).view(count, height, 3, width, 3, channels)
        return _expand_tiles(_expand_tiles(tiles, 2, factor), 4, factor).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
    tiles = distinct.view(count, channels, height, 3, width, 3)
    return _expand_tiles(_expand_tiles(tiles, 3, factor), 5, factor).flatten(4, 5).flatten(2, 3)


def upsample2x_conv3x3(small: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `conv3x3(upsample2x(small))` with four ninths of the work.

    The nine neighbors of a pixel are only four pixels of the small map; which four depends on its position in its block
    of two by two. This gives four convolutions with 2x2 kernels.

    Args:
        small: `[N, C, h, w]`.
        weight: `[O, C, 3, 3]`.
        bias: `[O]` or None.

    Returns:
        `[N, O, 2h, 2w]`, equal to the plain computation up to rounding.
    """
    with torch.autocast(weight.device.type, enabled=False):  # taps are merged in their own type
        merged = merge_taps(weight)
    corners = F.conv2d(small, merged, None if bias is None else bias.repeat(4), padding=1)  # [N, 4·O, h + 1, w + 1]
    result: Tensor = _Interleave.apply(corners)
    return result


def merge_taps(weight: Tensor) -> Tensor:
    """Return the four 2x2 kernels `[4·O, C, 2, 2]` that a 3x3 kernel becomes on a map before its upsampling by 2."""
    merge = weight.new_tensor(_MERGE)
    return torch.einsum("psk,qtl,ockl->pqocst", merge, merge, weight).flatten(0, 2)


class _Interleave(torch.autograd.Function):
    """Interleave the four pixels of each block of two by two: `[N, 4·O, h + 1, w + 1]` to `[N, O, 2h, 2w]`.

    Slicing would fill a whole map with zeros for each of the four slices in the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, corners: Tensor) -> Tensor:
        count, channels, height, width = corners.shape
        ctx.size, ctx.memory_format = corners.shape, memory_format_of(corners)
        result = _empty((count, channels // 4, 2 * height - 2, 2 * width - 2), corners, ctx.memory_format)
        for part, pixels in _pairs(corners, result):
            pixels.copy_(part)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        corners = _empty(ctx.size, gradient, ctx.memory_format).zero_()
        for part, pixels in _pairs(corners, gradient):
            part.copy_(pixels)
        return corners


def _empty(size: Sequence[int], like: Tensor, memory_format: torch.memory_format) -> Tensor:
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=memory_format)


def _pairs(corners: Tensor, doubled: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the views of each of a block's four pixels before and after interleaving."""
    height, width = corners.shape[-2] - 1, corners.shape[-1] - 1
    for phase, part in enumerate(corners.chunk(4, 1)):
        down, across = divmod(phase, 2)
        yield part[..., down : down + height, across : across + width], doubled[..., down::2, across::2]


def _expand_tiles(tiles: Tensor, axis: int, factor: int) -> Tensor:
    """Repeat the inner one of three pixels along an axis, so that there are `factor`."""
    first, inner, last = torch.split(tiles, 1, dim=axis)
    shape = list(inner.shape)
    shape[axis] = factor - 2
    return torch.cat([first, inner.expand(shape), last], dim=axis)
