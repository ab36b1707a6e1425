"""Norms, residual blocks and co-attention of prepared generators; features lie as `[N, h, w, C]`."""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.nn.blocks import SLOPE, GenResBlk
from lab2pix.nn.coattention import LSCA
from lab2pix.nn.enlarged import conv3x3_of_enlarged
from lab2pix.nn.modulation import SPADE, DGNorm
from lab2pix.nn.neighbourhoods import MOST_PLACES, neighbourhoods, places_in_blocks
from lab2pix.nn.prepared_parts import FoldedConv, Lookup, batch_norm_line, enlarged_rows, folded, modulate, strips

__all__ = ["Hidden", "LabelScale", "PreparedBlock", "PreparedMix"]

_PAYS = 0.75
"""Looking values up pays where no more than this part of them differ."""
_REACH = 2
"""How far two 3x3 convolutions reach."""


class LabelScale:
    """What a label map is at one scale: all that norms and co-attention ask of it.

    Args:
        symbols: the pixels' numbers, `[N, h, w]` int64.
        columns: what they stand for, `[S, C]`, in the type of the computation.
        seen: the global encoder's result, `[N, C, h0, w0]`, if there is one, and the convolution of this scale.
        conv: weight and bias of this scale's convolution of it.
    """

    def __init__(
        self, symbols: Tensor, columns: Tensor, seen: Tensor | None = None, conv: tuple[Tensor, Tensor] | None = None
    ) -> None:
        self.symbols, self.columns, self.seen, self.conv = symbols, columns, seen, conv
        count, height, width = symbols.shape
        self.size = (count, height, width)
        self.places = count * height * width

    @cached_property
    def near(self) -> tuple[Tensor, Tensor]:
        """The different 3x3 neighbourhoods, as `neighbourhoods` returns them."""
        return neighbourhoods(self.symbols, len(self.columns))

    @cached_property
    def far(self) -> tuple[Tensor, Tensor]:
        """The different 5x5 neighbourhoods, made of 3x3 ones."""
        return neighbourhoods(self.near[0], len(self.near[1]))

    @cached_property
    def one_hot(self) -> Tensor:
        """The condition itself, `[N, h, w, C]`."""
        return self.columns[self.symbols]

    @property
    def repeats_near(self) -> bool:
        """Say whether it pays to look up what 3x3 neighbourhoods decide."""
        if self.places >= MOST_PLACES or 9 * len(self.columns) > self.places:
            return False
        return len(self.near[1]) <= _PAYS * self.places

    def repeats(self, further: int = 0) -> bool:
        """Say whether it pays to look up what 5x5 neighbourhoods decide, `further` rows of a table beside."""
        return self.repeats_near and len(self.far[1]) + further <= _PAYS * self.places

    @property
    def least(self) -> int:
        """By how much the global encoder's result must be enlarged to show all that differs at this scale."""
        assert self.seen is not None
        return min(self.size[1] // self.seen.shape[-2], 2 * _REACH + 1)

    def global_feature(self, factor: int) -> Tensor:
        """Return the global feature enlarged by a factor, `[N, h0 * factor, w0 * factor, hidden]`."""
        assert self.seen is not None and self.conv is not None
        return conv3x3_of_enlarged(self.seen, *self.conv, factor).permute(0, 2, 3, 1).contiguous()

    @cached_property
    def short_global(self) -> Tensor:
        """The global feature as small as shows all that differs, `[N, h', w', hidden]`."""
        return self.global_feature(self.least)

    @cached_property
    def whole_global(self) -> Tensor:
        """The global feature of every pixel, `[N, h, w, hidden]`."""
        assert self.seen is not None
        factor = self.size[1] // self.seen.shape[-2]
        return self.short_global if factor == self.least else self.global_feature(factor)

    @cached_property
    def alone(self) -> Tensor:
        """Where each pixel finds its 5x5 neighbourhood, `[N, h, w]`."""
        return self.far[0].to(torch.int32)

    @cached_property
    def pairs(self) -> Tensor:
        """Where each pixel finds its 5x5 neighbourhood and, in rows after those, its place in a block."""
        assert self.seen is not None
        count, height, width = self.size
        rows, columns = self.seen.shape[-2:]
        down = places_in_blocks(rows, height // rows, _REACH)
        across = places_in_blocks(columns, width // columns, _REACH)
        place = (down[:, None] * columns * self.least + across).to(self.symbols.device)
        image = torch.arange(count, device=place.device).view(-1, 1, 1) * (rows * columns * self.least**2)
        return torch.stack([self.far[0], image + place + len(self.far[1])], -1).to(torch.int32)

    def release(self) -> None:
        """Forget what only the making of tables needs."""
        for name in ("near", "far", "one_hot", "short_global", "whole_global"):
            self.__dict__.pop(name, None)
        self.seen = self.conv = None

    @property
    def nbytes(self) -> int:
        """Memory of what is kept for every pixel."""
        return sum(value.nbytes for value in self.__dict__.values() if isinstance(value, Tensor))


class Hidden:
    """A 3x3 convolution of the label map: by a table of the columns of its kernel, or densely."""

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        weight, bias = folded(conv)
        device = conv.weight.device
        self.dense = FoldedConv(weight, bias, dtype=dtype, device=device)
        self.taps = weight.flatten(2).permute(2, 1, 0).to(device, dtype).contiguous()  # [9, C, hidden]
        self.bias = bias.to(device, dtype)

    def table(self, scale: LabelScale) -> Tensor:
        """Return what each 3x3 neighbourhood becomes after ReLU, and zeros for places outside, `[U + 1, hidden]`."""
        return F.pad(self._rows(scale).relu_(), (0, 0, 0, 1))

    def __call__(self, scale: LabelScale) -> Tensor:
        """Return the convolution itself, `[N, h, w, hidden]`."""
        if not scale.repeats_near:
            return self.dense(scale.one_hot)
        return F.embedding(scale.near[0], self._rows(scale))

    def _rows(self, scale: LabelScale) -> Tensor:
        taps = scale.near[1]
        symbols = len(scale.columns) + 1
        columns = scale.columns.to(self.taps.dtype)
        known = torch.matmul(F.pad(columns, (0, 0, 0, 1)), self.taps).flatten(0, 1)  # [9 * symbols, hidden]
        shifted = taps + torch.arange(9, device=taps.device) * symbols
        return F.embedding_bag(shifted, known, mode="sum").add_(self.bias)


class _PreparedNorm:
    """A norm whose scale and shift, with the batch norm in them, are one convolution of what the label map shows.

    Args:
        norm: SPADE or DG-Norm.
        globally: whether it sees the global feature.
        dtype: what it computes in.
        shortcut: weight `[O, C]` of a 1x1 convolution that follows: the shift goes through it in advance.
    """

    def __init__(self, norm: SPADE, globally: bool, dtype: torch.dtype, shortcut: Tensor | None = None) -> None:
        factor, summand = batch_norm_line(norm.norm)
        (scale, scale_bias), (shift, shift_bias) = folded(norm.gamma), folded(norm.beta)
        scale_bias = scale_bias + 1
        # (x * factor + summand) * scale + shift = x * (factor * scale) + (summand * scale + shift)
        shift, shift_bias = shift + scale * summand.view(-1, 1, 1, 1), shift_bias + scale_bias * summand
        scale, scale_bias = scale * factor.view(-1, 1, 1, 1), scale_bias * factor
        if shortcut is not None:
            shift, shift_bias = torch.einsum("oc,chkl->ohkl", shortcut, shift), shortcut @ shift_bias
        weight, bias = torch.cat([scale, shift]), torch.cat([scale_bias, shift_bias])
        self.globally = globally and isinstance(norm, DGNorm)
        self.hidden = Hidden(norm.shared, dtype)
        device = norm.gamma.weight.device
        self.dense = FoldedConv(weight, bias, dtype=dtype, device=device)
        by_tap = weight.flatten(2).transpose(1, 2).flatten(1)[:, :, None, None]
        self.of_taps = FoldedConv(by_tap, bias, dtype=dtype, device=device)
        self.without_bias = FoldedConv(weight, torch.zeros_like(bias), dtype=dtype, device=device)

    def looks_up(self, scale: LabelScale) -> bool:
        """Say whether it pays to look scale and shift up by neighbourhoods here, and not to convolve densely."""
        if not self.globally or scale.seen is None:
            return scale.repeats()
        return scale.repeats(scale.size[0] * scale.seen.shape[-2] * scale.seen.shape[-1] * scale.least**2)

    def look(self, scale: LabelScale) -> Lookup:
        """Return scale and shift of every pixel of a label map, `[N, h, w, C + O]`."""
        globally = self.globally and scale.seen is not None
        if not self.looks_up(scale):
            hidden = F.relu_(self.hidden.dense(scale.one_hot))
            if globally:
                hidden += scale.whole_global
            return Lookup(self.dense(hidden).flatten(0, 2), None, scale.size)
        table = self.of_taps.of_taps(self.hidden.table(scale), scale.far[1])
        if not globally:
            return Lookup(table, scale.alone, scale.size)
        return Lookup(torch.cat([table, self.without_bias(scale.short_global).flatten(0, 2)]), scale.pairs, scale.size)


class PreparedBlock:
    """A `GenResBlk` in evaluation mode, strip by strip, norms looked up."""

    def __init__(self, block: GenResBlk, dtype: torch.dtype) -> None:
        device = block.conv_0.weight.device
        self.dtype = dtype

        def conv(module: nn.Conv2d) -> FoldedConv:
            return FoldedConv(*folded(module), dtype=dtype, device=device)

        self.conv_0, self.conv_1 = conv(block.conv_0), conv(block.conv_1)
        self.norms = [_PreparedNorm(block.norm_0, True, dtype), _PreparedNorm(block.norm_1, True, dtype)]
        self.conv_s: FoldedConv | None = None
        if block.norm_s is not None and block.conv_s is not None:
            self.conv_s = conv(block.conv_s)
            weight, _ = folded(block.conv_s)
            self.norms.append(_PreparedNorm(block.norm_s, False, dtype, weight.flatten(1)))

    def look(self, scale: LabelScale) -> list[Lookup]:
        """Return what depends on the label map alone."""
        return [norm.look(scale) for norm in self.norms]

    def __call__(self, x: Tensor, factor: int, looks: list[Lookup]) -> Tensor:
        """Map `[N, h / factor, w / factor, C]` of any type, to be enlarged first, to `[N, h, w, O]`."""
        count, height, width = looks[0].size
        x = x.to(self.dtype)
        middle = x.new_empty(count, height, width, self.conv_0.out_channels)
        for images, low, high in strips(count, height, width):
            middle[images, low:high] = self._convolved(x, factor, looks[0], self.conv_0, images, low, high)
        result = x.new_empty(count, height, width, self.conv_1.out_channels)
        for images, low, high in strips(count, height, width):
            strip = self._convolved(middle, 1, looks[1], self.conv_1, images, low, high)
            part = enlarged_rows(x, factor, images, low, high)
            if self.conv_s is not None:
                rows = looks[2].rows(images, low, high)
                scale, shift = torch.split(rows, [x.shape[-1], self.conv_s.out_channels], -1)
                part = self.conv_s(part * scale)
                strip += shift
            torch.add(strip, part, out=result[images, low:high])
        return result

    @staticmethod
    def _convolved(
        x: Tensor, factor: int, look: Lookup, conv: FoldedConv, images: slice, low: int, high: int
    ) -> Tensor:
        """Modulate some rows and those beside them, and convolve: `[n, high - low, w, O]`."""
        height = look.size[1]
        first, last = max(0, low - 1), min(height, high + 1)
        rows = look.rows(images, first, last)
        part = enlarged_rows(x, factor, images, first, last)
        if (low, high) == (0, height):
            return conv(modulate(part, rows, SLOPE))
        strip = x.new_zeros(part.shape[0], high - low + 2, part.shape[2], part.shape[3])
        start = first - low + 1
        modulate(part, rows, SLOPE, strip[:, start : start + last - first])
        return conv(strip, (0, 1))


class PreparedMix:
    """An `LSCA` in evaluation mode: the label map's share looked up, the enlarged map convolved as a small one."""

    def __init__(self, mix: LSCA, dtype: torch.dtype) -> None:
        device, channels = mix.merge.weight.device, mix.merge.out_channels
        weight, bias = folded(mix.merge)
        # After an enlargement by 2, each pixel's nine neighbours are only four pixels, which four depending on where.
        taps = weight.new_tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
        phases = torch.einsum("psk,qtl,ockl->pqocst", taps, taps, weight).flatten(0, 2)
        self.merge = FoldedConv(phases, bias.repeat(4), dtype=dtype, device=device)
        self.label = Hidden(mix.label, dtype)
        attention, self.bias = folded(mix.attention)
        lines = [batch_norm_line(norm) for norm in (mix.norm_previous, mix.norm_current, mix.norm_label)]
        factor, summand = (torch.cat(parts) for parts in zip(*lines, strict=True))
        # A shift before a convolution that pads with zeros is a convolution of ones, with less at the border.
        self.summands = torch.einsum("ockl,c->okl", attention, summand)[None].to(device)
        features, guide = torch.split(attention * factor.view(-1, 1, 1), [2 * channels, channels], 1)
        self.attention = FoldedConv(features, torch.zeros_like(self.bias), dtype=dtype, device=device)
        self.guide_dense = FoldedConv(guide, torch.zeros_like(self.bias), dtype=dtype, device=device)
        self.guide = guide[0].flatten(1).to(device, dtype)  # [C, 9]

    def look(self, scale: LabelScale) -> list[Lookup]:
        """Return what depends on the label map alone: its share of the attention before the sigmoid, `[N, h, w, 1]`."""
        count, height, width = scale.size
        ones = self.summands.new_ones(1, 1, height, width)
        fixed = F.conv2d(ones, self.summands, self.bias.to(ones.device), padding=1).to(self.guide.dtype)
        if scale.repeats():
            table = self.label.table(scale) @ self.guide  # [U + 1, 9]: what each neighbour adds, if it is there
            taps = scale.far[1]
            values = table[taps, torch.arange(9, device=taps.device)].sum(1)[scale.far[0]]
        else:
            values = self.guide_dense(F.relu_(self.label.dense(scale.one_hot)))[..., 0]
        return [Lookup((values + fixed[0]).reshape(-1, 1), None, (count, height, width))]

    def __call__(self, previous: Tensor, current: Tensor, look: Lookup) -> Tensor:
        """Mix `[N, h/2, w/2, B]` and `[N, h/2, w/2, C]`, which is to be enlarged, into `[N, h, w, C]`."""
        count, height, width = look.size
        channels = current.shape[-1]
        previous, current = previous.to(self.guide.dtype), current.to(self.guide.dtype)
        # Zeros around it once, for the strips at the border.
        padded = F.pad(previous, (0, 0, 1, 1, 1, 1))
        result = current.new_empty(count, height, width, channels)
        for images, low, high in strips(count, height, width):
            first, last = max(0, low - 1), min(height, high + 1)
            merged = self._merged_rows(padded, images, first, last)
            seen = torch.cat([merged, enlarged_rows(current, 2, images, first, last)], -1)
            inner = slice(low - first, high - first)
            attention = torch.sigmoid(self.attention(seen)[:, inner] + look.rows(images, low, high))
            merged, current_rows = torch.split(seen[:, inner], channels, -1)
            torch.lerp(current_rows, merged, attention, out=result[images, low:high])
        return result

    def _merged_rows(self, padded: Tensor, images: slice, low: int, high: int) -> Tensor:
        """Return rows of `relu(conv3x3(enlarge(previous)))`, `[n, high - low, w, C]`."""
        start, end = low // 2, -(-high // 2)
        four = F.relu_(self.merge(padded[images, start : end + 2], (0, 0)))  # [n, rows + 1, w / 2 + 1, 4 * C]
        count, height, width, channels = four.shape[0], end - start, four.shape[2] - 1, four.shape[3] // 4
        rows = four.new_empty(count, height, 2, width, 2, channels)
        for down in range(2):
            for across in range(2):
                part = four[:, down : down + height, across : across + width]
                rows[:, :, down, :, across] = part[..., (2 * down + across) * channels :][..., :channels]
        return rows.view(count, 2 * height, 2 * width, channels)[:, low - 2 * start : high - 2 * start]
