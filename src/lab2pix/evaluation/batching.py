"""Chunked computation: batches are split so that activations stay in the CPU cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_PIXELS = 2**17
"""Pixels per chunk on the CPU."""


def map_chunks(work: Callable[..., Tensor], size: tuple[int, int], device: torch.device, *batches: Tensor) -> Tensor:
    """Apply a function to chunks of batches and concatenate the results.

    Chunks of a few images keep activations in the cache and in memory that is allocated already: EfficientNet-Lite0 on
    32 images of 256x256 is more than twice as fast. Other devices get the batch in one piece.

    `work` computes at `size` on `device`, treats each image by itself, and returns `[N, ...]`.
    """
    if device.type != "cpu":
        return work(*batches)
    count = max(1, _PIXELS // (size[0] * size[1]))
    if len(batches[0]) <= count:
        return work(*batches)
    starts = range(0, len(batches[0]), count)
    return torch.cat([work(*(batch[start : start + count] for batch in batches)) for start in starts])
