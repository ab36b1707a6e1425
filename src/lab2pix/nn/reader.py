"""A segmentation head on what a frozen backbone sees: reads label maps for next to no work of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FeatureReader"]


class FeatureReader(nn.Module):
    """Segment an image by the features of a backbone, merged from coarse to fine (Lin et al., FPN, CVPR 2017).

    Each feature is brought to `width` channels and a 3x3 convolution sees its sum with the coarser ones, enlarged by
    nearest neighbour; all but the finest feature, which costs most: that one is added as it is. Group norm, as a part
    of a batch may hold one image.

    Args:
        channels: widths of the features, finest first.
        num_classes: width of the result.
        width: channels of the sums, at least 4.
    """

    def __init__(self, channels: Sequence[int], num_classes: int, *, width: int = 32) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.merges = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.GroupNorm(math.gcd(width, 4), width),
                nn.ReLU(),
            )
            for _ in channels[1:]
        )
        self.classifier = nn.Conv2d(width, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return float32 logits of features, finest first; `[N, C, h, w]` of the first gives `[N, num_classes, h, w]`.

        EfficientNet-Lite's finest feature of an image has half its height and width, VGG's all of it.
        """
        merged: Tensor | None = None
        for place in range(len(features) - 1, 0, -1):
            lateral = self.laterals[place](features[place])
            merged = self.merges[place - 1](lateral if merged is None else lateral + _enlarged(merged, lateral))
        finest = self.laterals[0](features[0])
        summed = finest if merged is None else finest + _enlarged(merged, finest)
        logits: Tensor = self.classifier(F.relu(summed))
        return logits.float()


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=(like.shape[-2], like.shape[-1]), mode="nearest")
