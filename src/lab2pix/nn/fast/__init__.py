"""Faster networks: `accelerate` converts one for training, `fuse` a generator for inference."""

from __future__ import annotations

from lab2pix.nn.fast.accelerate import accelerate, to_low_precision
from lab2pix.nn.fast.inference.generator import FusedGenerator, fuse

__all__ = ["FusedGenerator", "accelerate", "fuse", "to_low_precision"]
