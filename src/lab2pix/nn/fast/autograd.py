"""Autograd functions that save less for the backward pass of a training step.

Each docstring says what is computed; outputs and gradients equal those of the plain computation up to rounding. None
can be differentiated twice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lab2pix.nn.fast.conv import Pair, convolve, convolve_backward
from lab2pix.nn.fast.memory_format import as_matrix, memory_format_of


def can_fuse(norm: nn.Module, *features: Tensor) -> bool:
    """Return whether `batch_norm_modulate` can replace this norm here: a training step through a plain batch norm."""
    return (
        type(norm) is nn.BatchNorm2d
        and norm.training
        and not norm.affine
        and torch.is_grad_enabled()
        and len({(feature.dtype, feature.shape) for feature in features}) == 1
        and features[0].numel() > features[0].shape[1]  # batch norm itself raises an error for single values
    )


def batch_norm_modulate(norm: nn.BatchNorm2d, x: Tensor, scale: Tensor, shift: Tensor, slope: float = 1.0) -> Tensor:
    """Return `leaky_relu(norm(x) * scale + shift, slope)` without saving the normalized map.

    Saves only `x`, `scale` and the output for backward; the adjacent layers save these tensors anyway, so this costs no
    extra memory. The norm's running statistics are updated as in its own forward pass.

    Args:
        norm: a batch norm in training mode without weights (see `can_fuse`).
        x: `[N, C, H, W]`.
        scale: of the same size and type.
        shift: of the same size and type.
        slope: negative slope of the LeakyReLU; 1 for none.
    """
    momentum = 0.0 if norm.momentum is None else norm.momentum
    if norm.track_running_stats and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            momentum = 1.0 / float(norm.num_batches_tracked)
    result: Tensor = _BatchNormModulate.apply(
        x, scale, shift, norm.running_mean, norm.running_var, momentum, norm.eps, slope
    )
    return result


class _BatchNormModulate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        shift: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
        slope: float,
    ) -> Tensor:
        normalized, mean, inverse = torch.native_batch_norm(
            x, None, None, running_mean, running_var, True, momentum, eps
        )
        result = torch.addcmul(shift, normalized, scale, out=normalized)
        if slope != 1:
            torch.nn.functional.leaky_relu(result, slope, inplace=True)
        ctx.save_for_backward(x, scale, mean, inverse, *([result] if slope != 1 else []))
        ctx.eps, ctx.slope = eps, slope
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, mean, inverse, *results = ctx.saved_tensors
        if results:
            gradient = torch.ops.aten.leaky_relu_backward(gradient, results[0], ctx.slope, True)
        grad_x = grad_scale = None
        if ctx.needs_input_grad[1]:
            # Computes the normalized map again, by a kernel that makes no float32 copy of a bfloat16 map.
            grad_scale = torch.native_batch_norm(x, inverse, None, mean, torch.ones_like(mean), False, 0.0, 0.0)[0]
            grad_scale.mul_(gradient)
        if ctx.needs_input_grad[0]:
            grad_x = torch.ops.aten.native_batch_norm_backward(
                gradient * scale, x, None, None, None, mean, inverse, True, ctx.eps, [True, False, False]
            )[0]
        return grad_x, grad_scale, gradient, None, None, None, None, None


def instance_norm_leaky_relu(x: Tensor, eps: float, slope: float) -> Tensor:
    """Return `leaky_relu(instance_norm(x), slope)` of a channels-last map, channels-last.

    PyTorch's instance norm converts such a map and its gradient to contiguous format, and the adjacent layers convert
    both back. Here each sample is a batch of its own for batch norm, which supports channels-last.

    Args:
        x: `[N, C, H, W]`, channels-last.
        eps: of the norm, which has no weights and keeps no statistics.
        slope: negative slope of the LeakyReLU, more than 0.
    """
    result: Tensor = _InstanceNormLeakyReLU.apply(x, eps, slope)
    return result


class _InstanceNormLeakyReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, slope: float) -> Tensor:
        result = torch.empty_like(x)
        statistics: list[Tensor] = []
        for sample, target in zip(torch.split(x, 1), torch.split(result, 1), strict=True):
            normalized, *known = torch.native_batch_norm(sample, None, None, None, None, True, 0.0, eps)
            torch.ops.aten.leaky_relu.out(normalized, slope, out=target)
            statistics += known
        ctx.save_for_backward(x, result, *statistics)
        ctx.eps, ctx.slope = eps, slope
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        x, result, *statistics = ctx.saved_tensors
        gradient = torch.ops.aten.leaky_relu_backward(gradient, result, ctx.slope, True)
        grads = [
            torch.ops.aten.native_batch_norm_backward(
                above, sample, None, None, None, mean, inverse, True, ctx.eps, [True, False, False]
            )[0]
            for above, sample, mean, inverse in zip(
                torch.split(gradient, 1), torch.split(x, 1), statistics[::2], statistics[1::2], strict=True
            )
        ]
        return grads[0] if len(grads) == 1 else torch.cat(grads), None, None


def relu_add_(x: Tensor, summand: Tensor) -> Tensor:
    """Return `relu(x) + summand`, written over `x`; saves a byte mask instead of the rectified map."""
    if x.dtype != summand.dtype or x.shape != summand.shape or not torch.is_grad_enabled():
        return torch.relu_(x) + summand
    result: Tensor = _ReLUAdd.apply(x, summand)
    return result


class _ReLUAdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, summand: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        ctx.save_for_backward(x <= 0)
        return x.relu_().add_(summand)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        (off,) = ctx.saved_tensors
        return torch.where(off, 0, gradient), gradient  # keeps the memory format, unlike masked_fill


def conv2d_scaled_output(
    x: Tensor, weight: Tensor, sigma: Tensor, left: Tensor, right: Tensor, stride: Pair, padding: Pair
) -> Tensor:
    """Return `conv2d(x, weight / sigma)` with `sigma = left · weight · right`, dividing the output, not the weight.

    Neither the divided weight nor a copy of it in the backward pass is made, which is faster where the output is
    smaller than the weight.

    Args:
        x: `[N, C, H, W]`; the convolution computes in its type.
        weight: `[O, C, h, w]`, before spectral norm.
        sigma: its largest singular value, a scalar.
        left: its left singular vector `[O]`, a constant of the backward pass.
        right: its right singular vector `[C·h·w]`, likewise, in the order of `as_matrix(weight)`.
        stride: of the convolution.
        padding: of the convolution.
    """
    result: Tensor = _Conv2dScaledOutput.apply(x, weight, sigma, left, right, stride, padding)
    return result


class _Conv2dScaledOutput(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, sigma: Tensor, left: Tensor, right: Tensor, stride: Pair, padding: Pair
    ) -> Tensor:
        lowered = weight.to(x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            result = convolve(x, lowered, stride, padding).div_(sigma)
        ctx.save_for_backward(x, lowered, sigma, left, right, result)
        ctx.stride, ctx.padding = stride, padding
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, lowered, sigma, left, right, result = ctx.saved_tensors
        needs = ctx.needs_input_grad[:2]
        grad_x, grad_weight = convolve_backward(gradient / sigma, x, lowered, ctx.stride, ctx.padding, needs)
        if grad_weight is not None:
            # d result / d sigma = -result / sigma, and d sigma / d weight = left ⊗ right.
            share = -torch.sum(gradient * result, dtype=sigma.dtype) / sigma
            # In the weight's own memory format, whose order the right vector has.
            grad_weight = grad_weight.to(sigma.dtype, memory_format=memory_format_of(lowered))
            as_matrix(grad_weight).addr_(left * share, right)
        return grad_x, grad_weight, None, None, None, None, None
