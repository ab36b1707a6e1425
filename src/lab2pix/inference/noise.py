"""Spherical interpolation (slerp) of noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def slerp(a: Tensor, b: Tensor, parts: Tensor) -> Tensor:
    """Interpolate spherically between two vectors `[D]`, at `parts` `[N]` from 0 to 1; returns `[N, D]`."""
    cosine = float(torch.dot(a, b) / (a.norm() * b.norm()))
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    if math.sin(angle) < 1e-6:  # the same vector twice
        return a.expand(len(parts), -1).clone()
    t = parts[:, None]
    path = (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / math.sin(angle)
    path[parts == 0], path[parts == 1] = a, b
    return path
