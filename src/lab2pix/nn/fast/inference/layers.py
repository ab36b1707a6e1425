"""Layers of fused generators: folded convolutions, and lookup tables for scale and shift.

Features are `[N, h, w, C]` here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.nn.fast import _torch

_TILE_PIXELS = 8192
"""Pixels that are modulated and convolved at once: few enough to stay in the processor's cache."""

_TABLE_CHUNK = 2048
"""Rows of a table that are computed at once."""


def fold_conv(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Return weight `[O, C, h, w]` and bias `[O]` in float64, with spectral norm applied, zeros for no bias."""
    weight = conv.weight.detach().double()
    bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach().double()
    return weight, bias


def batch_norm_affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return scale and shift of a batch norm in evaluation mode, `[C]` each, in float64."""
    assert (
        isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm)
        and norm.running_mean is not None
        and norm.running_var is not None
    )
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.affine:
        factor = factor * norm.weight.detach().double()
    summand = -norm.running_mean.double() * factor
    return factor, summand + norm.bias.detach().double() if norm.affine else summand


class FoldedConv:
    """Convolution in one type, with its weight packed once for oneDNN where possible.

    Args:
        weight: `[O, C, h, w]`.
        bias: `[O]`.
        dtype: type of the computation.
        device: device of the computation.
        stride: of both axes.
        pack: whether to pack the weight; None: where that is possible.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        *,
        dtype: torch.dtype,
        device: torch.device,
        stride: int = 1,
        pack: bool | None = None,
    ) -> None:
        self.dtype, self.stride = dtype, stride
        self.out_channels, self.padding = len(weight), weight.shape[-1] // 2
        self.bias = bias.to(device, dtype)
        self.weight = weight.to(device, dtype).contiguous(memory_format=torch.channels_last)
        self.packed: _torch.PackedConv | None = None
        if device.type == "cpu" and (_torch.can_pack(dtype) if pack is None else pack):
            self.packed = _torch.PackedConv(self.weight, self.bias, stride, self.padding)
            self.weight = self.weight.new_empty(0)

    def conv_nchw(self, x: Tensor, padding: tuple[int, int]) -> Tensor:
        """Map `[N, C, h, w]` to `[N, O, h', w']`, both channels-last."""
        if self.packed is not None:
            return self.packed(x, padding)
        return F.conv2d(x, self.weight, self.bias, self.stride, padding)

    def __call__(self, x: Tensor, padding: tuple[int, int] | None = None) -> Tensor:
        """Map `[N, h, w, C]` of any type to `[N, h', w', O]`; padding defaults to half the kernel."""
        padding = (self.padding, self.padding) if padding is None else padding
        return self.conv_nchw(x.to(self.dtype).permute(0, 3, 1, 2), padding).permute(0, 2, 3, 1).contiguous()

    def conv_patches(self, table: Tensor, taps: Tensor) -> Tensor:
        """Compute a 3x3 convolution of patches as a 1x1 convolution with the weight `[O, 9 * C, 1, 1]`.

        Args:
            table: `[R, C]`, the distinct pixels.
            taps: `[U, 9]`, the rows of the table that each patch consists of.

        Returns:
            `[U, O]`.
        """
        result = table.new_empty(len(taps), self.out_channels)
        for chunk, rows in zip(torch.split(taps, _TABLE_CHUNK), torch.split(result, _TABLE_CHUNK), strict=True):
            gathered = table.index_select(0, chunk.flatten()).view(1, len(chunk), 1, -1)
            rows.copy_(self(gathered, (0, 0)).view(len(chunk), -1))
        return result


@dataclass(frozen=True)
class LookupTable:
    """Values per pixel as a table and an index into it.

    Attributes:
        table: `[R, O]`.
        index: `[N, h, w]` rows; `[N, h, w, 2]` pairs of rows to be added; None: one row per pixel.
        size: N, h, w.
    """

    table: Tensor
    index: Tensor | None
    size: tuple[int, int, int]

    def rows(self, images: slice, low: int, high: int) -> Tensor:
        """Return rows `low` to `high` of some images, `[n, high - low, w, O]`."""
        count, height, width = self.size
        if self.index is None:
            return self.table.view(count, height, width, -1)[images, low:high]
        index = self.index[images, low:high]
        shape = (*index.shape[:3], self.table.shape[1])
        if index.ndim == 3:
            return self.table.index_select(0, index.reshape(-1)).view(shape)
        return F.embedding_bag(index.reshape(-1, 2), self.table, mode="sum").view(shape)

    @property
    def nbytes(self) -> int:
        """Memory of the table; tables share their index."""
        return self.table.nbytes


def row_tiles(count: int, height: int, width: int) -> Iterator[tuple[slice, int, int]]:
    """Yield tiles of about equal size that cover a batch: all images, or some rows of one."""
    if count * height * width <= _TILE_PIXELS:
        yield slice(0, count), 0, height
        return
    parts = min(height, max(1, round(height * width / _TILE_PIXELS)))
    borders = [height * part // parts for part in range(parts + 1)]
    for image in range(count):
        for low, high in pairwise(borders):
            yield slice(image, image + 1), low, high


def upsampled_rows(x: Tensor, factor: int, images: slice, low: int, high: int) -> Tensor:
    """Return rows `low` to `high` of some images of `[N, h, w, C]` after nearest-neighbor upsampling."""
    if factor == 1:
        return x[images, low:high]
    first = low // factor
    part = x[images, first : -(-high // factor)]
    count, height, width, channels = part.shape
    part = part[:, :, None, :, None].expand(count, height, factor, width, factor, channels)
    return part.reshape(count, height * factor, width * factor, channels)[:, low - first * factor :][:, : high - low]


def modulate(x: Tensor, rows: Tensor, slope: float, out: Tensor | None = None) -> Tensor:
    """Return `leaky_relu(x * scale + shift, slope)`, `[n, h, w, C]`; scale and shift are the halves of `rows`."""
    scale, shift = torch.split(rows, x.shape[-1], dim=-1)
    result = torch.addcmul(shift, x, scale) if out is None else torch.addcmul(shift, x, scale, out=out)
    return F.leaky_relu_(result, slope)
