"""Convolutions by a quarter of the multiplications, in float32: Winograd's minimal filtering F(4x4, 3x3).

A 3x3 convolution makes 4x4 pixels from 6x6 by 16 * 9 products per pair of channels. Seen as polynomials, and told by
their values at six points, both become products of 36 numbers (Lavin and Gray, 2016, arXiv:1509.09308); the sums over
channels are 36 matrix products then. The points 0, 1, -1, 1/2, -2 and infinity keep rounding small (Barabasz et al.,
2020, arXiv:1803.10986): results and gradients are right to some 2e-6 of their size, where torch's own are to 2e-7 or
1e-6, as they are made.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from lab2pix.nn.layouts import is_channels_last, order_of

__all__ = ["backward", "convolve", "pays"]

_SIDE = 4
"""Pixels that a tile of the result is wide and high."""
_SEEN = 6
"""Pixels that it is made from."""
_POINTS = _SEEN * _SEEN

_OF_RESULT = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 1 / 2, -2, 0),
    (0, 1, 1, 1 / 4, 4, 0),
    (0, 1, -1, 1 / 8, -8, 1),
)
_OF_WEIGHT = (
    (1 / 2, 0, 0),
    (1 / 6, 1 / 6, 1 / 6),
    (1 / 6, -1 / 6, 1 / 6),
    (1 / 15, 1 / 30, 1 / 60),
    (1 / 30, -1 / 15, 2 / 15),
    (0, 0, 1 / 2),
)
_OF_INPUT = (
    (2, -3, -4, 3, 2, 0),
    (0, -2, 1, 5, 2, 0),
    (0, -2, 5, -1, -2, 0),
    (0, 32, 16, -32, -16, 0),
    (0, 1, -2, -1, 2, 0),
    (0, 2, -3, -4, 3, 2),
)

_TILES = 48
"""The fewest tiles for which this was quicker; the weight's 36 values cost as much for one tile as for many."""
_CHANNELS, _CHANNELS_FIRST = 60, 100
"""The least `in * out / (in + out)` channels for which it was, as values of pixels are made for each channel; and what
they have to be where a map is not channels-last and has to be turned before and after."""
_BYTES = 24 * 2**20
"""The most memory that the values of one tensor take at a time."""


def pays(x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int], dtype: torch.dtype) -> bool:
    """Say whether a convolution of `[N, C, H, W]` by `[O, C, h, w]` fits, and is quicker this way, in a type."""
    if weight.shape[-2:] != (3, 3) or stride != (1, 1) or padding != (1, 1) or dtype != torch.float32:
        return False
    outs, channels = weight.shape[:2]
    tiles = len(x) * _tiles(x.shape[-2]) * _tiles(x.shape[-1])
    least = _CHANNELS if is_channels_last(x) or is_channels_last(weight) else _CHANNELS_FIRST
    return tiles >= _TILES and outs * channels >= least * (outs + channels)


def convolve(x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """Return `conv2d(x, weight, None, stride, padding)` of `[N, C, H, W]` and `[O, C, 3, 3]`, both of 1."""
    del stride, padding
    return _convolve(x, weight, _matrix("weight", x.dtype), turned=False)


def backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of `convolve` at `x` and at `weight`, those that are needed."""
    del stride, padding
    of_x = None
    if needs[0]:
        # The same convolution by the weight turned around, from its results to its inputs.
        of_x = _convolve(gradient, weight, _matrix("weight", gradient.dtype).flip(1), turned=True)
    return of_x, _gradient_of_weight(gradient, x, weight) if needs[1] else None


def _gradient_of_weight(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    outs, channels = weight.shape[:2]
    result = torch.empty_like(weight, memory_format=order_of(weight))
    taps = result.permute(2, 3, 0, 1)
    to_taps = _matrix("weight", x.dtype).t()
    padded, plain = _padded(x, 1), _padded(gradient, 0)
    parts = list(_parts(x, max(outs, channels)))
    seen = given = x.new_empty(0)
    for some in _chunks(outs, channels * x.element_size()):
        summed = x.new_empty(_POINTS, len(range(outs)[some]), channels)
        for index, part in enumerate(parts):
            if seen.numel() == 0 or len(parts) > 1:
                seen, given = _values_of_pixels(padded, part), _values_of_gradient(plain, part)
            torch.baddbmm(summed, given[..., some].transpose(1, 2), seen, beta=min(index, 1), out=summed)
        target = taps[:, :, some]
        target.copy_((to_taps @ summed.view(_POINTS, -1)).view(target.shape))
    return result


def _convolve(x: Tensor, weight: Tensor, of_weight: Tensor, *, turned: bool) -> Tensor:
    outs, channels = weight.shape[:2]
    results = channels if turned else outs
    count, _, height, width = x.shape
    down, across = _tiles(height), _tiles(width)
    size = (count, results, down * _SIDE, across * _SIDE)
    result = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    tiles = result.permute(0, 2, 3, 1).view(count, down, _SIDE, across, _SIDE, results)
    of_result = _matrix("result", x.dtype)
    padded = _padded(x, 1)
    for part in _parts(x, max(results, x.shape[1])):
        seen = _values_of_pixels(padded, part)
        for some in _chunks(results, x.shape[1] * x.element_size()):
            values = _values_of_weight(weight[:, some] if turned else weight[some], of_weight)
            products = torch.bmm(seen, values if turned else values.transpose(1, 2))
            target = tiles[part][..., some]
            pixels = (of_result @ products.view(_POINTS, -1)).view(
                _SIDE, _SIDE, len(target), target.shape[1], across, -1
            )
            target.copy_(pixels.permute(2, 3, 0, 4, 1, 5))
    if size[2:] != (height, width):
        result = result[..., :height, :width].clone(memory_format=torch.channels_last)
    return result if is_channels_last(x) or is_channels_last(weight) else _turned(result)


def _turned(x: Tensor) -> Tensor:
    """Return a channels-last map in the usual order; matrix by matrix, which torch turns quickest."""
    result = x.new_empty(x.shape)
    for target, sample in zip(result, x, strict=True):
        target.flatten(1).copy_(sample.permute(1, 2, 0).flatten(0, 1).t())
    return result


def _tiles(pixels: int) -> int:
    return -(-pixels // _SIDE)


@lru_cache
def _matrix(name: str, dtype: torch.dtype) -> Tensor:
    """Return how two-dimensional values are made: of 6x6 pixels or of a 3x3 weight, or 4x4 pixels of such."""
    numbers = {"result": _OF_RESULT, "weight": _OF_WEIGHT, "input": _OF_INPUT}[name]
    one = torch.tensor(numbers, dtype=torch.float64, device="cpu")
    return torch.kron(one, one).to(dtype)


def _padded(x: Tensor, border: int) -> Tensor:
    """Return `[N, H, W, C]` with a border of zeros, and more below and to the right up to whole tiles."""
    height, width = x.shape[-2:]
    below, right = _tiles(height) * _SIDE - height, _tiles(width) * _SIDE - width
    return F.pad(x.permute(0, 2, 3, 1), (0, 0, border, border + right, border, border + below))


def _parts(x: Tensor, channels: int) -> Iterator[tuple[slice, slice]]:
    """Yield samples, and rows of tiles in them, whose values fit into the memory allowed."""
    down, across = _tiles(x.shape[-2]), _tiles(x.shape[-1])
    rows = max(1, _BYTES // (_POINTS * across * channels * x.element_size()))
    samples = max(1, rows // down)
    for sample in range(0, len(x), samples):
        for row in range(0, down, rows):
            yield slice(sample, sample + samples), slice(row, row + rows)


def _chunks(results: int, each: int) -> Iterator[slice]:
    """Yield the results, as many at a time as keep the weight's values, of so many bytes, in the memory allowed."""
    count = -(-results * each * _POINTS // _BYTES)
    size = -(-results // count)
    for start in range(0, results, size):
        yield slice(start, start + size)


def _values_of_pixels(padded: Tensor, part: tuple[slice, slice]) -> Tensor:
    """Return the values of 6x6 pixels around each tile, `[36, tiles, C]`."""
    samples, rows = part
    windows = padded[samples].unfold(1, _SEEN, _SIDE)[:, rows].unfold(2, _SEEN, _SIDE)  # [n, h, w, C, 6, 6]
    flat = windows.permute(4, 5, 0, 1, 2, 3).reshape(_POINTS, -1)
    return (_matrix("input", padded.dtype) @ flat).view(_POINTS, -1, padded.shape[-1])


def _values_of_gradient(padded: Tensor, part: tuple[slice, slice]) -> Tensor:
    """Return what reaches the products from the gradient of each tile's pixels, `[36, tiles, O]`."""
    samples, rows = part
    tiles = padded[samples].unfold(1, _SIDE, _SIDE)[:, rows].unfold(2, _SIDE, _SIDE)  # [n, h, w, O, 4, 4]
    flat = tiles.permute(4, 5, 0, 1, 2, 3).reshape(_SIDE * _SIDE, -1)
    return (_matrix("result", padded.dtype).t() @ flat).view(_POINTS, -1, padded.shape[-1])


def _values_of_weight(weight: Tensor, matrix: Tensor) -> Tensor:
    """Return the values of a weight `[O, C, 3, 3]` as `[36, O, C]`."""
    outs, channels = weight.shape[:2]
    taps = weight.permute(2, 3, 0, 1).reshape(9, -1)
    return (matrix @ taps).view(_POINTS, outs, channels)
