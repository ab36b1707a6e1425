"""The encoder behind DG-Norm's global feature (Eq. 2)."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.nn.blocks import SLOPE, conv2d
from lab2pix.nn.enlarged import conv3x3_of_enlarged

__all__ = ["GlobalEncoder"]


class GlobalEncoder(nn.Module):
    """Look at the whole label map at once, and tell every scale of the generator (Eq. 2).

    3x3 convolutions with spectral norm and LeakyReLU: stride 1 once, then stride 2 down to the generator's first
    scale. That one result, enlarged by nearest neighbour, goes through each scale's own 3x3 convolution and ReLU.

    Args:
        label_channels: width of the one-hot label map.
        doublings: how often the generator doubles its size.
        width: channels of the first convolution; they double with each stride.
        max_width: the most channels of any.
        out_channels: channels of the global feature: the modulation's hidden width.
    """

    def __init__(
        self,
        label_channels: int,
        *,
        doublings: int,
        width: int = 64,
        max_width: int = 512,
        out_channels: int = 128,
    ) -> None:
        super().__init__()
        widths = [min(width * 2**step, max_width) for step in range(doublings + 1)]
        inputs = [label_channels, *widths[:-1]]
        self.down = nn.ModuleList(
            conv2d(before, after, 3, stride=1 if step == 0 else 2)
            for step, (before, after) in enumerate(zip(inputs, widths, strict=True))
        )
        self.scales = nn.ModuleList(nn.Conv2d(widths[-1], out_channels, 3, padding=1) for _ in range(doublings + 1))

    def forward(self, label: Tensor) -> list[Tensor]:
        """Return the global feature of every scale, smallest first.

        Args:
            label: `[N, label_channels, H, W]` one-hot; H and W multiples of 2^doublings.

        Returns:
            Feature i is `[N, out_channels, H / 2^(doublings - i), W / 2^(doublings - i)]`.
        """
        x = label
        for conv in self.down:
            x = F.leaky_relu(conv(x), SLOPE, inplace=True)
        return [
            conv3x3_of_enlarged(x, cast(Tensor, conv.weight), cast(Tensor, conv.bias), 2**scale)
            for scale, conv in enumerate(self.scales)
        ]
