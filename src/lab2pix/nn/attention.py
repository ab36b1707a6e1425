"""Label guided spatial co-attention (3.1.3, Fig. 5)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LSCA(nn.Module):
    """Label guided spatial co-attention: blends the features of two scales per pixel, guided by the label map (Eq. 7).

    Args:
        previous_channels: channels of the previous scale's feature.
        channels: channels of this scale's feature and of the result.
        label_channels: channels of the label map.
    """

    def __init__(self, previous_channels: int, channels: int, label_channels: int) -> None:
        super().__init__()
        self.merge = nn.Conv2d(previous_channels, channels, 3, padding=1)
        self.norm_previous = nn.BatchNorm2d(channels)
        self.norm_current = nn.BatchNorm2d(channels)
        self.label = nn.Conv2d(label_channels, channels, 3, padding=1)
        self.norm_label = nn.BatchNorm2d(channels)
        self.attention = nn.Conv2d(3 * channels, 1, 3, padding=1)

    def forward(self, previous: Tensor, current: Tensor, label: Tensor) -> Tensor:
        """Return h A + f (1 - A), `[N, channels, h, w]`, with A = sigmoid(conv[norm(h), norm(f), norm(label)]) (Eq. 7).

        Args:
            previous: `[N, previous_channels, h / 2, w / 2]`; upsampled by 2 and convolved, it becomes h.
            current: f, `[N, channels, h, w]`.
            label: `[N, label_channels, h, w]`.
        """
        h = F.relu(self.merge(F.interpolate(previous, scale_factor=2.0, mode="nearest")))
        guide = self.norm_label(F.relu(self.label(label)))
        a = torch.sigmoid(self.attention(torch.cat([self.norm_previous(h), self.norm_current(current), guide], 1)))
        result: Tensor = h * a + current * (1 - a)
        return result
