"""Generators prepared for drawing: the same answers as the plain ones in evaluation mode, several times as fast.

What is done once, when one is prepared: spectral norm and batch norm are folded into weights, scale and shift of a norm
become one convolution, a shortcut's shift goes through its 1x1 convolution in advance, weights are laid out as the
processor wants them. What depends on the label map alone is computed for its different neighbourhoods only, and kept
for the next noise: see `neighbourhoods`. The rest runs strip by strip, so that no map of scale and shift is ever whole.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.errors import ConfigError
from lab2pix.nn.blocks import SLOPE
from lab2pix.nn.encoders import GlobalEncoder, NoiseEncoder
from lab2pix.nn.generators import Lab2PixV1Generator, Lab2PixV2Generator
from lab2pix.nn.modulation import resize_nearest
from lab2pix.nn.neighbourhoods import symbols_of
from lab2pix.nn.prepared_blocks import Hidden, LabelScale, PreparedBlock, PreparedMix
from lab2pix.nn.prepared_parts import FoldedConv, Lookup, enlarged_rows, folded, strips

__all__ = ["PreparedGenerator", "prepare"]


@dataclass
class _Known:
    """What is known of a label map: its numbered pixels, and what was made of them.

    Attributes:
        symbols: `[N, H, W]`.
        columns: `[S, C]`.
        looks: by the name of the part that asked.
        start: the first feature, where the label map alone makes it.
        scales: to be asked while `looks` is not complete.
    """

    symbols: Tensor
    columns: Tensor
    scales: list[LabelScale]
    start: Tensor | None = None
    looks: dict[str, list[Lookup]] = field(default_factory=dict)

    def is_of(self, symbols: Tensor, columns: Tensor) -> bool:
        return torch.equal(self.columns, columns) and torch.equal(self.symbols, symbols)

    @property
    def nbytes(self) -> int:
        own = self.symbols.nbytes + sum(look.nbytes for looks in self.looks.values() for look in looks)
        return own + sum(scale.nbytes for scale in self.scales)


class _PreparedEncoder:
    """The global encoder in evaluation mode; its first convolution looks 3x3 neighbourhoods up."""

    def __init__(self, encoder: GlobalEncoder, dtype: torch.dtype) -> None:
        convs = [cast(nn.Conv2d, conv) for conv in encoder.down]
        device = encoder.scales[0].bias.device
        self.first = Hidden(convs[0], dtype)
        self.down = [
            FoldedConv(*folded(conv), dtype=dtype, device=cast(torch.device, device), stride=2) for conv in convs[1:]
        ]
        self.scales = [
            (cast(Tensor, conv.weight).detach().to(dtype), cast(Tensor, conv.bias).detach().to(dtype))
            for conv in encoder.scales
        ]

    def __call__(self, scale: LabelScale) -> Tensor:
        """Return `[N, C, h0, w0]` of the label map at its full size."""
        x = F.leaky_relu_(self.first(scale), SLOPE)
        for conv in self.down:
            x = F.leaky_relu_(conv(x), SLOPE)
        return x.permute(0, 3, 1, 2)


class _PreparedHead:
    """A 3x3 convolution to a picture and tanh, a strip at a time."""

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype, slope: float) -> None:
        self.conv, self.slope = FoldedConv(*folded(conv), dtype=dtype, device=conv.weight.device), slope

    def __call__(self, x: Tensor) -> Tensor:
        """Map `[N, h, w, C]` to `[N, 3, h, w]` float32."""
        count, height, width, _ = x.shape
        image = x.new_empty(count, 3, height, width, dtype=torch.float32)
        for images, low, high in strips(count, height, width):
            first, last = max(0, low - 1), min(height, high + 1)
            part = x[images, first:last]
            part = self.conv(part if self.slope == 1 else F.leaky_relu(part, self.slope))
            rows = part[:, low - first : high - first].permute(0, 3, 1, 2).float()
            torch.tanh(rows, out=image[images, :, low:high])
        return image


class PreparedGenerator(nn.Module, ABC):
    """What both prepared generators have: a plain one that they came of, and label maps that they know.

    It holds no parameters: weights are the plain generator's, as they were when it was prepared.

    Args:
        plain: the generator, in evaluation mode.
        dtype: what it computes in: float32, or bfloat16, which is rougher.
        keep: what is made of label maps is kept for the next noise, up to this many bytes, the latest first.

    Attributes:
        one_by_one: whether the pictures of a batch are drawn one after the other, so that none depends on the others
            by a bit, and all of one label map profit from what is kept; on the processor it costs no time.
    """

    draws_several: bool

    def __init__(self, plain: Lab2PixV1Generator | Lab2PixV2Generator, dtype: torch.dtype, keep: int) -> None:
        super().__init__()
        self.dtype, self.keep = dtype, keep
        self.check_size = plain.check_size
        self.stride, self.doublings = plain.stride, plain.doublings
        self.one_by_one = next(plain.parameters()).device.type == "cpu"
        self._known: list[_Known] = []
        self._own_blocks = [PreparedBlock(block, dtype) for block in plain.blocks]  # type: ignore[arg-type]
        self.blocks = list(self._own_blocks)
        encoder = plain.global_encoder
        self.encoder = self._own_encoder = None if encoder is None else _PreparedEncoder(encoder, dtype)
        self._first_dtype = dtype
        self._averages = isinstance(plain, Lab2PixV1Generator) and plain.sketch is not None

    @torch.no_grad()
    def forward(self, condition: Tensor, noise: Tensor | None = None) -> Tensor | list[Tensor]:
        """Draw images as the plain generator does: take and return the same."""
        if len(condition) == 1 or not self.one_by_one:
            images = self._draw(condition, noise)
        else:
            noises = [None] * len(condition) if noise is None else torch.split(noise, 1)
            drawn = [self._draw(*pair) for pair in zip(torch.split(condition, 1), noises, strict=True)]
            images = [torch.cat(scale) for scale in zip(*drawn, strict=True)]
        return images if self.draws_several else images[0]

    @abstractmethod
    def _draw(self, condition: Tensor, noise: Tensor | None) -> list[Tensor]:
        """Return the images, largest first."""

    def compute_as(self, other: PreparedGenerator, places: Container[int]) -> None:
        """Let some blocks, and what all blocks begin with, compute in another's type, and all others in its own.

        Args:
            other: prepared of the same generator, and computing in one type.
            places: of those blocks, counted from 0; none: everything computes in its own type again.
        """
        pairs = zip(self._own_blocks, other.blocks, strict=True)
        self.blocks = [theirs if place in places else own for place, (own, theirs) in enumerate(pairs)]
        first = self if self.blocks == self._own_blocks else other
        self.encoder, self._first_dtype = first._own_encoder, first.dtype
        self.forget()

    @property
    def nbytes(self) -> int:
        """Memory of what is kept of label maps."""
        return sum(known.nbytes for known in self._known)

    def forget(self) -> None:
        """Let go of what is kept of label maps."""
        self._known = []

    def _know(self, condition: Tensor) -> _Known:
        """Return what is known of a condition `[N, C, H, W]`, or begin to know it."""
        self.check_size(*condition.shape[-2:])
        symbols, columns = symbols_of(condition)
        for known in self._known:
            if known.is_of(symbols, columns):
                return known
        return _Known(symbols, columns, self._scales(condition, symbols, columns))

    def _scales(self, condition: Tensor, symbols: Tensor, columns: Tensor) -> list[LabelScale]:
        """Return the label map at every scale, smallest first."""
        height, width = condition.shape[-2:]
        scales = []
        for shift in range(self.doublings, -1, -1):
            size = (height >> shift, width >> shift)
            if self._averages and shift:
                small, means = symbols_of(F.adaptive_avg_pool2d(condition, size))
                scales.append(LabelScale(small, means.to(self._first_dtype)))
            else:
                small = resize_nearest(symbols[:, None].double(), size)[:, 0].long() if shift else symbols
                scales.append(LabelScale(small, columns.to(self._first_dtype)))
        if self.encoder is not None:
            seen = self.encoder(scales[-1])
            for scale, conv in zip(scales, self.encoder.scales, strict=False):
                scale.seen, scale.conv = seen, conv
        return scales

    def _remember(self, known: _Known) -> None:
        """Keep a label map that everything is known of, before all others, as far as memory allows."""
        for scale in known.scales:
            scale.release()
        others = [other for other in self._known if other is not known]
        kept, held = [], 0
        for candidate in (known, *others):
            held += candidate.nbytes
            if held <= self.keep:
                kept.append(candidate)
        self._known = kept

    def _looks(self, known: _Known, name: str, part: PreparedBlock | PreparedMix, scale: int) -> list[Lookup]:
        if name not in known.looks:
            looks = part.look(known.scales[scale])
            if not self.keep:
                return looks
            known.looks[name] = looks
        return known.looks[name]


class PreparedV2(PreparedGenerator):
    """A prepared generator of Lab2Pix-V2 or SPADE."""

    draws_several = False

    def __init__(self, plain: Lab2PixV2Generator, dtype: torch.dtype, keep: int) -> None:
        super().__init__(plain, dtype, keep)
        self.block_scales, self.encode = plain.block_scales, plain._start
        self.from_label = not isinstance(plain.fc, NoiseEncoder)
        self.head = _PreparedHead(plain.to_image, dtype, SLOPE)

    def _draw(self, condition: Tensor, noise: Tensor | None) -> list[Tensor]:
        known = self._know(condition)
        x = self._start(known, condition, noise)
        scale = 0
        for index, (block, block_scale) in enumerate(zip(self.blocks, self.block_scales, strict=True)):
            for done in known.scales[:block_scale]:
                done.release()
            looks = self._looks(known, f"block {index}", block, block_scale)
            x = block(x, 2 if block_scale > scale else 1, looks)
            scale = block_scale
        self._remember(known)
        return [self.head(x)]

    def _start(self, known: _Known, condition: Tensor, noise: Tensor | None) -> Tensor:
        if known.start is not None:
            return known.start
        size = (condition.shape[-2] >> self.doublings, condition.shape[-1] >> self.doublings)
        x = self.encode(resize_nearest(condition, size), noise).permute(0, 2, 3, 1).to(self._first_dtype).contiguous()
        if self.from_label:
            known.start = x
        return x


class PreparedV1(PreparedGenerator):
    """A prepared generator of Lab2Pix-V1."""

    draws_several = True

    def __init__(self, plain: Lab2PixV1Generator, dtype: torch.dtype, keep: int) -> None:
        super().__init__(plain, dtype, keep)
        self.encode, self.outputs = plain._start, plain.outputs
        self.block_scales = plain.block_scales
        self.mixes = [PreparedMix(mix, dtype) for mix in plain.coattention]  # type: ignore[arg-type]
        self.heads = [_PreparedHead(head, dtype, 1.0) for head in plain.to_image]  # type: ignore[arg-type]
        self.from_label = plain.noise is None

    def _draw(self, condition: Tensor, noise: Tensor | None) -> list[Tensor]:
        known = self._know(condition)
        x, factor = self._start(known, condition, noise), 1
        ends = [*self.block_scales[1:], self.doublings]
        images: list[Tensor] = []
        first_mixed, first_drawn = len(self.blocks) - len(self.mixes), len(self.blocks) - self.outputs
        for index, (block, scale, end) in enumerate(zip(self.blocks, self.block_scales, ends, strict=True)):
            for done in known.scales[:scale]:
                done.release()
            previous, before = x, factor
            x = block(previous, factor, self._looks(known, f"block {index}", block, scale))
            factor = 1 if end == scale else 2
            if index >= first_mixed:
                mix = self.mixes[index - first_mixed]
                looks = self._looks(known, f"mix {index}", mix, end)
                x, factor = mix(self._whole(previous, before), x, looks[0]), 1
            if index >= first_drawn:
                images.append(self.heads[index - first_drawn](self._whole(x, factor)))
        self._remember(known)
        return images[::-1]

    @staticmethod
    def _whole(x: Tensor, factor: int) -> Tensor:
        return enlarged_rows(x, factor, slice(None), 0, x.shape[1] * factor)

    def _start(self, known: _Known, condition: Tensor, noise: Tensor | None) -> Tensor:
        if known.start is not None:
            return known.start
        size = (condition.shape[-2] >> self.doublings, condition.shape[-1] >> self.doublings)
        x = self.encode(condition, noise, size).permute(0, 2, 3, 1).to(self._first_dtype).contiguous()
        if self.from_label:
            known.start = x
        return x


def prepare(generator: nn.Module, *, dtype: torch.dtype = torch.float32, keep: int = 2**28) -> PreparedGenerator:
    """Return a generator that draws as this one does in evaluation mode, faster.

    Args:
        generator: of Lab2Pix-V1, V2 or SPADE, in evaluation mode; later changes of its weights do not show.
        dtype: float32, equal to the plain generator but for rounding, or bfloat16, which is rougher.
        keep: bytes of what is made of label maps to keep for the next noise; 0: none.

    Raises:
        ConfigError: a generator of another kind.
    """
    with torch.no_grad():
        if isinstance(generator, Lab2PixV2Generator):
            return PreparedV2(generator, dtype, keep)
        if isinstance(generator, Lab2PixV1Generator):
            return PreparedV1(generator, dtype, keep)
    raise ConfigError(
        f"a {type(generator).__name__} cannot be prepared, only generators of Lab2Pix-V1 and V2 and of SPADE can; "
        "draw with it as it is"
    )
