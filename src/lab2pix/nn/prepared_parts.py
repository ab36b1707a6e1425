"""What prepared generators are made of: folded convolutions, and norms whose scale and shift are looked up.

Features lie as `[N, h, w, C]` here: the channels of a pixel beside each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["FoldedConv", "Lookup", "batch_norm_line", "enlarged_rows", "folded", "modulate", "strips"]

_STRIP = 8192
"""Pixels that are modulated and convolved at once: few enough that they are still in the processor's cache."""

_CHUNK = 2048
"""Rows of a table that are computed at once."""


def folded(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Return weight `[O, C, h, w]` and bias `[O]` in float64, spectral norm divided out, zeros for no bias."""
    weight = conv.weight.detach().double()
    bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach().double()
    return weight, bias


def batch_norm_line(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return factor and summand of a batch norm in evaluation mode, `[C]` each, in float64."""
    assert isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.affine:
        factor = factor * norm.weight.detach().double()
    summand = -norm.running_mean.double() * factor
    return factor, summand + norm.bias.detach().double() if norm.affine else summand


@cache
def _packs(dtype: torch.dtype) -> bool:
    """Say whether this torch lays weights out once as oneDNN wants them, instead of at every call."""
    try:
        x, weight = torch.ones(1, 16, 4, 4, dtype=dtype), torch.ones(16, 16, 3, 3, dtype=dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        conv = FoldedConv(weight.double(), torch.zeros(16).double(), dtype=dtype, device=x.device, pack=True)
        return bool(torch.equal(conv.of_channels(x, (1, 1)), F.conv2d(x, weight, padding=1)))
    except (AttributeError, RuntimeError, TypeError):
        return False


class FoldedConv:
    """A convolution in one type, its weight laid out once for good.

    Args:
        weight: `[O, C, h, w]`.
        bias: `[O]`.
        dtype: what it computes in.
        device: where.
        stride: of both axes.
        pack: lay the weight out as oneDNN wants it; None: where that is possible.
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
        self.dtype = dtype
        self.out_channels, self.padding, self.reach = len(weight), weight.shape[-1] // 2, weight[0, 0].numel()
        self.stride = [stride, stride]
        self.bias = bias.to(device, dtype)
        self.weight: Any = weight.to(device, dtype).contiguous(memory_format=torch.channels_last)
        self.packed = device.type == "cpu" and (_packs(dtype) if pack is None else pack)
        if self.packed:
            size = [1, weight.shape[1], 32, 32]  # a hint
            reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
            self.weight = reorder(self.weight.to_mkldnn(), [self.padding] * 2, self.stride, [1, 1], 1, size)

    def of_channels(self, x: Tensor, padding: tuple[int, int]) -> Tensor:
        """Map `[N, C, h, w]` to `[N, O, h', w']`, both channels-last in memory."""
        if self.packed:
            result: Tensor = torch.ops.mkldnn._convolution_pointwise(
                x, self.weight, self.bias, list(padding), self.stride, [1, 1], 1, "none", [], ""
            )
            return result
        return F.conv2d(x, self.weight, self.bias, self.stride, padding)

    def __call__(self, x: Tensor, padding: tuple[int, int] | None = None) -> Tensor:
        """Map `[N, h, w, C]` of any type to `[N, h', w', O]`; padding of height and width, else as keeps the size."""
        padding = (self.padding, self.padding) if padding is None else padding
        return self.of_channels(x.to(self.dtype).permute(0, 3, 1, 2), padding).permute(0, 2, 3, 1).contiguous()

    def of_taps(self, table: Tensor, taps: Tensor) -> Tensor:
        """Compute a 3x3 convolution where the nine neighbours are known, by a weight `[O, 9 * C, 1, 1]`.

        Args:
            table: `[R, C]`, what a neighbour may be.
            taps: `[U, 9]`, rows of the table.

        Returns:
            `[U, O]`.
        """
        result = table.new_empty(len(taps), self.out_channels)
        for chunk, rows in zip(torch.split(taps, _CHUNK), torch.split(result, _CHUNK), strict=True):
            gathered = table.index_select(0, chunk.flatten()).view(1, len(chunk), 1, -1)
            rows.copy_(self(gathered, (0, 0)).view(len(chunk), -1))
        return result


@dataclass(frozen=True)
class Lookup:
    """Values per pixel as a table, and where each pixel finds its own.

    Attributes:
        table: `[R, O]`.
        index: `[N, h, w]` rows; `[N, h, w, 2]` pairs of rows to be added; None: the rows are the pixels.
        size: N, h, w.
    """

    table: Tensor
    index: Tensor | None
    size: tuple[int, int, int]

    def rows(self, images: slice, low: int, high: int) -> Tensor:
        """Return `[n, high - low, w, O]` of some images' rows."""
        count, height, width = self.size
        if self.index is None:
            return self.table.view(count, height, width, -1)[images, low:high]
        index = self.index[images, low:high]
        shape = (*index.shape[:3], self.table.shape[1])
        if index.ndim == 3:
            return self.table.index_select(0, index.reshape(-1)).view(shape)
        return F.embedding_bag(index.reshape(-1, 2), self.table, mode="sum").view(shape)

    def all(self) -> Tensor:
        """Return `[N, h, w, O]`."""
        return self.rows(slice(None), 0, self.size[1])

    @property
    def nbytes(self) -> int:
        """Memory of the table; the index is shared with others."""
        return self.table.nbytes


def strips(count: int, height: int, width: int) -> Iterator[tuple[slice, int, int]]:
    """Cut a batch into parts of about equal size: all images, or some rows of one."""
    if count * height * width <= _STRIP:
        yield slice(0, count), 0, height
        return
    parts = min(height, max(1, round(height * width / _STRIP)))
    borders = [height * part // parts for part in range(parts + 1)]
    for image in range(count):
        for low, high in pairwise(borders):
            yield slice(image, image + 1), low, high


def enlarged_rows(x: Tensor, factor: int, images: slice, low: int, high: int) -> Tensor:
    """Return rows of what nearest-neighbour enlargement would make of `[N, h, w, C]`."""
    if factor == 1:
        return x[images, low:high]
    first = low // factor
    part = x[images, first : -(-high // factor)]
    count, height, width, channels = part.shape
    part = part[:, :, None, :, None].expand(count, height, factor, width, factor, channels)
    return part.reshape(count, height * factor, width * factor, channels)[:, low - first * factor :][:, : high - low]


def modulate(x: Tensor, rows: Tensor, slope: float, out: Tensor | None = None) -> Tensor:
    """Return `leaky_relu(x * scale + shift, slope)` of `[n, h, w, C]`; scale and shift are the halves of `rows`."""
    scale, shift = torch.split(rows, x.shape[-1], dim=-1)
    result = torch.addcmul(shift, x, scale) if out is None else torch.addcmul(shift, x, scale, out=out)
    return F.leaky_relu_(result, slope)
