"""The convolutions of a training step, each by what is quickest for its size on a CPU."""

from __future__ import annotations

from types import ModuleType
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lab2pix.nn import small_maps, winograd

__all__ = ["Conv2d", "FrozenConv2d", "convolution", "convolve", "convolve_backward", "quick_way", "type_of_pass"]


def quick_way(
    x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int], dtype: torch.dtype | None = None
) -> ModuleType | None:
    """Return what makes a convolution quicker than torch does: `small_maps`, `winograd`, or None for nothing.

    Args:
        x: `[N, C, H, W]`.
        weight: `[O, C, h, w]`.
        stride: of the convolution.
        padding: likewise.
        dtype: what the convolution computes in; None: the type of `x`.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    dtype = dtype or x.dtype
    if small_maps.pays(x, weight, stride, padding, dtype):
        return small_maps
    return winograd if winograd.pays(x, weight, stride, padding, dtype) else None


def convolve(x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """Return `conv2d(x, weight, None, stride, padding)` of `[N, C, H, W]` and `[O, C, h, w]` of one type."""
    way = quick_way(x, weight, stride, padding)
    if way is None:
        return F.conv2d(x, weight, None, stride, padding)
    return cast(Tensor, way.convolve(x, weight, stride, padding))


def convolve_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of `convolve` at `x` and at `weight`, those that are needed."""
    way = quick_way(x, weight, stride, padding)
    if way is None:
        of_x, of_weight, _ = torch.ops.aten.convolution_backward(
            gradient, x, weight, None, stride, padding, (1, 1), False, (0, 0), 1, [*needs, False]
        )
        return of_x, of_weight
    with torch.autocast(x.device.type, enabled=False):
        return cast("tuple[Tensor | None, Tensor | None]", way.backward(gradient, x, weight, stride, padding, needs))


def convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Return `conv2d(x, weight, bias, stride, padding)`, by the quickest way, also in its backward pass.

    Args:
        x: `[N, C, H, W]`; under autocast of any type.
        weight: `[O, C, h, w]`.
        bias: `[O]` or None.
        stride: of the convolution.
        padding: likewise.
    """
    dtype = type_of_pass(x)
    if quick_way(x, weight, stride, padding, dtype) is None:
        return F.conv2d(x, weight, bias, stride, padding)
    result: Tensor = _Convolution.apply(x.to(dtype), weight, bias, stride, padding)
    return result


def type_of_pass(x: Tensor) -> torch.dtype:
    """Return the type that a convolution of `x` computes in here; autocast leaves double precision as it is."""
    kind = x.device.type
    lowered = x.dtype != torch.float64 and torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if lowered else x.dtype


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> Tensor:
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
        of_x, of_weight = convolve_backward(gradient, x, lowered, ctx.stride, ctx.padding, ctx.needs_input_grad[:2])
        of_bias = gradient.sum((0, 2, 3), dtype=ctx.dtype) if ctx.needs_input_grad[2] else None
        return of_x, None if of_weight is None else of_weight.to(ctx.dtype), of_bias, None, None


class Conv2d(nn.Conv2d):
    """A convolution whose training step takes the quickest way; evaluation is torch's own."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Map `[N, C, H, W]` to `[N, O, h, w]` with a weight that may not be the module's own."""
        if not self._is_quick(x, weight):
            plain: Tensor = super()._conv_forward(x, weight, bias)
            return plain
        stride, padding = cast("tuple[int, int]", self.stride), cast("tuple[int, int]", self.padding)
        return convolution(x, weight, bias, stride, padding)

    def _is_quick(self, x: Tensor, weight: Tensor) -> bool:
        if not self._is_in_step() or x.device.type != "cpu" or x.ndim != 4:
            return False
        simple = self.groups == 1 and self.dilation == (1, 1) and self.padding_mode == "zeros"
        fits = x.dtype == weight.dtype or torch.is_autocast_enabled(x.device.type)
        return simple and fits and not isinstance(self.padding, str)

    def _is_in_step(self) -> bool:
        return self.training


class FrozenConv2d(Conv2d):
    """One that is always in evaluation mode, and part of a training step nevertheless."""

    def _is_in_step(self) -> bool:
        return True
