"""im2col convolution: small feature maps with large weights as matrix products.

On a map of a few pixels, a convolution spends its time on moving the weight. oneDNN reorders the weight at every call
and in every direction; a matrix product reads it in place.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from lab2pix.nn.fast.memory_format import as_matrix, is_channels_last, memory_format_of

_MAX_PIXELS = 256
"""Largest number of output pixels, over all samples, for which matrix products were faster."""
_MIN_WEIGHTS = 2**20
"""Smallest number of weights for which they were."""


def is_faster(x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int], dtype: torch.dtype) -> bool:
    """Return whether a convolution of `[N, C, H, W]` with `[O, C, h, w]` is faster this way in a type."""
    if weight.numel() < _MIN_WEIGHTS or weight[0, 0].numel() == 1 or dtype == torch.float16:
        return False
    height, width = output_size(x, weight, stride, padding)
    return len(x) * height * width <= _MAX_PIXELS


def convolve(x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """Return `conv2d(x, weight, None, stride, padding)` of `[N, C, H, W]` and `[O, C, h, w]`."""
    height, width = output_size(x, weight, stride, padding)
    columns, size = _im2col(x, weight, stride, padding), (len(x), len(weight), height, width)
    result = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=memory_format_of(weight))
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
    """Return the gradients of `convolve` with respect to `x` and `weight`, those that are needed."""
    flat = gradient.permute(0, 2, 3, 1).reshape(-1, len(weight))  # [N·h'·w', O]
    grad_x = _col2im(flat @ as_matrix(weight), x, gradient, weight, stride, padding) if needs[0] else None
    if not needs[1]:
        return grad_x, None
    matrix = flat.t() @ _im2col(x, weight, stride, padding)
    if not is_channels_last(weight):
        return grad_x, matrix.view(weight.shape)
    channels, height, width = weight.shape[1:]
    return grad_x, matrix.view(len(weight), height, width, channels).permute(0, 3, 1, 2)


def output_size(x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of the output of `convolve`."""
    sides = zip(x.shape[-2:], weight.shape[-2:], stride, padding, strict=True)
    height, width = ((side + 2 * pad - kernel) // step + 1 for side, kernel, step, pad in sides)
    return height, width


def _im2col(x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """Return the receptive field of each output pixel, `[N·h'·w', C·h·w]`, in the order of `as_matrix(weight)`."""
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, padding[1], padding[1], padding[0], padding[0]))
    windows = padded.unfold(1, weight.shape[-2], stride[0]).unfold(2, weight.shape[-1], stride[1])
    if is_channels_last(weight):
        windows = windows.permute(0, 1, 2, 4, 5, 3)
    return windows.reshape(-1, weight[0].numel())


def _col2im(
    columns: Tensor, x: Tensor, gradient: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Sum the columns of `_im2col` back into a map, `[N, C, H, W]`."""
    count, channels, height, width = x.shape
    down, across = weight.shape[-2:]
    order = (down, across, channels) if is_channels_last(weight) else (channels, down, across)
    taps = columns.view(count, *gradient.shape[-2:], *order)
    size = (count, height + 2 * padding[0], width + 2 * padding[1], channels)
    padded = columns.new_zeros(size, dtype=torch.promote_types(columns.dtype, torch.float32))
    for row, column, target in _targets(padded, weight, gradient, stride):
        target.add_(taps[:, :, :, row, column] if is_channels_last(weight) else taps[..., row, column])
    inner = padded[:, padding[0] : padding[0] + height, padding[1] : padding[1] + width].permute(0, 3, 1, 2)
    return inner.to(columns.dtype).contiguous(memory_format=memory_format_of(weight))


def _targets(
    padded: Tensor, weight: Tensor, gradient: Tensor, stride: tuple[int, int]
) -> Iterator[tuple[int, int, Tensor]]:
    """Yield each tap of a kernel and the input pixels `[N, h', w', C]` that it reads."""
    height, width = gradient.shape[-2:]
    for row in range(weight.shape[-2]):
        for column in range(weight.shape[-1]):
            rows = slice(row, row + (height - 1) * stride[0] + 1, stride[0])
            columns = slice(column, column + (width - 1) * stride[1] + 1, stride[1])
            yield row, column, padded[:, rows, columns]
