"""Label guided spatial co-attention (3.1.3, Fig. 5)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["LSCA"]


class LSCA(nn.Module):
    """Mix the feature of the scale before with that of this scale, pixel by pixel, led by the label map (Eq. 7).

    h' = ReLU(conv(enlarge(h))); A = sigmoid(conv(norm(h'), norm(f), norm(ReLU(conv(label))))), one channel;
    the result is h' · A + f · (1 - A).

    Args:
        previous_channels: width of the feature of the scale before, h.
        channels: width of this scale's feature, f, and of the result.
        label_channels: width of the label map.
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
        """Return `[N, channels, h, w]`.

        Args:
            previous: `[N, previous_channels, h / 2, w / 2]`.
            current: `[N, channels, h, w]`.
            label: `[N, label_channels, h, w]`.
        """
        merged = F.relu(self.merge(F.interpolate(previous, scale_factor=2.0, mode="nearest")))
        guide = self.norm_label(F.relu(self.label(label)))
        attention = torch.sigmoid(
            self.attention(torch.cat([self.norm_previous(merged), self.norm_current(current), guide], 1))
        )
        return torch.lerp(current, merged, attention)
