"""Pixels in their three forms: bytes, what networks see, and Pillow pictures."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["float_to_uint8", "to_pil", "uint8_to_float"]


def uint8_to_float(pixels: Tensor) -> Tensor:
    """Turn uint8 of any shape into float32 in [-1, 1], as networks see it."""
    return pixels.to(torch.float32).div_(127.5).sub_(1.0)


def float_to_uint8(image: Tensor) -> Tensor:
    """Turn floats in [-1, 1] of any shape (what lies outside is clipped) into uint8 on the CPU."""
    return ((image.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()


def to_pil(pixels: Tensor) -> Image.Image:
    """Turn `[3, H, W]` uint8 into a Pillow picture."""
    return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))
