"""The image cascade network that reads a label map off a picture (Zhao et al., ICNet, ECCV 2018).

Lab2Pix-V1 trains one with each of its scales, so that a generated picture is asked to show its label map (Eq. 19).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.errors import ConfigError
from lab2pix.nn.convolutions import Conv2d

__all__ = ["LEAST_SIZE", "ICNet"]

LEAST_SIZE = 8
"""Least height and width in pixels: the finest branch sees 1/8 of the image."""

_POOLED_BINS = (1, 2, 3, 6)


def _group_norm(channels: int) -> nn.GroupNorm:
    """Return group norm with at most 32 groups of at least eight channels (one group below 16 channels).

    A group of two channels would say no more than which is larger on a map of one pixel.
    """
    return nn.GroupNorm(math.gcd(channels, min(32, max(1, channels // 8))), channels)


def _conv_norm(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Return a convolution without bias and its norm; sizes stay, or are divided by `stride` and rounded up."""
    padding = dilation * (kernel // 2)
    conv = Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, bias=False)
    return nn.Sequential(conv, _group_norm(out_channels))


def _conv_norm_relu(in_channels: int, out_channels: int, kernel: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(*_conv_norm(in_channels, out_channels, kernel, stride=stride), nn.ReLU())


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def _halved(x: Tensor) -> Tensor:
    """Halve `[N, C, H, W]`, rounding up: the mean of 2x2 where sizes are even."""
    height, width = x.shape[-2:]
    return _resized(x, ((height + 1) // 2, (width + 1) // 2))


class _Bottleneck(nn.Module):
    """ResNet's bottleneck: 1x1, 3x3 and 1x1 convolutions beside a shortcut, which is projected where shapes differ.

    The 3x3 convolution has the stride: a 1x1 convolution with stride would not see three of four pixels.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        middle = out_channels // 4
        self.residual = nn.Sequential(
            _conv_norm_relu(in_channels, middle, 1),
            _conv_norm(middle, middle, 3, stride=stride, dilation=dilation),
            nn.ReLU(),
            _conv_norm(middle, out_channels, 1),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = _conv_norm(in_channels, out_channels, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.residual(x))


def _stage(in_channels: int, out_channels: int, count: int, *, dilation: int = 1) -> nn.Sequential:
    widths = [in_channels] + [out_channels] * count
    return nn.Sequential(*(_Bottleneck(width, out_channels, dilation=dilation) for width in widths[:-1]))


class _PyramidPooling(nn.Module):
    """Add means over 1, 2, 3 and 6 bins a side to the feature `[N, C, H, W]`, without convolutions as ICNet does it."""

    def forward(self, x: Tensor) -> Tensor:
        result = x
        for bins in _POOLED_BINS:
            result = result + _resized(F.adaptive_avg_pool2d(x, bins), x.shape[-2:])
        return result


class _CascadeFusion(nn.Module):
    """Cascade feature fusion: bring a coarse feature to the size of a fine one and add the two (ICNet, 3.3).

    Args:
        coarse_channels: width of the feature of the lower resolution.
        fine_channels: width of the feature of the higher resolution.
        out_channels: width of the sum.
    """

    def __init__(self, coarse_channels: int, fine_channels: int, out_channels: int) -> None:
        super().__init__()
        # Dilated, so that a pixel sees beyond the neighbours that it was interpolated from.
        self.coarse = _conv_norm(coarse_channels, out_channels, 3, dilation=2)
        self.fine = _conv_norm(fine_channels, out_channels, 1)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        return F.relu(self.coarse(_resized(coarse, fine.shape[-2:])) + self.fine(fine))


class ICNet(nn.Module):
    """Segment an image by three branches: much depth at low resolution, little at high, fused in a cascade.

    The image at half its size goes through the stem and the first blocks of a narrow ResNet-50, up to the first block
    of stage 2 (conv3_1, at 1/16 of the image): the medium branch. Its feature, halved, goes through the other blocks,
    dilated as in PSPNet, and pyramid pooling at 1/32: the low branch, which so shares all that the medium branch
    computes, as in the reference network. Three strided convolutions see the image as it is: the high branch, at 1/8.

    Two things differ from the ICNet of the paper:

    - Group norm instead of batch norm. Lab2Pix-V1 trains on one image at a time, and on its coarsest scale the low
      branch has a few pixels, often one: batch norm would have nothing to average.
    - No auxiliary predictions from the coarser branches (cascade label guidance): Eq. 19 of Lab2Pix has one term for
      each segmenter, and its released code too looks at the final prediction alone.

    Args:
        num_classes: width of the result.
        in_channels: width of the image.
        width: channels of the first convolution, at least 2; 32 is the compressed network of the paper.
        blocks: how many bottlenecks each of the four stages has, at least one each.
    """

    def __init__(
        self, num_classes: int, *, in_channels: int = 3, width: int = 32, blocks: Sequence[int] = (3, 4, 6, 3)
    ) -> None:
        super().__init__()
        first, second, third, fourth = blocks
        self.medium = nn.Sequential(
            _conv_norm_relu(in_channels, width, 3, stride=2),
            _conv_norm_relu(width, width, 3),
            _conv_norm_relu(width, 2 * width, 3),
            nn.MaxPool2d(3, stride=2, padding=1),
            _stage(2 * width, 4 * width, first),
            _Bottleneck(4 * width, 8 * width, stride=2),
        )
        self.low = nn.Sequential(
            _stage(8 * width, 8 * width, second - 1),
            _stage(8 * width, 16 * width, third, dilation=2),
            _stage(16 * width, 32 * width, fourth, dilation=4),
            _PyramidPooling(),
            _conv_norm_relu(32 * width, 8 * width, 1),
        )
        self.high = nn.Sequential(
            _conv_norm_relu(in_channels, width, 3, stride=2),
            _conv_norm_relu(width, width, 3, stride=2),
            _conv_norm_relu(width, 2 * width, 3, stride=2),
        )
        self.fuse_medium = _CascadeFusion(8 * width, 8 * width, 4 * width)
        self.fuse_high = _CascadeFusion(4 * width, 2 * width, 4 * width)
        self.classifier = nn.Conv2d(4 * width, num_classes, 1)
        self.apply(_initialise)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits `[N, num_classes, H, W]` of an image `[N, in_channels, H, W]`, float32 or finer.

        Raises:
            ConfigError: the image is smaller than 8x8 pixels.
        """
        height, width = image.shape[-2:]
        if min(height, width) < LEAST_SIZE:
            raise ConfigError(
                f"ICNet needs images of at least {LEAST_SIZE}x{LEAST_SIZE} pixels, not {height}x{width}; "
                "choose a larger size."
            )
        medium = self.medium(_halved(image))
        fused = self.fuse_medium(self.low(_halved(medium)), medium)
        fused = self.fuse_high(fused, self.high(image))
        fine_height, fine_width = fused.shape[-2:]
        logits: Tensor = self.classifier(_resized(fused, (2 * fine_height, 2 * fine_width)))
        # Under autocast the classifier returns half precision, too coarse to be interpolated into a loss.
        return _resized(logits.to(torch.promote_types(logits.dtype, torch.float32)), (height, width))


def _initialise(module: nn.Module) -> None:
    """Draw a convolution's weights after He et al.; the classifier's bias starts at zero."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
