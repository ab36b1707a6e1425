"""U-Net generator of Pix2Pix (Isola et al., 2017): an encoder and a decoder of equal depth with skip connections."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from lab2pix.nn.normalization import Norm, norm2d


class UNetGenerator(nn.Module):
    """Halve the image once per level, then double it again; each level of the decoder also sees the encoder's feature.

    Level i has `width * min(2^i, 8)` channels. The published networks have 8 levels for 256x256 pixels and 7 for
    128x128, so that the innermost feature is one pixel.

    Args:
        in_channels: channels of the input, such as one per class.
        out_channels: channels of the image.
        width: channels of level 0.
        levels: number of halvings, at least 2. Both sides of the input must be multiples of `2^levels`.
        norm: normalization layers.
        dropout: probability of dropout after the decoder's levels 4 to `levels - 2`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 3,
        *,
        width: int = 64,
        levels: int = 8,
        norm: Norm = "batch",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        widths = [width * min(2**level, 8) for level in range(levels)]
        bias, innermost = norm == "instance", levels - 1
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, channels in enumerate(widths):
            outer = widths[level - 1] if level else in_channels
            down: OrderedDict[str, nn.Module] = OrderedDict()
            if level:
                down["activation"] = nn.LeakyReLU(0.2)
            down["conv"] = nn.Conv2d(outer, channels, 4, stride=2, padding=1, bias=bias)
            if 0 < level < innermost:
                down["norm"] = norm2d(norm, channels)
            self.down.append(nn.Sequential(down))

            inner = channels if level == innermost else 2 * channels
            result = outer if level else out_channels
            up: OrderedDict[str, nn.Module] = OrderedDict(activation=nn.ReLU())
            up["conv"] = nn.ConvTranspose2d(inner, result, 4, stride=2, padding=1, bias=bias or level == 0)
            if level:
                up["norm"] = norm2d(norm, result)
            if 4 <= level < innermost:
                up["dropout"] = nn.Dropout(dropout)
            self.up.append(nn.Sequential(up))

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Map `[N, in_channels, H, W]` to an image `[N, out_channels, H, W]` in [-1, 1]; noise has no effect."""
        features = []
        for down in self.down:
            x = down(x)
            features.append(x)
        x = self.up[-1](features.pop())
        for up in reversed(self.up[:-1]):
            x = up(torch.cat([features.pop(), x], 1))
        return x.tanh()
