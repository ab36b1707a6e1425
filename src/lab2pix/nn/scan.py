"""Generator of two stages: a reading of SCAN (ECCV 2018, arXiv 1807.08536), whose authors published no code."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.nn.normalization import Norm, norm2d


class AdaptiveFusion(nn.Module):
    """Adaptive fusion block: the share of the second stage in the image, per pixel.

    Two 3x3 convolutions with norm and ReLU, then a 3x3 convolution to one channel and a sigmoid.

    Args:
        channels: channels of all inputs together.
        width: channels of the hidden layers.
        norm: normalization layers.
    """

    def __init__(self, channels: int, *, width: int = 64, norm: Norm = "instance") -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(channels, width, 3, padding=1), norm2d(norm, width), nn.ReLU()),
            *(nn.Conv2d(width, width, 3, padding=1), norm2d(norm, width), nn.ReLU()),
            *(nn.Conv2d(width, 1, 3, padding=1), nn.Sigmoid()),
        )

    def forward(self, *inputs: Tensor) -> Tensor:
        """Map images `[N, C_i, H, W]` to `[N, 1, H, W]` in (0, 1)."""
        share: Tensor = self.layers(torch.cat(inputs, dim=1))
        return share


class StackedGenerator(nn.Module):
    """Two stages: a generator at half size, and one that refines its upsampled image.

    y1 is the first stage's image of the halved x, upsampled by nearest neighbor; y2 the second stage's image of x and
    y1; the result is y1 (1 - a) + y2 a with a of the fusion block. The buffer `stages` is 1 while the first stage is
    trained, and the result is then y1, and 2 later. Both sides of x must be multiples of twice what the stages take.

    Args:
        coarse: maps x at half size to an image.
        refine: maps x and an image, concatenated, to an image.
        fusion: maps x, y1 and y2 to the share of y2.
    """

    stages: Tensor

    def __init__(self, coarse: nn.Module, refine: nn.Module, fusion: AdaptiveFusion) -> None:
        super().__init__()
        self.coarse, self.refine, self.fusion = coarse, refine, fusion
        self.register_buffer("stages", torch.ones(()))

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Map `[N, C, H, W]` to an image in [-1, 1] of the same size; noise has no effect."""
        y1 = F.interpolate(self.coarse(F.avg_pool2d(x, 2)), scale_factor=2.0, mode="nearest")
        y2: Tensor = self.refine(torch.cat([x, y1], dim=1))
        share = self.fusion(x, y1, y2) * (self.stages - 1)
        image: Tensor = y1 + share * (y2 - y1)
        return image
