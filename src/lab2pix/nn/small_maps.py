"""Convolutions of small maps by large weights as matrix products, where a processor is quicker so.

On maps of some pixels a convolution's time is that of moving its weight, which oneDNN's convolutions lay out anew at
every call and in every direction; a matrix product reads it as it lies.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from lab2pix.nn.layouts import as_matrix, is_channels_last, order_of

__all__ = ["backward", "convolve", "pays", "size_of_result"]

_PLACES = 256
"""The most pixels of a result, in all samples together, for which products were quicker."""
_WEIGHTS = 2**20
"""The least weights for which they were."""


def pays(x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int], dtype: torch.dtype) -> bool:
    """Say whether a convolution of `[N, C, H, W]` by `[O, C, h, w]` is quicker this way, computed in a type."""
    if weight.numel() < _WEIGHTS or weight[0, 0].numel() == 1 or dtype == torch.float16:
        return False
    height, width = size_of_result(x, weight, stride, padding)
    return len(x) * height * width <= _PLACES


def convolve(x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """Return `conv2d(x, weight, None, stride, padding)` of `[N, C, H, W]` and `[O, C, h, w]`."""
    height, width = size_of_result(x, weight, stride, padding)
    columns, size = _columns(x, weight, stride, padding), (len(x), len(weight), height, width)
    result = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=order_of(weight))  # no view is returned
    pixels = result.permute(0, 2, 3, 1)
    if pixels.is_contiguous():
        torch.mm(columns, as_matrix(weight).t(), out=pixels.view(-1, len(weight)))
    else:
        pixels.copy_((columns @ as_matrix(weight).t()).view(pixels.shape))
    return result


def backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of `convolve` at `x` and at `weight`, those that are needed."""
    flat = gradient.permute(0, 2, 3, 1).reshape(-1, len(weight))  # [N·h'·w', O]
    of_x = _scattered(flat @ as_matrix(weight), x, gradient, weight, stride, padding) if needs[0] else None
    if not needs[1]:
        return of_x, None
    matrix = flat.t() @ _columns(x, weight, stride, padding)
    if not is_channels_last(weight):
        return of_x, matrix.view(weight.shape)
    channels, height, width = weight.shape[1:]
    return of_x, matrix.view(len(weight), height, width, channels).permute(0, 3, 1, 2)


def size_of_result(x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of what `convolve` returns."""
    sides = zip(x.shape[-2:], weight.shape[-2:], stride, padding, strict=True)
    height, width = ((side + 2 * pad - kernel) // step + 1 for side, kernel, step, pad in sides)
    return height, width


def _columns(x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """Return what each pixel of the result sees, `[N·h'·w', C·h·w]`, in the order of `as_matrix(weight)`."""
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, padding[1], padding[1], padding[0], padding[0]))
    windows = padded.unfold(1, weight.shape[-2], stride[0]).unfold(2, weight.shape[-1], stride[1])
    if is_channels_last(weight):
        windows = windows.permute(0, 1, 2, 4, 5, 3)
    return windows.reshape(-1, weight[0].numel())


def _scattered(
    columns: Tensor, x: Tensor, gradient: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Add up what `_columns` took apart, `[N, C, H, W]`."""
    count, channels, height, width = x.shape
    down, across = weight.shape[-2:]
    order = (down, across, channels) if is_channels_last(weight) else (channels, down, across)
    taps = columns.view(count, *gradient.shape[-2:], *order)
    size = (count, height + 2 * padding[0], width + 2 * padding[1], channels)
    padded = columns.new_zeros(size, dtype=torch.promote_types(columns.dtype, torch.float32))
    for row, column, target in _targets(padded, weight, gradient, stride):
        target.add_(taps[:, :, :, row, column] if is_channels_last(weight) else taps[..., row, column])
    inner = padded[:, padding[0] : padding[0] + height, padding[1] : padding[1] + width].permute(0, 3, 1, 2)
    return inner.to(columns.dtype).contiguous(memory_format=order_of(weight))


def _targets(
    padded: Tensor, weight: Tensor, gradient: Tensor, stride: tuple[int, int]
) -> Iterator[tuple[int, int, Tensor]]:
    """Yield each tap of a kernel, and the pixels `[N, h', w', C]` that the pixels of the result see through it."""
    height, width = gradient.shape[-2:]
    for row in range(weight.shape[-2]):
        for column in range(weight.shape[-1]):
            rows = slice(row, row + (height - 1) * stride[0] + 1, stride[0])
            columns = slice(column, column + (width - 1) * stride[1] + 1, stride[1])
            yield row, column, padded[:, rows, columns]
