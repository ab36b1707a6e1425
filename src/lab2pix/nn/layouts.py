"""How the numbers of a tensor lie in memory."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["as_matrix", "is_channels_last", "order_of"]


def is_channels_last(weight: Tensor) -> bool:
    """Say whether a weight `[O, C, h, w]` lies in memory channels-last, and not in the usual order as well."""
    return not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last)


def order_of(tensor: Tensor) -> torch.memory_format:
    """Return how a tensor `[N, C, h, w]` lies in memory."""
    return torch.channels_last if is_channels_last(tensor) else torch.contiguous_format


def as_matrix(weight: Tensor) -> Tensor:
    """Return a weight `[O, C, h, w]` as `[O, C·h·w]`, columns in the order of its memory: a view if it can be."""
    return (weight.permute(0, 2, 3, 1) if is_channels_last(weight) else weight).flatten(1)
