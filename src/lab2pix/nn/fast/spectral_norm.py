"""Spectral norm without a copy of the weight per step, for any memory format."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lab2pix.nn.fast import _torch
from lab2pix.nn.fast.autograd import conv2d_scaled_output
from lab2pix.nn.fast.conv import FastConv2d, Pair, autocast_dtype, conv2d
from lab2pix.nn.fast.im2col import output_size
from lab2pix.nn.fast.memory_format import as_matrix, is_channels_last


def has_spectral_norm(conv: nn.Module) -> bool:
    """Return whether PyTorch's spectral norm, and nothing else, parametrizes a module's weight."""
    if _torch.SpectralNorm is None or not parametrize.is_parametrized(conv, "weight"):
        return False
    stack = _parametrizations(conv)
    return len(stack) == 1 and isinstance(stack[0], _torch.SpectralNorm)


def _parametrizations(conv: nn.Module) -> parametrize.ParametrizationList:
    return cast(parametrize.ParametrizationList, cast(nn.ModuleDict, conv.parametrizations)["weight"])


class FastSpectralConv2d(FastConv2d):
    """Convolution with PyTorch's spectral norm that divides the output where it is smaller than the weight.

    Outputs, gradients, singular vectors and the state dict are those of PyTorch's spectral norm. Under autocast the
    original weight is cast; norm and gradient keep its type. This holds for training steps, and for the frozen weights
    of several passes within `parametrize.cached()`; otherwise PyTorch divides the weight.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, C, H, W]` to `[N, O, h, w]`."""
        if not self._scales_output(x):
            return super().forward(x)
        stack, dtype = _parametrizations(self), autocast_dtype(x)
        weight, norm = stack.original, cast(FastSpectralNorm, stack[0])
        stride, padding = cast(Pair, self.stride), cast(Pair, self.padding)
        cache = _torch.parametrization_cache()
        if weight.requires_grad or cache is None:
            sigma, left, right = norm.power_iteration(weight, constant=True)
            result = conv2d_scaled_output(x.to(dtype), weight, sigma, left, right, stride, padding)
        else:
            key = (id(self), "lowered weight and its norm")
            if key not in cache:
                cache[key] = weight.to(dtype), norm.power_iteration(weight, constant=True)[0]
            lowered, sigma = cache[key]
            result = conv2d(x.to(dtype), lowered, None, stride, padding).div_(sigma)
        return result if self.bias is None else result + self.bias.to(result.dtype).view(-1, 1, 1)

    def _scales_output(self, x: Tensor) -> bool:
        if not self.training or x.ndim != 4 or not has_spectral_norm(self):
            return False
        weight = _parametrizations(self).original
        if not (torch.is_grad_enabled() if weight.requires_grad else _torch.parametrization_cache() is not None):
            return False
        if autocast_dtype(x) == torch.float16:  # the undivided output may overflow
            return False
        if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
            return False
        height, width = output_size(x, weight, cast(Pair, self.stride), cast(Pair, self.padding))
        return weight[0].numel() > x.shape[0] * height * width


class FastSpectralNorm(_torch.SpectralNorm or nn.Module):  # type: ignore[misc]
    """PyTorch's spectral norm of a convolution's weight that reads a channels-last weight in place.

    PyTorch's own flattens the weight, which copies a channels-last one several times per step. Vectors, outputs and
    state dict are the same: the right vector is stored in the order of a contiguous weight.
    """

    _u: Tensor
    _v: Tensor
    eps: float
    n_power_iterations: int

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight `[O, C, h, w]` divided by its largest singular value."""
        if not self.training or weight.ndim != 4 or not is_channels_last(weight):
            return cast(Tensor, super().forward(weight))
        return weight / self.power_iteration(weight)[0]

    def power_iteration(self, weight: Tensor, *, constant: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Return a weight's largest singular value and vectors; in training mode after power iterations.

        Args:
            weight: `[O, C, h, w]`.
            constant: whether the value is a constant of the backward pass, which saves reading the weight again.

        Returns:
            The value, differentiable unless it is constant; the left vector `[O]`; and the right one `[C·h·w]`, in the
            memory order of the weight.
        """
        matrix = as_matrix(weight)
        channels, height, width = weight.shape[1:]
        with torch.no_grad():
            # Copies, as the next forward pass updates the vectors in place, maybe before this one's backward pass.
            left = self._u.clone()
            stored = self._v.view(channels, height, width)
            if is_channels_last(weight):
                stored = stored.permute(1, 2, 0)
            right = stored.clone(memory_format=torch.contiguous_format).flatten()
            product = None
            for _ in range(self.n_power_iterations if self.training else 0):
                left = nn.functional.normalize(torch.mv(matrix, right), dim=0, eps=self.eps)
                product = torch.mv(matrix.T, left)
                right = nn.functional.normalize(product, dim=0, eps=self.eps)
                self._u.copy_(left)
                stored.copy_(right.view(stored.shape))
            if constant:
                product = torch.mv(matrix.T, left) if product is None else product
                return torch.vdot(product, right), left, right
        return torch.vdot(left, torch.mv(matrix, right)), left, right
