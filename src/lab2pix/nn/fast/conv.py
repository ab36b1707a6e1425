"""Convolutions of training steps, each by the kernel that is fastest for its size on a CPU."""

from __future__ import annotations

from types import ModuleType
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lab2pix.nn.fast import im2col, winograd

Pair = tuple[int, int]


def select_kernel(
    x: Tensor, weight: Tensor, stride: Pair, padding: Pair, dtype: torch.dtype | None = None
) -> ModuleType | None:
    """Return the module with the fastest kernel: `im2col`, `winograd`, or None for PyTorch's own.

    Args:
        x: `[N, C, H, W]`.
        weight: `[O, C, h, w]`.
        stride: of the convolution.
        padding: of the convolution.
        dtype: type of the computation; None: the type of `x`.
    """
    if x.device.type != "cpu":
        return None
    dtype = dtype or x.dtype
    if im2col.is_faster(x, weight, stride, padding, dtype):
        return im2col
    return winograd if winograd.is_faster(x, weight, stride, padding, dtype) else None


def convolve(x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Return `conv2d(x, weight, None, stride, padding)` of `[N, C, H, W]` and `[O, C, h, w]` of one type."""
    kernel = select_kernel(x, weight, stride, padding)
    if kernel is None:
        return F.conv2d(x, weight, None, stride, padding)
    return cast(Tensor, kernel.convolve(x, weight, stride, padding))


def convolve_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, needs: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of `convolve` with respect to `x` and `weight`, those that are needed."""
    kernel = select_kernel(x, weight, stride, padding)
    if kernel is None:
        grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
            gradient, x, weight, None, stride, padding, (1, 1), False, (0, 0), 1, [*needs, False]
        )
        return grad_x, grad_weight
    with torch.autocast(x.device.type, enabled=False):
        return cast("tuple[Tensor | None, Tensor | None]", kernel.backward(gradient, x, weight, stride, padding, needs))


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
    """Return `conv2d(x, weight, bias, stride, padding)` by the fastest kernel, also in the backward pass.

    Args:
        x: `[N, C, H, W]`; under autocast of any type.
        weight: `[O, C, h, w]`.
        bias: `[O]` or None.
        stride: of the convolution.
        padding: of the convolution.
    """
    dtype = autocast_dtype(x)
    if select_kernel(x, weight, stride, padding, dtype) is None:
        return F.conv2d(x, weight, bias, stride, padding)
    result: Tensor = _Conv2d.apply(x.to(dtype), weight, bias, stride, padding)
    return result


def autocast_dtype(x: Tensor) -> torch.dtype:
    """Return the type that a convolution of `x` computes in here; autocast keeps double precision."""
    kind = x.device.type
    lowered = x.dtype != torch.float64 and torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if lowered else x.dtype


class _Conv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
        lowered = weight.to(x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            result = convolve(x, lowered, stride, padding)
            if bias is not None:
                result.add_(bias.to(x.dtype).view(-1, 1, 1))
        ctx.save_for_backward(x, lowered)
        ctx.stride, ctx.padding, ctx.dtype = stride, padding, weight.dtype
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, lowered = ctx.saved_tensors
        grad_x, grad_weight = convolve_backward(gradient, x, lowered, ctx.stride, ctx.padding, ctx.needs_input_grad[:2])
        grad_bias = gradient.sum((0, 2, 3), dtype=ctx.dtype) if ctx.needs_input_grad[2] else None
        return grad_x, None if grad_weight is None else grad_weight.to(ctx.dtype), grad_bias, None, None


class FastConv2d(nn.Conv2d):
    """`nn.Conv2d` with the fastest kernel in training mode; PyTorch's own in evaluation mode."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Map `[N, C, H, W]` to `[N, O, h, w]` with a weight that may be computed by a parametrization."""
        if not self._supports(x, weight):
            result: Tensor = super()._conv_forward(x, weight, bias)
            return result
        return conv2d(x, weight, bias, cast(Pair, self.stride), cast(Pair, self.padding))

    def _supports(self, x: Tensor, weight: Tensor) -> bool:
        if not self._is_training_pass() or x.device.type != "cpu" or x.ndim != 4:
            return False
        simple = self.groups == 1 and self.dilation == (1, 1) and self.padding_mode == "zeros"
        fits = x.dtype == weight.dtype or torch.is_autocast_enabled(x.device.type)
        return simple and fits and not isinstance(self.padding, str)

    def _is_training_pass(self) -> bool:
        return self.training


class EvalConv2d(FastConv2d):
    """Convolution of a frozen backbone: in evaluation mode always, and yet a part of training steps."""

    def _is_training_pass(self) -> bool:
        return True
