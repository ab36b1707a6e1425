"""Fused generators: the outputs of the plain ones in evaluation mode, several times as fast.

Once per generator: spectral norm and batch norm are folded into weights, scale and shift of a norm become one
convolution, the 1x1 convolution of a shortcut is applied to the shift in advance, and weights are packed for the
processor. Once per label map: what depends on it alone is computed for its distinct patches (see `patches`), and cached
for the next noise. The rest runs in tiles of rows, so that no full-size map of scale and shift is ever in memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.errors import ConfigError
from lab2pix.nn.blocks import SLOPE, GenResBlk
from lab2pix.nn.encoders import GlobalEncoder, NoiseEncoder, upsample_bilinear
from lab2pix.nn.fast.inference.blocks import FusedGenResBlk, FusedLSCA, LabelConv, ScaledLabelMap
from lab2pix.nn.fast.inference.layers import FoldedConv, LookupTable, fold_conv, row_tiles, upsampled_rows
from lab2pix.nn.fast.inference.patches import unique_pixels
from lab2pix.nn.generators import Lab2PixV1Generator, Lab2PixV2Generator
from lab2pix.nn.normalization import resize_nearest

__all__ = ["FusedGenerator", "fuse"]


@dataclass
class _LabelCache:
    """What was computed for one batch of label maps.

    Attributes:
        symbols: index of each pixel's value, `[N, H, W]`.
        pixels: the values, `[S, C]`.
        levels: the label maps at every scale, smallest first.
        start: the first feature, where it depends on the label map alone.
        tables: by the name of the part that they are for.
    """

    symbols: Tensor
    pixels: Tensor
    levels: list[ScaledLabelMap]
    start: Tensor | None = None
    tables: dict[str, list[LookupTable]] = field(default_factory=dict)

    def is_of(self, symbols: Tensor, pixels: Tensor) -> bool:
        return torch.equal(self.pixels, pixels) and torch.equal(self.symbols, symbols)

    @property
    def nbytes(self) -> int:
        own = self.symbols.nbytes + sum(table.nbytes for tables in self.tables.values() for table in tables)
        return own + sum(level.nbytes for level in self.levels)


class _FusedEncoder:
    """The global encoder's strided convolutions in evaluation mode, the first one by a table of 3x3 patches."""

    def __init__(self, encoder: GlobalEncoder, dtype: torch.dtype) -> None:
        convs = [cast(nn.Conv2d, conv) for conv in encoder.down]
        scales = [cast(nn.Conv2d, conv) for conv in encoder.scales]
        device = scales[0].weight.device
        self.bilinear = encoder.upsample == "bilinear"
        self.first = LabelConv(convs[0], dtype)
        self.down = [FoldedConv(*fold_conv(conv), dtype=dtype, device=device, stride=2) for conv in convs[1:]]
        self.scales = [(conv.weight.detach().to(dtype), cast(Tensor, conv.bias).detach().to(dtype)) for conv in scales]

    def __call__(self, level: ScaledLabelMap) -> Tensor:
        """Return `[N, C, h0, w0]` of the label map at its full size."""
        x = F.leaky_relu_(self.first(level), SLOPE)
        for conv in self.down:
            x = F.leaky_relu_(conv(x), SLOPE)
        return x.permute(0, 3, 1, 2)


class _FusedHead:
    """3x3 convolution to an image and tanh, tile by tile."""

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype, slope: float) -> None:
        self.conv, self.slope = FoldedConv(*fold_conv(conv), dtype=dtype, device=conv.weight.device), slope

    def __call__(self, x: Tensor) -> Tensor:
        """Map `[N, h, w, C]` to `[N, 3, h, w]` float32."""
        count, height, width, _ = x.shape
        image = x.new_empty(count, 3, height, width, dtype=torch.float32)
        for images, low, high in row_tiles(count, height, width):
            first, last = max(0, low - 1), min(height, high + 1)
            part = x[images, first:last]
            part = self.conv(part if self.slope == 1 else F.leaky_relu(part, self.slope))
            rows = part[:, low - first : high - first].permute(0, 3, 1, 2).float()
            torch.tanh(rows, out=image[images, :, low:high])
        return image


class FusedGenerator(nn.Module, ABC):
    """Base of both fused generators. It has no parameters: it works on a copy of the plain generator's weights.

    Args:
        plain: the generator, in evaluation mode.
        dtype: type of the computation: float32, or bfloat16, which is less accurate.
        cache_bytes: memory for what is computed of label maps, the latest first.

    Attributes:
        batch_invariant: whether the images of a batch are generated one after the other, so that none depends on the
            others by a bit, and all of one label map use the cache. On a CPU this costs no time.
    """

    def __init__(self, plain: Lab2PixV1Generator | Lab2PixV2Generator, dtype: torch.dtype, cache_bytes: int) -> None:
        super().__init__()
        self.dtype, self.cache_bytes = dtype, cache_bytes
        self.check_size, self.scale_sizes = plain.check_size, plain.scale_sizes
        self.encode_style = plain.encode_style
        self.stride = plain.stride
        self.batch_invariant = next(plain.parameters()).device.type == "cpu"
        self._caches: list[_LabelCache] = []
        self.blocks = [FusedGenResBlk(block, dtype) for block in plain.blocks]  # type: ignore[arg-type]
        self.encoder = None if plain.global_encoder is None else _FusedEncoder(plain.global_encoder, dtype)
        self._averages = isinstance(plain, Lab2PixV1Generator) and plain.sketch is not None

    @torch.no_grad()
    def forward(
        self, condition: Tensor, noise: Tensor | None = None, style: Tensor | None = None
    ) -> Tensor | list[Tensor]:
        """Generate images; arguments and results are the plain generator's."""
        if style is not None:
            noise = self.encode_style(style, noise)
        if len(condition) == 1 or not self.batch_invariant:
            images = self._generate(condition, noise)
        else:
            noises = [None] * len(condition) if noise is None else torch.split(noise, 1)
            generated = [self._generate(*pair) for pair in zip(torch.split(condition, 1), noises, strict=True)]
            images = [torch.cat(scale) for scale in zip(*generated, strict=True)]
        return self._output(images)

    @abstractmethod
    def _generate(self, condition: Tensor, noise: Tensor | None) -> list[Tensor]:
        """Return the images, largest first."""

    @abstractmethod
    def _output(self, images: list[Tensor]) -> Tensor | list[Tensor]:
        """Return what the plain generator returns."""

    @property
    def nbytes(self) -> int:
        """Memory of the cache."""
        return sum(cache.nbytes for cache in self._caches)

    def clear_cache(self) -> None:
        """Free the cache."""
        self._caches = []

    def _lookup_cache(self, condition: Tensor) -> _LabelCache:
        """Return the cache of a condition `[N, C, H, W]`, or a new one."""
        self.check_size(*condition.shape[-2:])
        symbols, pixels = unique_pixels(condition)
        for cache in self._caches:
            if cache.is_of(symbols, pixels):
                return cache
        return _LabelCache(symbols, pixels, self._levels(condition, symbols, pixels))

    def _levels(self, condition: Tensor, symbols: Tensor, pixels: Tensor) -> list[ScaledLabelMap]:
        """Return the label map at every scale, smallest first."""
        levels = []
        sizes = self.scale_sizes(condition)
        for size in sizes:
            if size == sizes[-1]:
                small, values = symbols, pixels
            elif self._averages:
                small, values = unique_pixels(F.adaptive_avg_pool2d(condition, size))
            else:
                small, values = resize_nearest(symbols[:, None].double(), size)[:, 0].long(), pixels
            levels.append(ScaledLabelMap(small, values.to(self.dtype)))
        if self.encoder is not None:
            encoded = self.encoder(levels[-1])
            for level, conv in zip(levels, self.encoder.scales, strict=False):
                level.encoded, level.conv, level.bilinear = encoded, conv, self.encoder.bilinear
        return levels

    def _update_cache(self, latest: _LabelCache) -> None:
        """Put complete label maps first in the cache, as far as memory allows."""
        for level in latest.levels:
            level.release()
        others = [cache for cache in self._caches if cache is not latest]
        kept, held = [], 0
        for cache in (latest, *others):
            held += cache.nbytes
            if held <= self.cache_bytes:
                kept.append(cache)
        self._caches = kept

    def _tables(self, cache: _LabelCache, name: str, part: FusedGenResBlk | FusedLSCA, scale: int) -> list[LookupTable]:
        for done in cache.levels[:scale]:
            done.release()
        if name not in cache.tables:
            tables = part.build_tables(cache.levels[scale])
            if not self.cache_bytes:
                return tables
            cache.tables[name] = tables
        return cache.tables[name]


class FusedV2Generator(FusedGenerator):
    """Fused generator of Lab2Pix-V2 or SPADE."""

    def __init__(self, plain: Lab2PixV2Generator, dtype: torch.dtype, cache_bytes: int) -> None:
        super().__init__(plain, dtype, cache_bytes)
        self.block_scales, self.start = plain.block_scales, plain.start
        self.from_label = not isinstance(plain.fc, NoiseEncoder)
        self.bilinear = plain.settings.upsample == "bilinear"
        self.head = _FusedHead(plain.to_image, dtype, SLOPE)

    def _generate(self, condition: Tensor, noise: Tensor | None) -> list[Tensor]:
        cache = self._lookup_cache(condition)
        x, last = self._start(cache, condition, noise), 0
        for index, (block, scale) in enumerate(zip(self.blocks, self.block_scales, strict=True)):
            factor, last = 2 if scale > last else 1, scale
            if self.bilinear and factor == 2:
                x = upsample_bilinear(x.permute(0, 3, 1, 2), factor).permute(0, 2, 3, 1).contiguous()
                factor = 1
            x = block(x, factor, self._tables(cache, f"block {index}", block, scale))
        self._update_cache(cache)
        return [self.head(x)]

    def _output(self, images: list[Tensor]) -> Tensor:
        return images[0]

    def _start(self, cache: _LabelCache, condition: Tensor, noise: Tensor | None) -> Tensor:
        if cache.start is not None:
            return cache.start
        label = resize_nearest(condition, self.scale_sizes(condition)[0])
        x = self.start(label, noise).permute(0, 2, 3, 1).to(self.dtype).contiguous()
        if self.from_label:
            cache.start = x
        return x


class FusedV1Generator(FusedGenerator):
    """Fused generator of Lab2Pix-V1."""

    def __init__(self, plain: Lab2PixV1Generator, dtype: torch.dtype, cache_bytes: int) -> None:
        super().__init__(plain, dtype, cache_bytes)
        self.start, self.outputs = plain.start, plain.outputs
        self.block_scales, self.output_scales = plain.block_scales, plain.output_scales
        self.coattention = [FusedLSCA(lsca, dtype) for lsca in plain.coattention]  # type: ignore[arg-type]
        self.heads = [_FusedHead(head, dtype, 1.0) for head in plain.to_image]  # type: ignore[arg-type]
        self.from_label = plain.noise is None

    def _generate(self, condition: Tensor, noise: Tensor | None) -> list[Tensor]:
        cache = self._lookup_cache(condition)
        x, factor = self._start(cache, condition, noise), 1
        images: list[Tensor] = []
        for step, (block, scale, end) in enumerate(
            zip(self.blocks, self.block_scales, self.output_scales, strict=True)
        ):
            previous, before = x, factor
            x = block(previous, factor, self._tables(cache, f"block {step}", block, scale))
            factor = 1 if end == scale else 2
            left = len(self.blocks) - step
            if left <= len(self.coattention):
                lsca = self.coattention[-left]
                (table,) = self._tables(cache, f"coattention {step}", lsca, end)
                x, factor = lsca(self._upsampled(previous, before), x, table), 1
            if left <= self.outputs:
                images.append(self.heads[-left](self._upsampled(x, factor)))
        self._update_cache(cache)
        return images[::-1]

    def _output(self, images: list[Tensor]) -> list[Tensor]:
        return images

    @staticmethod
    def _upsampled(x: Tensor, factor: int) -> Tensor:
        return upsampled_rows(x, factor, slice(None), 0, x.shape[1] * factor)

    def _start(self, cache: _LabelCache, condition: Tensor, noise: Tensor | None) -> Tensor:
        if cache.start is not None:
            return cache.start
        x = self.start(condition, noise, self.scale_sizes(condition)[0])
        x = x.permute(0, 2, 3, 1).to(self.dtype).contiguous()
        if self.from_label:
            cache.start = x
        return x


def fuse(
    generator: nn.Module, *, dtype: torch.dtype = torch.float32, cache_bytes: int = 2**28
) -> FusedV1Generator | FusedV2Generator:
    """Return a faster generator with the same outputs as this one in evaluation mode.

    Args:
        generator: of Lab2Pix-V1, V2 or SPADE, in evaluation mode; call `fuse` again after changing its weights.
        dtype: float32, equal to the plain generator up to rounding, or bfloat16, which is less accurate.
        cache_bytes: memory for what is computed of label maps, for the next noise; 0: none.

    Raises:
        ConfigError: a generator of another kind.
    """
    with torch.no_grad():
        if isinstance(generator, Lab2PixV2Generator) and all(isinstance(b, GenResBlk) for b in generator.blocks):
            return FusedV2Generator(generator, dtype, cache_bytes)
        if isinstance(generator, Lab2PixV1Generator):
            return FusedV1Generator(generator, dtype, cache_bytes)
    raise ConfigError(
        f"a {type(generator).__name__} cannot be fused, only generators of Lab2Pix-V1, V2 and SPADE can; use it unfused"
    )
