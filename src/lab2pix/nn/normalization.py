"""Normalization: SPADE and DG-Norm (3.1.2, Fig. 4, Eq. 3-5), the plain layers by name, and MUNIT's layer norm."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Literal["batch", "instance", "none"]
"""`batch`: with weight, bias and running statistics; `instance`: with none of these; `none`: the identity.

A convolution followed by instance norm has a bias, one followed by batch norm or the identity has none.
"""


def norm2d(norm: Norm, channels: int) -> nn.Module:
    """Return the normalization layer for `[N, channels, H, W]`."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.InstanceNorm2d(channels) if norm == "instance" else nn.Identity()


def resize_nearest(label: Tensor, size: tuple[int, int]) -> Tensor:
    """Return `[N, C, H, W]` label channels at another size, by nearest neighbor; itself if it has that size."""
    if tuple(label.shape[-2:]) == size:
        return label
    return F.interpolate(label, size=size, mode="nearest")


class SPADE(nn.Module):
    """Spatially-adaptive normalization: batch norm, then scale and shift per pixel, predicted from the label map.

    The method of this name is `lab2pix.methods.spade.SPADE`.

    Eq. 5 as printed adds the 1 to the normalized feature. Here it is added to gamma, as in the official code, so that
    the layer starts near the identity.

    Args:
        channels: channels of the feature to normalize.
        label_channels: channels of the one-hot label map.
        hidden: channels between the label map and scale and shift; 0: no hidden layer, for features of the label map.
    """

    def __init__(self, channels: int, label_channels: int, *, hidden: int = 128) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.shared = nn.Conv2d(label_channels, hidden, 3, padding=1) if hidden else None
        self.gamma = nn.Conv2d(hidden or label_channels, channels, 3, padding=1)
        self.beta = nn.Conv2d(hidden or label_channels, channels, 3, padding=1)

    def guidance(self, label: Tensor, global_feature: Tensor | None) -> Tensor:
        """Return the `[N, hidden, h, w]` feature from which scale and shift are predicted."""
        return label if self.shared is None else F.relu(self.shared(label))

    def forward(self, x: Tensor, label: Tensor, global_feature: Tensor | None = None) -> Tensor:
        """Return `norm(x) * (1 + gamma) + beta` (Eq. 3-5), `[N, channels, h, w]`.

        Args:
            x: the feature, `[N, channels, h, w]`.
            label: `[N, label_channels, H, W]` one-hot; resized by nearest neighbor to h and w.
            global_feature: `[N, hidden, h, w]`; SPADE ignores it.
        """
        hidden = self.guidance(resize_nearest(label, (x.shape[-2], x.shape[-1])), global_feature)
        return torch.addcmul(self.beta(hidden), self.norm(x), 1 + self.gamma(hidden))


class DGNorm(SPADE):
    """Double-guided normalization: SPADE whose hidden feature is added to the global feature of that scale (Fig. 4)."""

    def guidance(self, label: Tensor, global_feature: Tensor | None) -> Tensor:
        """Return label feature plus global feature; the label feature alone without one (shortcuts)."""
        hidden = super().guidance(label, None)
        return hidden if global_feature is None else hidden + global_feature


class ImageLayerNorm(nn.Module):
    """Layer norm over channels, height and width of each image: (x - mean) / (std + eps) * gamma + beta.

    The standard deviation is the unbiased one. gamma, which starts uniform in [0, 1), and beta are per channel.

    Args:
        channels: channels of the feature to normalize.
        eps: added to the standard deviation.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.gamma = nn.Parameter(torch.rand(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize `[N, channels, H, W]` in float32."""
        wide = x.float()
        centered = wide - wide.mean((1, 2, 3), keepdim=True)
        normalized = centered / (wide.std((1, 2, 3), keepdim=True) + self.eps)
        return torch.addcmul(self.beta.view(-1, 1, 1), normalized, self.gamma.view(-1, 1, 1)).to(x.dtype)
