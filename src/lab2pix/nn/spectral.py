"""Spectral norm whose training step copies no large weight, in whatever order its memory is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _SpectralNorm

from lab2pix.nn.convolutions import Conv2d, convolution, type_of_pass
from lab2pix.nn.fused import conv_with_scaled_result
from lab2pix.nn.layouts import as_matrix, is_channels_last
from lab2pix.nn.small_maps import size_of_result

__all__ = ["SpectralConv2d", "SpectralNorm", "shared_weights", "spectral_conv2d"]


class SpectralConv2d(Conv2d):
    """A convolution for torch's spectral norm; where its weight is larger than its result, it divides the result.

    Results, gradients, singular vectors and the state dict are those of torch's spectral norm. Under autocast the
    weight itself is cast; norm and gradient stay in its own type. The short way is for training steps, and for frozen
    weights that passes share (`shared_weights`); evaluation and compilation take torch's own. Make one with
    `spectral_conv2d`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, C, H, W]` to `[N, O, h, w]`."""
        if not parametrize.is_parametrized(self, "weight"):
            return super().forward(x)
        stack = cast(nn.ModuleDict, self.parametrizations)["weight"]
        assert isinstance(stack, parametrize.ParametrizationList)
        weight = stack.original
        assert isinstance(weight, Tensor)
        if not self._shortens(x, weight):
            return super().forward(x)
        norm, dtype = stack[0], type_of_pass(x)
        assert isinstance(norm, SpectralNorm)
        stride, padding = self._steps()
        if weight.requires_grad:
            sigma, left, right = norm.largest_singular(weight, constant=True)
            result = conv_with_scaled_result(x.to(dtype), weight, sigma, left, right, stride, padding)
        else:
            shared = _shared.get()
            assert shared is not None
            if self not in shared:
                shared[self] = weight.to(dtype), norm.largest_singular(weight, constant=True)[0]
            lowered, sigma = shared[self]
            result = convolution(x.to(dtype), lowered, None, stride, padding).div_(sigma)
        return result if self.bias is None else result + self.bias.to(result.dtype).view(-1, 1, 1)

    def _shortens(self, x: Tensor, weight: Tensor) -> bool:
        if not self.training or x.ndim != 4 or torch.compiler.is_compiling():
            return False
        if not (torch.is_grad_enabled() if weight.requires_grad else _shared.get() is not None):
            return False
        if type_of_pass(x) == torch.float16:  # undivided, its results may be too large
            return False
        if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
            return False
        height, width = size_of_result(x, weight, *self._steps())
        return weight[0].numel() > x.shape[0] * height * width

    def _steps(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return stride and padding."""
        return cast(tuple[int, int], self.stride), cast(tuple[int, int], self.padding)


_shared: ContextVar[dict[SpectralConv2d, tuple[Tensor, Tensor]] | None] = ContextVar("shared", default=None)
"""In `shared_weights`: the weights of convolutions in the type of the passes, and what results are divided by."""


@contextmanager
def shared_weights() -> Iterator[None]:
    """Let passes over frozen weights, of batches of one size, share what is made of each weight; torch's norms too."""
    known = _shared.get()
    token = _shared.set({} if known is None else known)
    try:
        with parametrize.cached():
            yield
    finally:
        _shared.reset(token)


class SpectralNorm(_SpectralNorm):
    """Torch's spectral norm of a convolution's weight that reads a channels-last weight as it lies.

    Torch's flattens the weight, which copies one that is channels-last, several times a step. Vectors, results and
    state dict are torch's: the right vector is kept in the order of a contiguous weight.
    """

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight `[O, C, h, w]` divided by its largest singular value."""
        if torch.compiler.is_compiling() or weight.ndim != 4 or not is_channels_last(weight):
            return super().forward(weight)
        return weight / self.largest_singular(weight)[0]

    def largest_singular(self, weight: Tensor, *, constant: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Return a weight's largest singular value and vectors, in training mode after a power iteration.

        Args:
            weight: `[O, C, h, w]`.
            constant: whether no gradient reaches the weight through the value, which spares reading the weight again.

        Returns:
            The value, through which gradients reach the weight unless it is constant; the left vector `[O]`; and the
            right one `[C·h·w]`, in the order in which the weight's memory holds them.
        """
        matrix = as_matrix(weight)
        channels, height, width = weight.shape[1:]
        with torch.no_grad():
            # Copies: the next pass moves the vectors in place, maybe before this one's backward pass.
            left = self._u.clone()
            kept = self._v.view(channels, height, width)
            if is_channels_last(weight):
                kept = kept.permute(1, 2, 0)
            right = kept.clone(memory_format=torch.contiguous_format).flatten()
            if self.training:
                left = nn.functional.normalize(torch.mv(matrix, right), dim=0, eps=self.eps)
                across = torch.mv(matrix.T, left)
                right = nn.functional.normalize(across, dim=0, eps=self.eps)
                self._u.copy_(left)
                kept.copy_(right.view(kept.shape))
            elif constant:
                across = torch.mv(matrix.T, left)
            if constant:
                return torch.vdot(across, right), left, right
        return torch.vdot(left, torch.mv(matrix, right)), left, right


def spectral_conv2d(
    in_channels: int, out_channels: int, kernel: int, *, stride: int, padding: int, bias: bool
) -> SpectralConv2d:
    """Return a convolution under torch's spectral norm, with names and settings of torch's."""
    conv = SpectralConv2d(in_channels, out_channels, kernel, stride=stride, padding=padding, bias=bias)
    parametrize.register_parametrization(conv, "weight", SpectralNorm(conv.weight))
    return conv
