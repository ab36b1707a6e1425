"""Residual blocks of the generators, convolution blocks of the discriminators."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lab2pix.nn.normalization import SPADE, DGNorm, Norm, norm2d

SLOPE = 0.2
"""Negative slope of every LeakyReLU."""


def conv2d(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, bias: bool = True, spectral_norm: bool = True
) -> nn.Conv2d:
    """Return a convolution that keeps the size (or divides it by `stride`), with spectral norm if asked for."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=bias)
    if spectral_norm:
        parametrizations.spectral_norm(conv)
    return conv


class GenResBlk(nn.Module):
    """Conditional residual block (Eq. 1, 6): twice norm, LeakyReLU, 3x3 convolution; plus a shortcut.

    The shortcut is the identity where widths agree, else norm and a 1x1 convolution without bias. Its norm gets no
    global feature, as in the official networks.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result.
        label_channels: channels of the one-hot label map.
        hidden: hidden width of the modulation; 0: no hidden layer.
        middle: channels between the convolutions; 0: the smaller number of the other two.
        modulation: DG-Norm, or SPADE without the global feature.
        spectral_norm: whether the convolutions have spectral norm.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        label_channels: int,
        *,
        hidden: int = 128,
        middle: int = 0,
        modulation: Literal["dg-norm", "spade"] = "dg-norm",
        spectral_norm: bool = True,
    ) -> None:
        super().__init__()
        middle = middle or min(in_channels, out_channels)
        norm = DGNorm if modulation == "dg-norm" else SPADE
        self.norm_0 = norm(in_channels, label_channels, hidden=hidden)
        self.conv_0 = conv2d(in_channels, middle, 3, spectral_norm=spectral_norm)
        self.norm_1 = norm(middle, label_channels, hidden=hidden)
        self.conv_1 = conv2d(middle, out_channels, 3, spectral_norm=spectral_norm)
        self.norm_s: SPADE | None = None
        self.conv_s: nn.Conv2d | None = None
        if in_channels != out_channels:
            self.norm_s = norm(in_channels, label_channels, hidden=hidden)
            self.conv_s = conv2d(in_channels, out_channels, 1, bias=False, spectral_norm=spectral_norm)

    def forward(self, x: Tensor, label: Tensor, global_feature: Tensor | None = None) -> Tensor:
        """Map `[N, in_channels, h, w]` to `[N, out_channels, h, w]`.

        Args:
            x: the feature.
            label: `[N, label_channels, h, w]` one-hot (another size is resized in every norm).
            global_feature: `[N, hidden, h, w]`, or None.
        """
        h = self.conv_0(F.leaky_relu(self.norm_0(x, label, global_feature), SLOPE))
        h = self.conv_1(F.leaky_relu(self.norm_1(h, label, global_feature), SLOPE))
        shortcut = x if self.norm_s is None or self.conv_s is None else self.conv_s(self.norm_s(x, label))
        result: Tensor = h + shortcut
        return result


class ConvNormAct(nn.Sequential):
    """Convolution with spectral norm, instance norm, LeakyReLU: the block of the discriminators (3.2.1).

    With spectral norm the convolution has no bias, which the norm would remove.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        norm: Norm = "instance",
        spectral_norm: bool = True,
    ) -> None:
        super().__init__(
            conv2d(
                in_channels, out_channels, kernel, stride=stride, bias=not spectral_norm, spectral_norm=spectral_norm
            ),
            norm2d(norm, out_channels),
            nn.LeakyReLU(SLOPE, inplace=True),
        )


class MiniInception(nn.Module):
    """Sum of three branches with growing receptive fields (3.2.1, Fig. 6).

    Args:
        in_channels: channels of the input.
        out_channels: channels of every branch and of the result.
        stride: factor by which height and width shrink.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 2) -> None:
        super().__init__()
        self.pool_branch = nn.Sequential(nn.AvgPool2d(stride), ConvNormAct(in_channels, out_channels, 1))
        self.conv3_branch = nn.Sequential(
            ConvNormAct(in_channels, out_channels, 1), ConvNormAct(out_channels, out_channels, 3, stride=stride)
        )
        self.conv5_branch = nn.Sequential(
            ConvNormAct(in_channels, out_channels, 1),
            ConvNormAct(out_channels, out_channels, 3),
            ConvNormAct(out_channels, out_channels, 3, stride=stride),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, in_channels, h, w]` to `[N, out_channels, h/stride, w/stride]`."""
        result: Tensor = self.pool_branch(x) + self.conv3_branch(x) + self.conv5_branch(x)
        return result
