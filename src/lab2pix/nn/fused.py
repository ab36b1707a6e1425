"""Layers of a training step that keep less for the backward pass, by autograd functions of their own.

Each says what the plain way computes; results and gradients are equal to it but for rounding. Where a function does not
fit (evaluation, no gradients, synchronised batch norm, mixed types, compilation), callers take the plain way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lab2pix.nn.convolutions import convolve, convolve_backward
from lab2pix.nn.layouts import as_matrix, order_of

__all__ = [
    "add_to_relu",
    "conv_with_scaled_result",
    "fuses",
    "instance_norm_act",
    "is_exporting",
    "normalise_and_modulate",
    "traced_or_without_graph",
]


def traced_or_without_graph() -> bool:
    """Say whether there is nothing to save: no gradients, or a compiler or exporter that looks for itself."""
    return not torch.is_grad_enabled() or torch.compiler.is_compiling()


def is_exporting() -> bool:
    """Say whether an exporter looks on, or, where torch cannot tell the two apart, a compiler."""
    ask = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)
    return bool(ask())


def fuses(norm: nn.Module, *features: Tensor) -> bool:
    """Say whether `normalise_and_modulate` stands for this norm here: a training step through a plain batch norm."""
    return (
        type(norm) is nn.BatchNorm2d
        and norm.training
        and not norm.affine
        and not traced_or_without_graph()
        and len({(feature.dtype, feature.shape) for feature in features}) == 1
        and features[0].numel() > features[0].shape[1]  # batch norm itself refuses single values
    )


def normalise_and_modulate(norm: nn.BatchNorm2d, x: Tensor, scale: Tensor, shift: Tensor, slope: float = 1.0) -> Tensor:
    """Return `leaky_relu(norm(x) * scale + shift, slope)` without keeping the normalised map.

    Kept are `x`, `scale` and the result, which neighbours keep as well. The norm's running statistics move as they do
    in its own forward pass.

    Args:
        norm: a batch norm in training mode without weights (see `fuses`).
        x: `[N, C, H, W]`.
        scale: of the same size and type.
        shift: of the same size and type.
        slope: of the activation below zero; 1 for none.
    """
    momentum = 0.0 if norm.momentum is None else norm.momentum
    if norm.track_running_stats and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            momentum = 1.0 / float(norm.num_batches_tracked)
    result: Tensor = _NormaliseAndModulate.apply(
        x, scale, shift, norm.running_mean, norm.running_var, momentum, norm.eps, slope
    )
    return result


class _NormaliseAndModulate(torch.autograd.Function):
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
        normalised, mean, inverse = torch.native_batch_norm(
            x, None, None, running_mean, running_var, True, momentum, eps
        )
        result = torch.addcmul(shift, normalised, scale, out=normalised)
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
        of_x = of_scale = None
        if ctx.needs_input_grad[1]:
            # The normalised map once more, in place of keeping it; by a kernel that makes no float32 map of a low one.
            of_scale = torch.native_batch_norm(x, inverse, None, mean, torch.ones_like(mean), False, 0.0, 0.0)[0]
            of_scale.mul_(gradient)
        if ctx.needs_input_grad[0]:
            of_x = torch.ops.aten.native_batch_norm_backward(
                gradient * scale, x, None, None, None, mean, inverse, True, ctx.eps, [True, False, False]
            )[0]
        return of_x, of_scale, gradient, None, None, None, None, None


def instance_norm_act(x: Tensor, eps: float, slope: float) -> Tensor:
    """Return `leaky_relu(instance_norm(x), slope)` of a channels-last map, channels-last.

    Torch's instance norm copies such a map into the usual order, its gradient too, and neighbours copy both back. Here
    each sample is a batch of its own for batch norm, which reads maps as they lie.

    Args:
        x: `[N, C, H, W]`, channels-last.
        eps: of the norm, which has no weights and keeps no statistics.
        slope: of the activation below zero, more than 0.
    """
    result: Tensor = _InstanceNormAct.apply(x, eps, slope)
    return result


class _InstanceNormAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, slope: float) -> Tensor:
        result = torch.empty_like(x)
        statistics: list[Tensor] = []
        for sample, target in zip(torch.split(x, 1), torch.split(result, 1), strict=True):
            normalised, *known = torch.native_batch_norm(sample, None, None, None, None, True, 0.0, eps)
            torch.ops.aten.leaky_relu.out(normalised, slope, out=target)
            statistics += known
        ctx.save_for_backward(x, result, *statistics)
        ctx.eps, ctx.slope = eps, slope
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        x, result, *statistics = ctx.saved_tensors
        gradient = torch.ops.aten.leaky_relu_backward(gradient, result, ctx.slope, True)
        of_samples = [
            torch.ops.aten.native_batch_norm_backward(
                above, sample, None, None, None, mean, inverse, True, ctx.eps, [True, False, False]
            )[0]
            for above, sample, mean, inverse in zip(
                torch.split(gradient, 1), torch.split(x, 1), statistics[::2], statistics[1::2], strict=True
            )
        ]
        return of_samples[0] if len(of_samples) == 1 else torch.cat(of_samples), None, None


def add_to_relu(x: Tensor, summand: Tensor) -> Tensor:
    """Return `relu(x) + summand`, written over `x`; a mask of bytes is kept in place of the rectified map."""
    if x.dtype != summand.dtype or x.shape != summand.shape or traced_or_without_graph():
        return torch.relu_(x) + summand
    result: Tensor = _AddToReLU.apply(x, summand)
    return result


class _AddToReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, summand: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        ctx.save_for_backward(x <= 0)
        return x.relu_().add_(summand)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        (off,) = ctx.saved_tensors
        return torch.where(off, 0, gradient), gradient  # keeps the order in memory, which masked_fill does not


def conv_with_scaled_result(
    x: Tensor,
    weight: Tensor,
    sigma: Tensor,
    left: Tensor,
    right: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Tensor:
    """Return `conv2d(x, weight / sigma)` with `sigma = left · weight · right`, dividing the result, not the weight.

    Neither the divided weight nor any copy of it in the backward pass is made; the result has to be smaller than the
    weight for that to pay.

    Args:
        x: `[N, C, H, W]`; where its type is lower than the weight's, the convolution computes in it.
        weight: `[O, C, h, w]`, as it is before spectral norm.
        sigma: its largest singular value, a scalar.
        left: its left vector `[O]`, a constant of the backward pass.
        right: its right vector `[C·h·w]`, likewise, in the order of `as_matrix(weight)`.
        stride: of the convolution.
        padding: of the convolution.
    """
    result: Tensor = _ConvWithScaledResult.apply(x, weight, sigma, left, right, stride, padding)
    return result


class _ConvWithScaledResult(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        sigma: Tensor,
        left: Tensor,
        right: Tensor,
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> Tensor:
        cast = weight.to(x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            result = convolve(x, cast, stride, padding).div_(sigma)
        ctx.save_for_backward(x, cast, sigma, left, right, result)
        ctx.stride, ctx.padding = stride, padding
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, cast, sigma, left, right, result = ctx.saved_tensors
        needs = ctx.needs_input_grad[:2]
        of_x, of_weight = convolve_backward(gradient / sigma, x, cast, ctx.stride, ctx.padding, needs)
        if of_weight is not None:
            # d result / d sigma = -result / sigma, and d sigma / d weight = left ⊗ right.
            share = -torch.sum(gradient * result, dtype=sigma.dtype) / sigma
            # In the weight's own order: what comes back may be in another, and the vector is in this one.
            of_weight = of_weight.to(sigma.dtype, memory_format=order_of(cast))
            as_matrix(of_weight).addr_(left * share, right)
        return of_x, of_weight, None, None, None, None, None
