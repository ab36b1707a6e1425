"""Memory formats of convolution weights and feature maps."""

from __future__ import annotations

import torch
from torch import Tensor


def is_channels_last(tensor: Tensor) -> bool:
    """Return whether `[N, C, h, w]` is stored channels-last and not contiguous as well."""
    return not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)


def memory_format_of(tensor: Tensor) -> torch.memory_format:
    """Return the memory format of `[N, C, h, w]`."""
    return torch.channels_last if is_channels_last(tensor) else torch.contiguous_format


def as_matrix(weight: Tensor) -> Tensor:
    """Return a weight `[O, C, h, w]` as `[O, C·h·w]`, columns in memory order: a view if possible."""
    return (weight.permute(0, 2, 3, 1) if is_channels_last(weight) else weight).flatten(1)
