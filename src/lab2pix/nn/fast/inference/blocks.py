"""Fused residual blocks and co-attention for inference; features are `[N, h, w, C]`."""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.nn.attention import LSCA
from lab2pix.nn.blocks import SLOPE, GenResBlk
from lab2pix.nn.encoders import upsample_bilinear
from lab2pix.nn.fast.inference.layers import (
    FoldedConv,
    LookupTable,
    batch_norm_affine,
    fold_conv,
    modulate,
    row_tiles,
    upsampled_rows,
)
from lab2pix.nn.fast.inference.patches import MAX_PIXELS, unique_patches3x3, upsampled_index
from lab2pix.nn.fast.upsample_conv import merge_taps, upsample_conv3x3_relu
from lab2pix.nn.normalization import SPADE, DGNorm

_MAX_DISTINCT = 0.75
"""Largest share of distinct patches for which a lookup table is faster than a dense convolution."""
_REACH = 2
"""Receptive field of two 3x3 convolutions: this many pixels in each direction."""


class ScaledLabelMap:
    """Label map at one scale, with everything that norms and co-attention need of it.

    Args:
        symbols: index of each pixel's value, `[N, h, w]` int64.
        pixels: the distinct values, `[S, C]`, in the type of the computation.
        encoded: output of the global encoder's strided convolutions, `[N, C, h0, w0]`, if there is one.
        conv: weight and bias of the global encoder's convolution for this scale.

    Attributes:
        bilinear: whether the global feature is upsampled by bilinear interpolation, so that its values differ.
    """

    def __init__(
        self,
        symbols: Tensor,
        pixels: Tensor,
        encoded: Tensor | None = None,
        conv: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.symbols, self.pixels, self.encoded, self.conv = symbols, pixels, encoded, conv
        count, height, width = symbols.shape
        self.size = (count, height, width)
        self.num_pixels = count * height * width
        self.bilinear = False

    @cached_property
    def patches3x3(self) -> tuple[Tensor, Tensor]:
        """The distinct 3x3 patches, as `unique_patches3x3` returns them."""
        return unique_patches3x3(self.symbols, len(self.pixels))

    @cached_property
    def patches5x5(self) -> tuple[Tensor, Tensor]:
        """The distinct 5x5 patches, as 3x3 patches of 3x3 patches."""
        return unique_patches3x3(self.patches3x3[0], len(self.patches3x3[1]))

    @cached_property
    def one_hot(self) -> Tensor:
        """The condition itself, `[N, h, w, C]`."""
        return self.pixels[self.symbols]

    @property
    def is_sparse_3x3(self) -> bool:
        """Whether a table of 3x3 patches is faster than a dense convolution."""
        if self.num_pixels >= MAX_PIXELS or 9 * len(self.pixels) > self.num_pixels:
            return False
        return len(self.patches3x3[1]) <= _MAX_DISTINCT * self.num_pixels

    def is_sparse_5x5(self, more_rows: int = 0) -> bool:
        """Return whether a table of 5x5 patches, and of some more rows, is faster than dense convolutions."""
        return self.is_sparse_3x3 and len(self.patches5x5[1]) + more_rows <= _MAX_DISTINCT * self.num_pixels

    @property
    def global_factor(self) -> int:
        """Smallest upsampling of the global encoder's output that has all distinct values of this scale."""
        assert self.encoded is not None
        return min(self.size[1] // self.encoded.shape[-2], 2 * _REACH + 1)

    def _global_feature(self, factor: int) -> Tensor:
        assert self.encoded is not None and self.conv is not None
        return upsample_conv3x3_relu(self.encoded, *self.conv, factor).permute(0, 2, 3, 1).contiguous()

    @cached_property
    def short_global(self) -> Tensor:
        """The distinct values of the global feature, `[N, h', w', hidden]`."""
        return self._global_feature(self.global_factor)

    @cached_property
    def full_global(self) -> Tensor:
        """The global feature of every pixel, `[N, h, w, hidden]`."""
        assert self.encoded is not None and self.conv is not None
        factor = self.size[1] // self.encoded.shape[-2]
        if self.bilinear:
            feature = F.relu_(F.conv2d(self.encoded, *self.conv, padding=1))
            return upsample_bilinear(feature, factor).permute(0, 2, 3, 1).contiguous()
        return self.short_global if factor == self.global_factor else self._global_feature(factor)

    @cached_property
    def patch_index(self) -> Tensor:
        """The 5x5 patch of each pixel, `[N, h, w]`."""
        return self.patches5x5[0].to(torch.int32)

    @cached_property
    def patch_and_global_index(self) -> Tensor:
        """The 5x5 patch of each pixel and, in rows after those, its value of the global feature, `[N, h, w, 2]`."""
        assert self.encoded is not None
        count, height, width = self.size
        rows, columns = self.encoded.shape[-2:]
        down = upsampled_index(rows, height // rows, _REACH)
        across = upsampled_index(columns, width // columns, _REACH)
        position = (down[:, None] * columns * self.global_factor + across).to(self.symbols.device)
        image = torch.arange(count, device=position.device).view(-1, 1, 1) * (rows * columns * self.global_factor**2)
        return torch.stack([self.patches5x5[0], image + position + len(self.patches5x5[1])], -1).to(torch.int32)

    def release(self) -> None:
        """Free what is needed only to build tables."""
        for name in ("patches3x3", "patches5x5", "one_hot", "short_global", "full_global"):
            self.__dict__.pop(name, None)
        self.encoded = self.conv = None

    @property
    def nbytes(self) -> int:
        """Memory of what is kept per pixel."""
        return sum(value.nbytes for value in self.__dict__.values() if isinstance(value, Tensor))


class LabelConv:
    """3x3 convolution of the label map, by a table of the kernel's columns or densely."""

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        weight, bias = fold_conv(conv)
        device = conv.weight.device
        self.dense = FoldedConv(weight, bias, dtype=dtype, device=device)
        self.taps = weight.flatten(2).permute(2, 1, 0).to(device, dtype).contiguous()  # [9, C, hidden]
        self.bias = bias.to(device, dtype)

    def table(self, level: ScaledLabelMap) -> Tensor:
        """Return the output after ReLU of each 3x3 patch, and zeros for the padding, `[U + 1, hidden]`."""
        return F.pad(self._rows(level).relu_(), (0, 0, 0, 1))

    def __call__(self, level: ScaledLabelMap) -> Tensor:
        """Return the output of the convolution, `[N, h, w, hidden]`."""
        if not level.is_sparse_3x3:
            return self.dense(level.one_hot)
        return F.embedding(level.patches3x3[0], self._rows(level))

    def _rows(self, level: ScaledLabelMap) -> Tensor:
        patches = level.patches3x3[1]
        symbols = len(level.pixels) + 1
        pixels = F.pad(level.pixels.to(self.taps.dtype), (0, 0, 0, 1))
        products = torch.matmul(pixels, self.taps).flatten(0, 1)  # [9 * symbols, hidden]
        shifted = patches + torch.arange(9, device=patches.device) * symbols
        return F.embedding_bag(shifted, products, mode="sum").add_(self.bias)


class _FusedNorm:
    """SPADE or DG-Norm whose scale and shift, with the batch norm folded in, are one convolution of the hidden feature.

    Args:
        norm: SPADE or DG-Norm.
        with_global: whether it gets the global feature.
        dtype: type of the computation.
        shortcut: weight `[O, C]` of a 1x1 convolution that follows, which is applied to the shift in advance.
    """

    def __init__(self, norm: SPADE, with_global: bool, dtype: torch.dtype, shortcut: Tensor | None = None) -> None:
        factor, summand = batch_norm_affine(norm.norm)
        (scale, scale_bias), (shift, shift_bias) = fold_conv(norm.gamma), fold_conv(norm.beta)
        scale_bias = scale_bias + 1
        # (x * factor + summand) * scale + shift = x * (factor * scale) + (summand * scale + shift)
        shift, shift_bias = shift + scale * summand.view(-1, 1, 1, 1), shift_bias + scale_bias * summand
        scale, scale_bias = scale * factor.view(-1, 1, 1, 1), scale_bias * factor
        if shortcut is not None:
            shift, shift_bias = torch.einsum("oc,chkl->ohkl", shortcut, shift), shortcut @ shift_bias
        weight, bias = torch.cat([scale, shift]), torch.cat([scale_bias, shift_bias])
        self.with_global = with_global and isinstance(norm, DGNorm)
        assert norm.shared is not None
        self.hidden = LabelConv(norm.shared, dtype)
        device = norm.gamma.weight.device
        self.dense = FoldedConv(weight, bias, dtype=dtype, device=device)
        by_tap = weight.flatten(2).transpose(1, 2).flatten(1)[:, :, None, None]
        self.by_tap = FoldedConv(by_tap, bias, dtype=dtype, device=device)
        self.without_bias = FoldedConv(weight, torch.zeros_like(bias), dtype=dtype, device=device)

    def uses_table(self, level: ScaledLabelMap) -> bool:
        """Return whether a table of scale and shift per 5x5 patch is faster here than dense convolutions."""
        if not self.with_global or level.encoded is None:
            return level.is_sparse_5x5()
        rows, columns = level.encoded.shape[-2:]
        return not level.bilinear and level.is_sparse_5x5(level.size[0] * rows * columns * level.global_factor**2)

    def build_table(self, level: ScaledLabelMap) -> LookupTable:
        """Return scale and shift of every pixel of a label map, `[N, h, w, C + O]`."""
        with_global = self.with_global and level.encoded is not None
        if not self.uses_table(level):
            hidden = F.relu_(self.hidden.dense(level.one_hot))
            if with_global:
                hidden += level.full_global
            return LookupTable(self.dense(hidden).flatten(0, 2), None, level.size)
        table = self.by_tap.conv_patches(self.hidden.table(level), level.patches5x5[1])
        if not with_global:
            return LookupTable(table, level.patch_index, level.size)
        more = self.without_bias(level.short_global).flatten(0, 2)
        return LookupTable(torch.cat([table, more]), level.patch_and_global_index, level.size)


class FusedGenResBlk:
    """A `GenResBlk` in evaluation mode, tile by tile, with lookup tables in place of the norms' convolutions."""

    def __init__(self, block: GenResBlk, dtype: torch.dtype) -> None:
        device = block.conv_0.weight.device
        self.dtype = dtype

        def conv(module: nn.Conv2d) -> FoldedConv:
            return FoldedConv(*fold_conv(module), dtype=dtype, device=device)

        self.conv_0, self.conv_1 = conv(block.conv_0), conv(block.conv_1)
        self.norms = [_FusedNorm(block.norm_0, True, dtype), _FusedNorm(block.norm_1, True, dtype)]
        self.conv_s: FoldedConv | None = None
        if block.norm_s is not None and block.conv_s is not None:
            self.conv_s = conv(block.conv_s)
            weight, _ = fold_conv(block.conv_s)
            self.norms.append(_FusedNorm(block.norm_s, False, dtype, weight.flatten(1)))

    def build_tables(self, level: ScaledLabelMap) -> list[LookupTable]:
        """Return scale and shift of each norm, which depend on the label map alone."""
        return [norm.build_table(level) for norm in self.norms]

    def __call__(self, x: Tensor, factor: int, tables: list[LookupTable]) -> Tensor:
        """Upsample `[N, h / factor, w / factor, C]` and map it to `[N, h, w, O]`."""
        count, height, width = tables[0].size
        middle = x.new_empty(count, height, width, self.conv_0.out_channels)
        for images, low, high in row_tiles(count, height, width):
            middle[images, low:high] = self._modulated_conv(x, factor, tables[0], self.conv_0, images, low, high)
        result = x.new_empty(count, height, width, self.conv_1.out_channels)
        for images, low, high in row_tiles(count, height, width):
            tile = self._modulated_conv(middle, 1, tables[1], self.conv_1, images, low, high)
            part = upsampled_rows(x, factor, images, low, high)
            if self.conv_s is not None:
                rows = tables[2].rows(images, low, high)
                scale, shift = torch.split(rows, [x.shape[-1], self.conv_s.out_channels], -1)
                part = self.conv_s(part * scale)
                tile += shift
            torch.add(tile, part, out=result[images, low:high])
        return result

    @staticmethod
    def _modulated_conv(
        x: Tensor, factor: int, table: LookupTable, conv: FoldedConv, images: slice, low: int, high: int
    ) -> Tensor:
        """Modulate and convolve some rows, `[n, high - low, w, O]`."""
        height = table.size[1]
        first, last = max(0, low - 1), min(height, high + 1)
        rows = table.rows(images, first, last)
        part = upsampled_rows(x, factor, images, first, last)
        if (low, high) == (0, height):
            return conv(modulate(part, rows, SLOPE))
        tile = x.new_zeros(part.shape[0], high - low + 2, part.shape[2], part.shape[3])
        start = first - low + 1
        modulate(part, rows, SLOPE, tile[:, start : start + last - first])
        return conv(tile, (0, 1))


class FusedLSCA:
    """An `LSCA` in evaluation mode: a table for the label map, and the small map convolved before its upsampling."""

    def __init__(self, lsca: LSCA, dtype: torch.dtype) -> None:
        device, channels = lsca.merge.weight.device, lsca.merge.out_channels
        weight, bias = fold_conv(lsca.merge)
        self.merge = FoldedConv(merge_taps(weight), bias.repeat(4), dtype=dtype, device=device)
        self.label = LabelConv(lsca.label, dtype)
        attention, self.bias = fold_conv(lsca.attention)
        affine = [batch_norm_affine(norm) for norm in (lsca.norm_previous, lsca.norm_current, lsca.norm_label)]
        factor, summand = (torch.cat(parts) for parts in zip(*affine, strict=True))
        # A shift before a zero-padded convolution is a convolution of ones, with smaller values at the border.
        self.summands = torch.einsum("ockl,c->okl", attention, summand)[None].to(device)
        features, guide = torch.split(attention * factor.view(-1, 1, 1), [2 * channels, channels], 1)
        self.attention = FoldedConv(features, torch.zeros_like(self.bias), dtype=dtype, device=device)
        self.guide_dense = FoldedConv(guide, torch.zeros_like(self.bias), dtype=dtype, device=device)
        self.guide = guide[0].flatten(1).to(device, dtype)  # [C, 9]

    def build_tables(self, level: ScaledLabelMap) -> list[LookupTable]:
        """Return the label map's part of the attention before the sigmoid, `[N, h, w, 1]`."""
        count, height, width = level.size
        ones = self.summands.new_ones(1, 1, height, width)
        fixed = F.conv2d(ones, self.summands, self.bias.to(ones.device), padding=1).to(self.guide.dtype)
        if level.is_sparse_5x5():
            table = self.label.table(level) @ self.guide  # [U + 1, 9]: the summand of each neighbor
            patches = level.patches5x5[1]
            values = table[patches, torch.arange(9, device=patches.device)].sum(1)[level.patches5x5[0]]
        else:
            values = self.guide_dense(F.relu_(self.label.dense(level.one_hot)))[..., 0]
        return [LookupTable((values + fixed[0]).reshape(-1, 1), None, (count, height, width))]

    def __call__(self, previous: Tensor, current: Tensor, table: LookupTable) -> Tensor:
        """Fuse `[N, h/2, w/2, B]` and `[N, h/2, w/2, C]`, still to be upsampled, into `[N, h, w, C]`."""
        count, height, width = table.size
        channels = current.shape[-1]
        padded = F.pad(previous, (0, 0, 1, 1, 1, 1))
        result = current.new_empty(count, height, width, channels)
        for images, low, high in row_tiles(count, height, width):
            first, last = max(0, low - 1), min(height, high + 1)
            merged = self._merged_rows(padded, images, first, last)
            both = torch.cat([merged, upsampled_rows(current, 2, images, first, last)], -1)
            inner = slice(low - first, high - first)
            attention = torch.sigmoid(self.attention(both)[:, inner] + table.rows(images, low, high))
            merged, current_rows = torch.split(both[:, inner], channels, -1)
            torch.lerp(current_rows, merged, attention, out=result[images, low:high])
        return result

    def _merged_rows(self, padded: Tensor, images: slice, low: int, high: int) -> Tensor:
        """Return rows of `relu(conv3x3(upsample2x(previous)))`, `[n, high - low, w, C]`."""
        start, end = low // 2, -(-high // 2)
        four = F.relu_(self.merge(padded[images, start : end + 2], (0, 0)))  # [n, rows + 1, w / 2 + 1, 4 * C]
        count, height, width, channels = four.shape[0], end - start, four.shape[2] - 1, four.shape[3] // 4
        rows = four.new_empty(count, height, 2, width, 2, channels)
        for down in range(2):
            for across in range(2):
                part = four[:, down : down + height, across : across + width]
                rows[:, :, down, :, across] = part[..., (2 * down + across) * channels :][..., :channels]
        return rows.view(count, 2 * height, 2 * width, channels)[:, low - 2 * start : high - 2 * start]
