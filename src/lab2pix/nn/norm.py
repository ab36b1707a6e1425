"""Normalization layers by name, as Pix2Pix's and CycleGAN's networks choose them."""

from __future__ import annotations

from typing import Literal

from torch import nn

__all__ = ["Norm", "norm2d"]

Norm = Literal["batch", "instance", "none"]
"""`batch`: with weight, bias and running statistics; `instance`: with none of these; `none`: the identity.

A convolution followed by instance norm has a bias, one followed by batch norm or the identity has none.
"""


def norm2d(norm: Norm, channels: int) -> nn.Module:
    """Return the normalization layer for `[N, channels, H, W]`."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.InstanceNorm2d(channels) if norm == "instance" else nn.Identity()
