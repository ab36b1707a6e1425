"""Segmentation networks for cycle segmentation (Eq. 19): ICNet, and a segmentation head on backbone features."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.errors import ConfigError

MIN_SIZE = 8
"""Smallest height and width of an image in pixels: the finest branch of ICNet runs at 1/8."""

_POOLED_BINS = (1, 2, 3, 6)


def _group_norm(channels: int) -> nn.GroupNorm:
    """Return group norm with at most 32 groups of at least eight channels (one group below 16 channels).

    On a map of one pixel, a group of two channels would keep only which of them is larger.
    """
    return nn.GroupNorm(math.gcd(channels, min(32, max(1, channels // 8))), channels)


def _conv_norm(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Return a convolution without bias and its norm; sizes are divided by `stride` and rounded up."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, bias=False)
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
    """ResNet bottleneck: 1x1, 3x3 and 1x1 convolutions, and a shortcut that is projected where shapes differ.

    The 3x3 convolution has the stride: a 1x1 convolution with stride 2 would ignore three of four pixels.
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
    """Pyramid pooling as in ICNet: adds means over 1, 2, 3 and 6 bins per side to `[N, C, H, W]`, no convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        result = x
        for bins in _POOLED_BINS:
            result = result + _resized(F.adaptive_avg_pool2d(x, bins), x.shape[-2:])
        return result


class _CascadeFusion(nn.Module):
    """Cascade feature fusion: resizes a coarse feature to the size of a fine one and adds the two (ICNet, 3.3).

    Args:
        coarse_channels: channels of the feature of the lower resolution.
        fine_channels: channels of the feature of the higher resolution.
        out_channels: channels of the sum.
    """

    def __init__(self, coarse_channels: int, fine_channels: int, out_channels: int) -> None:
        super().__init__()
        # Dilated: the receptive field exceeds the neighbors that a pixel was interpolated from.
        self.coarse = _conv_norm(coarse_channels, out_channels, 3, dilation=2)
        self.fine = _conv_norm(fine_channels, out_channels, 1)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        return F.relu(self.coarse(_resized(coarse, fine.shape[-2:])) + self.fine(fine))


class ICNet(nn.Module):
    """Image cascade network (Zhao et al., ICNet, ECCV 2018): three branches, deep at low resolution, shallow at high.

    The image at half its size goes through the stem and the first blocks of a narrow ResNet-50, up to the first block
    of stage 2 (conv3_1, at 1/16 of the image): the medium branch. Its feature, halved, goes through the other blocks,
    dilated as in PSPNet, and pyramid pooling at 1/32: the low branch, which shares all computations of the medium
    branch, as in the reference network. Three strided convolutions of the full image are the high branch, at 1/8.

    There are two differences from the ICNet of the paper:

    - Group norm instead of batch norm. Lab2Pix-V1 trains on one image at a time, and the low branch of its coarsest
      scale has a few pixels, often one: too few for batch statistics.
    - No auxiliary predictions from the coarser branches (cascade label guidance): Eq. 19 of Lab2Pix has one term per
      segmenter, and its released code too uses the final prediction alone.

    Args:
        num_classes: channels of the result.
        in_channels: channels of the image.
        width: channels of the first convolution, at least 2; 32 is the compressed network of the paper.
        blocks: bottlenecks of each of the four stages, at least one each.
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
        self.apply(_initialize)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits `[N, num_classes, H, W]` of an image `[N, in_channels, H, W]`, float32 or finer.

        Raises:
            ConfigError: the image is smaller than 8x8 pixels.
        """
        height, width = image.shape[-2:]
        if min(height, width) < MIN_SIZE:
            raise ConfigError(
                f"ICNet needs images of at least {MIN_SIZE}x{MIN_SIZE} pixels, not {height}x{width}; "
                "choose a larger size"
            )
        medium = self.medium(_halved(image))
        fused = self.fuse_medium(self.low(_halved(medium)), medium)
        fused = self.fuse_high(fused, self.high(image))
        fine_height, fine_width = fused.shape[-2:]
        logits: Tensor = self.classifier(_resized(fused, (2 * fine_height, 2 * fine_width)))
        # Under autocast the classifier returns half precision, too coarse for interpolation and a loss.
        return _resized(logits.to(torch.promote_types(logits.dtype, torch.float32)), (height, width))


def _initialize(module: nn.Module) -> None:
    """Initialize a convolution after He et al., its bias with zeros."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class FPNHead(nn.Module):
    """Segmentation head on backbone features, merged from coarse to fine (Lin et al., FPN, CVPR 2017).

    A 1x1 convolution brings each feature to `width` channels; except for the finest, which would cost most, a 3x3
    convolution follows the sum with the upsampled coarser ones. Group norm, as part of a batch may be a single image.

    Args:
        channels: widths of the features, finest first.
        num_classes: channels of the result.
        width: channels of the sums, at least 4.
    """

    def __init__(self, channels: Sequence[int], num_classes: int, *, width: int = 32) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.merges = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(math.gcd(width, 4), width), nn.ReLU()
            )
            for _ in channels[1:]
        )
        self.classifier = nn.Conv2d(width, num_classes, 1)
        self.apply(_initialize)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return float32 logits `[N, num_classes, h, w]`; h and w are those of the first, the finest feature.

        EfficientNet-Lite's finest feature has half the height and width of the image, VGG's all of it.
        """
        merged: Tensor | None = None
        for level in range(len(features) - 1, 0, -1):
            merged = self.merges[level - 1](_add_upsampled(self.laterals[level](features[level]), merged))
        logits: Tensor = self.classifier(F.relu(_add_upsampled(self.laterals[0](features[0]), merged)))
        return logits.float()


def _add_upsampled(fine: Tensor, coarse: Tensor | None) -> Tensor:
    return fine if coarse is None else fine + F.interpolate(coarse, size=fine.shape[-2:], mode="nearest")
