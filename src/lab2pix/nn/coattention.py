"""Label guided spatial co-attention (3.1.3, Fig. 5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.nn.enlarged import conv3x3_of_doubled
from lab2pix.nn.fused import traced_or_without_graph

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
        if traced_or_without_graph():
            merged = F.relu(self.merge(F.interpolate(previous, scale_factor=2.0, mode="nearest")))
            attention = self.attention(torch.cat(self._seen(merged, current, label), 1))
        else:
            merged = F.relu(conv3x3_of_doubled(previous, self.merge.weight, self.merge.bias))
            attention = self._attend(self._seen(merged, current, label))
        return torch.lerp(current, merged, torch.sigmoid(attention).to(current.dtype))

    def _seen(self, merged: Tensor, current: Tensor, label: Tensor) -> list[Tensor]:
        guide = self.norm_label(F.relu(self.label(label)))
        return [self.norm_previous(merged), self.norm_current(current), guide]

    def _attend(self, seen: Sequence[Tensor]) -> Tensor:
        """Return `self.attention` of maps beside each other, `[N, 1, h, w]`, summed in float32 or finer.

        What each pixel adds to its nine neighbours is a 1x1 convolution to nine channels, of each map by itself, so
        that none are copied; processors take several times as long for a 3x3 convolution to one channel.
        """
        height, width = seen[0].shape[-2:]
        exact = torch.promote_types(seen[0].dtype, torch.float32)
        shares = torch.split(self.attention.weight[0].flatten(1).t()[:, :, None, None], [x.shape[1] for x in seen], 1)
        nine = torch.stack([F.conv2d(x, share).to(exact) for x, share in zip(seen, shares, strict=True)]).sum(0)
        assert self.attention.bias is not None
        # Folding hands each pixel's values to its neighbours, where a convolution fetches them: the other way round.
        return F.fold(nine.flip(1).flatten(2), (height, width), 3, padding=1) + self.attention.bias.view(1, -1, 1, 1)
