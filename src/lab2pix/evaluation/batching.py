"""Batches cut into portions that a processor is quick with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["map_chunks"]

_PIXELS = 2**17
"""How many pixels the processor computes on at once."""


def map_chunks(work: Callable[..., Tensor], size: tuple[int, int], device: torch.device, *batches: Tensor) -> Tensor:
    """Return what `work` makes of batches that it treats picture by picture.

    On the processor it gets a few pictures at a time: what a network keeps between two layers then stays in the cache
    and in memory that the process has already, which makes EfficientNet-Lite0 on 32 pictures of 256x256 more than twice
    as fast. On an accelerator it gets the batch whole.

    Args:
        work: takes parts of the batches and returns `[N, ...]`.
        size: height and width that it computes at.
        device: where it computes.
        batches: `[N, ...]` each.
    """
    if device.type != "cpu":
        return work(*batches)
    count = max(1, _PIXELS // (size[0] * size[1]))
    if len(batches[0]) <= count:
        return work(*batches)
    starts = range(0, len(batches[0]), count)
    return torch.cat([work(*(batch[start : start + count] for batch in batches)) for start in starts])
