"""Spatial pyramid with cascaded attention: a reading of SPAP (arXiv 1901.06322), whose authors published no code."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lab2pix.nn.normalization import Norm, norm2d

Attention = Literal["pixel", "channel"]
Order = Literal["coarse-to-fine", "fine-to-coarse"]


class AttentionGate(nn.Module):
    """Convolution and sigmoid on two concatenated features: a weight per pixel, or per channel of their means.

    Args:
        channels: channels of each feature.
        attention: `pixel`: `[N, 1, h, w]`, by a 3x3 convolution; `channel`: `[N, channels, 1, 1]`, by a linear layer.
    """

    def __init__(self, channels: int, attention: Attention) -> None:
        super().__init__()
        self.pooled = attention == "channel"
        self.conv = nn.Conv2d(2 * channels, channels, 1) if self.pooled else nn.Conv2d(2 * channels, 1, 3, padding=1)

    def forward(self, z: Tensor, q: Tensor) -> Tensor:
        """Return weights in (0, 1) of features `[N, channels, h, w]`."""
        joined = torch.cat([z, q], dim=1)
        return torch.sigmoid(self.conv(joined.mean((2, 3), keepdim=True) if self.pooled else joined))


class PyramidAttention(nn.Module):
    """Parallel convolutions of several dilations, fused one after the other by attention, with a residual connection.

    With levels q_1, ..., q_n in their order, z = q_1, then z = a z + (1 - a) q_i with a of an attention gate on z and
    q_i; the result is x + gamma z. The scalar gamma starts at 0, so that the unit starts as the identity.

    Args:
        channels: channels of input and result.
        dilations: dilations of the 3x3 convolutions, from coarse to fine; a 1x1 convolution is the finest level.
        order: first level of the cascade: the coarsest, or the finest.
        attention: a weight per pixel or per channel.
        norm: normalization of the levels.
        slope: negative slope of the activations; 0: ReLU.
    """

    def __init__(
        self,
        channels: int,
        *,
        dilations: tuple[int, ...] = (7, 5, 3, 1),
        order: Order = "coarse-to-fine",
        attention: Attention = "pixel",
        norm: Norm = "instance",
        slope: float = 0.0,
    ) -> None:
        super().__init__()
        bias = norm != "batch"
        convs = [nn.Conv2d(channels, channels, 3, padding=step, dilation=step, bias=bias) for step in dilations]
        convs.append(nn.Conv2d(channels, channels, 1, bias=bias))
        if order == "fine-to-coarse":
            convs.reverse()
        self.levels = nn.ModuleList(
            nn.Sequential(conv, norm2d(norm, channels), nn.LeakyReLU(slope) if slope else nn.ReLU()) for conv in convs
        )
        self.gates = nn.ModuleList(AttentionGate(channels, attention) for _ in dilations)
        self.gamma = nn.Parameter(torch.zeros(()))

    def cascade(self, x: Tensor) -> Tensor:
        """Return z, the fused levels of `[N, channels, h, w]`."""
        z: Tensor = self.levels[0](x)
        for level, gate in zip(list(self.levels)[1:], self.gates, strict=True):
            q = level(x)
            z = q + gate(z, q) * (z - q)
        return z

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, channels, h, w]` to the same shape."""
        return x + self.gamma * self.cascade(x)
