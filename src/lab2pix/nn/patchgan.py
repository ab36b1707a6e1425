"""Discriminators of Pix2Pix and CycleGAN, PatchGAN and PixelGAN: one logit per patch, or per pixel, of the image."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from lab2pix.nn.normalization import Norm, norm2d
from lab2pix.nn.resample import BlurDownsample


class PatchGAN(nn.Module):
    """PatchGAN of Pix2Pix (Isola et al., 2017): 4x4 convolutions; with three layers each logit sees 70x70 pixels.

    All convolutions but the last two halve the size. Parameters have the names of the authors' code.
    `lab2pix.nn.discriminators.PatchDiscriminator` is that of SPADE and Pix2PixHD, which returns features, too.

    Args:
        in_channels: channels of the input: the image, and for Pix2Pix its condition.
        width: channels of the first layer; layer i has `width * min(2^i, 8)`.
        layers: number of layers between the first and the one that predicts.
        norm: normalization of these layers.
        antialias: halve the size by a blur after the activation (CUT), not by a stride of the convolution.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        width: int = 64,
        layers: int = 3,
        norm: Norm = "batch",
        antialias: bool = False,
    ) -> None:
        super().__init__()
        widths = [width * min(2**layer, 8) for layer in range(layers + 1)]
        first = nn.Conv2d(in_channels, width, 4, stride=1 if antialias else 2, padding=1)
        self.model = nn.Sequential(first, nn.LeakyReLU(0.2))
        if antialias:
            self.model.append(BlurDownsample(width))
        for layer, (before, after) in enumerate(pairwise(widths), start=1):
            downsamples = layer < layers
            stride = 2 if downsamples and not antialias else 1
            self.model.append(nn.Conv2d(before, after, 4, stride=stride, padding=1, bias=norm == "instance"))
            self.model.append(norm2d(norm, after))
            self.model.append(nn.LeakyReLU(0.2))
            if downsamples and antialias:
                self.model.append(BlurDownsample(after))
        self.model.append(nn.Conv2d(widths[-1], 1, 4, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, in_channels, H, W]` to logits `[N, 1, H / 2^layers - 2, W / 2^layers - 2]`."""
        logits: Tensor = self.model(x)
        return logits


class PixelGAN(nn.Module):
    """PixelGAN of Pix2Pix: 1x1 convolutions, so that each logit depends on one pixel.

    Parameters have the names of the authors' code.

    Args:
        in_channels: channels of the input.
        width: channels of the first layer; the second has twice as many.
        norm: normalization of the second layer.
    """

    def __init__(self, in_channels: int, *, width: int = 64, norm: Norm = "batch") -> None:
        super().__init__()
        bias = norm == "instance"
        self.net = nn.Sequential(
            nn.Conv2d(in_channels, width, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 1, bias=bias),
            norm2d(norm, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 1, bias=bias),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, in_channels, H, W]` to logits `[N, 1, H, W]`."""
        logits: Tensor = self.net(x)
        return logits
