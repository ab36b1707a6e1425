"""Winograd convolution F(4x4, 3x3) in float32: a quarter of the multiplications of a 3x3 convolution.

A 3x3 convolution computes 4x4 output pixels from 6x6 input pixels with 16 * 9 products per pair of channels. In the
Winograd domain, these are 36 products (Lavin and Gray, 2016, arXiv:1509.09308), so that the sums over channels become
36 matrix products. The interpolation points 0, 1, -1, 1/2, -2 and infinity keep rounding small (Barabasz et al., 2020,
arXiv:1803.10986): outputs and gradients have a relative error of about 2e-6, PyTorch's own 2e-7 to 1e-6.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from lab2pix.nn.fast.memory_format import is_channels_last, memory_format_of

_TILE = 4
"""Side of an output tile in pixels."""
_WINDOW = 6
"""Side of the input window of a tile in pixels."""
_POINTS = _WINDOW * _WINDOW

_OUTPUT = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 1 / 2, -2, 0),
    (0, 1, 1, 1 / 4, 4, 0),
    (0, 1, -1, 1 / 8, -8, 1),
)
_WEIGHT = (
    (1 / 2, 0, 0),
    (1 / 6, 1 / 6, 1 / 6),
    (1 / 6, -1 / 6, 1 / 6),
    (1 / 15, 1 / 30, 1 / 60),
    (1 / 30, -1 / 15, 2 / 15),
    (0, 0, 1 / 2),
)
_INPUT = (
    (2, -3, -4, 3, 2, 0),
    (0, -2, 1, 5, 2, 0),
    (0, -2, 5, -1, -2, 0),
    (0, 32, 16, -32, -16, 0),
    (0, 1, -2, -1, 2, 0),
    (0, 2, -3, -4, 3, 2),
)

_MIN_TILES = 48
"""Fewest tiles for which this was faster: the transform of the weight costs the same for one tile as for many."""
_MIN_CHANNELS, _MIN_CHANNELS_CONTIGUOUS = 60, 100
"""Smallest `in * out / (in + out)` channels for which it was faster, as the transforms cost time per channel.

The second is for maps that are not channels-last and have to be converted before and after.
"""
_MAX_BYTES = 24 * 2**20
"""Most memory that one transformed tensor takes at a time."""


def is_faster(x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int], dtype: torch.dtype) -> bool:
    """Return whether a convolution of `[N, C, H, W]` with `[O, C, h, w]` is possible and faster this way in a type."""
    if weight.shape[-2:] != (3, 3) or stride != (1, 1) or padding != (1, 1) or dtype != torch.float32:
        return False
    outs, channels = weight.shape[:2]
    tiles = len(x) * _tiles(x.shape[-2]) * _tiles(x.shape[-1])
    least = _MIN_CHANNELS if is_channels_last(x) or is_channels_last(weight) else _MIN_CHANNELS_CONTIGUOUS
    return tiles >= _MIN_TILES and outs * channels >= least * (outs + channels)


def convolve(x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """Return `conv2d(x, weight, None, stride, padding)` of `[N, C, H, W]` and `[O, C, 3, 3]`, stride and padding 1."""
    del stride, padding
    return _convolve(x, weight, _matrix("weight", x.dtype), transposed=False)


def backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of `convolve` with respect to `x` and `weight`, those that are needed."""
    del stride, padding
    grad_x = None
    if needs[0]:
        # The same convolution with the flipped weight, from outputs to inputs.
        grad_x = _convolve(gradient, weight, _matrix("weight", gradient.dtype).flip(1), transposed=True)
    return grad_x, _weight_gradient(gradient, x, weight) if needs[1] else None


def _weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    outs, channels = weight.shape[:2]
    result = torch.empty_like(weight, memory_format=memory_format_of(weight))
    taps = result.permute(2, 3, 0, 1)
    to_taps = _matrix("weight", x.dtype).t()
    padded, plain = _padded(x, 1), _padded(gradient, 0)
    parts = list(_parts(x, max(outs, channels)))
    inputs = gradients = x.new_empty(0)
    for some in _chunks(outs, channels * x.element_size()):
        summed = x.new_empty(_POINTS, len(range(outs)[some]), channels)
        for index, part in enumerate(parts):
            if inputs.numel() == 0 or len(parts) > 1:
                inputs, gradients = _transform_input(padded, part), _transform_grad_output(plain, part)
            torch.baddbmm(summed, gradients[..., some].transpose(1, 2), inputs, beta=min(index, 1), out=summed)
        target = taps[:, :, some]
        target.copy_((to_taps @ summed.view(_POINTS, -1)).view(target.shape))
    return result


def _convolve(x: Tensor, weight: Tensor, of_weight: Tensor, *, transposed: bool) -> Tensor:
    outs, channels = weight.shape[:2]
    results = channels if transposed else outs
    count, _, height, width = x.shape
    down, across = _tiles(height), _tiles(width)
    size = (count, results, down * _TILE, across * _TILE)
    result = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    tiles = result.permute(0, 2, 3, 1).view(count, down, _TILE, across, _TILE, results)
    of_result = _matrix("output", x.dtype)
    padded = _padded(x, 1)
    for part in _parts(x, max(results, x.shape[1])):
        inputs = _transform_input(padded, part)
        for some in _chunks(results, x.shape[1] * x.element_size()):
            values = _transform_weight(weight[:, some] if transposed else weight[some], of_weight)
            products = torch.bmm(inputs, values if transposed else values.transpose(1, 2))
            target = tiles[part][..., some]
            pixels = (of_result @ products.view(_POINTS, -1)).view(
                _TILE, _TILE, len(target), target.shape[1], across, -1
            )
            target.copy_(pixels.permute(2, 3, 0, 4, 1, 5))
    if size[2:] != (height, width):
        result = result[..., :height, :width].clone(memory_format=torch.channels_last)
    return result if is_channels_last(x) or is_channels_last(weight) else _to_contiguous(result)


def _to_contiguous(x: Tensor) -> Tensor:
    """Return a channels-last map in contiguous format, matrix by matrix, which is the fastest transpose."""
    result = x.new_empty(x.shape)
    for target, sample in zip(result, x, strict=True):
        target.flatten(1).copy_(sample.permute(1, 2, 0).flatten(0, 1).t())
    return result


def _tiles(pixels: int) -> int:
    return -(-pixels // _TILE)


@lru_cache
def _matrix(name: str, dtype: torch.dtype) -> Tensor:
    """Return a two-dimensional transform: of 6x6 pixels, of a 3x3 weight, or to 4x4 output pixels."""
    numbers = {"output": _OUTPUT, "weight": _WEIGHT, "input": _INPUT}[name]
    one = torch.tensor(numbers, dtype=torch.float64, device="cpu")
    return torch.kron(one, one).to(dtype)


def _padded(x: Tensor, border: int) -> Tensor:
    """Return `[N, H, W, C]` with a border of zeros, and more below and to the right up to whole tiles."""
    height, width = x.shape[-2:]
    below, right = _tiles(height) * _TILE - height, _tiles(width) * _TILE - width
    return F.pad(x.permute(0, 2, 3, 1), (0, 0, border, border + right, border, border + below))


def _parts(x: Tensor, channels: int) -> Iterator[tuple[slice, slice]]:
    """Yield slices of samples and of rows of tiles whose transform fits into the memory limit."""
    down, across = _tiles(x.shape[-2]), _tiles(x.shape[-1])
    rows = max(1, _MAX_BYTES // (_POINTS * across * channels * x.element_size()))
    samples = max(1, rows // down)
    for sample in range(0, len(x), samples):
        for row in range(0, down, rows):
            yield slice(sample, sample + samples), slice(row, row + rows)


def _chunks(results: int, each: int) -> Iterator[slice]:
    """Yield slices of output channels; the transformed weight, `each` bytes per channel, fits into the memory limit."""
    count = -(-results * each * _POINTS // _MAX_BYTES)
    size = -(-results // count)
    for start in range(0, results, size):
        yield slice(start, start + size)


def _transform_input(padded: Tensor, part: tuple[slice, slice]) -> Tensor:
    """Return the transform of each tile's 6x6 window, `[36, tiles, C]`."""
    samples, rows = part
    windows = padded[samples].unfold(1, _WINDOW, _TILE)[:, rows].unfold(2, _WINDOW, _TILE)  # [n, h, w, C, 6, 6]
    flat = windows.permute(4, 5, 0, 1, 2, 3).reshape(_POINTS, -1)
    return (_matrix("input", padded.dtype) @ flat).view(_POINTS, -1, padded.shape[-1])


def _transform_grad_output(padded: Tensor, part: tuple[slice, slice]) -> Tensor:
    """Return the transform of each tile's output gradient, `[36, tiles, O]`."""
    samples, rows = part
    tiles = padded[samples].unfold(1, _TILE, _TILE)[:, rows].unfold(2, _TILE, _TILE)  # [n, h, w, O, 4, 4]
    flat = tiles.permute(4, 5, 0, 1, 2, 3).reshape(_TILE * _TILE, -1)
    return (_matrix("output", padded.dtype).t() @ flat).view(_POINTS, -1, padded.shape[-1])


def _transform_weight(weight: Tensor, matrix: Tensor) -> Tensor:
    """Return the transform of a weight `[O, C, 3, 3]`, `[36, O, C]`."""
    outs, channels = weight.shape[:2]
    taps = weight.permute(2, 3, 0, 1).reshape(9, -1)
    return (matrix @ taps).view(_POINTS, outs, channels)
