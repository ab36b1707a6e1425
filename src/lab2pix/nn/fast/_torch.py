"""Private functions of PyTorch, in one place; callers use public functions if one is missing."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import parametrizations, parametrize

SpectralNorm: Any = getattr(parametrizations, "_SpectralNorm", None)
"""The parametrization that `torch.nn.utils.parametrizations.spectral_norm` registers, or None."""


def parametrization_cache() -> MutableMapping[Any, Any] | None:
    """Return the cache of `parametrize.cached()`, which empties it on exit; None outside of that context."""
    enabled, entries = getattr(parametrize, "_cache_enabled", 0), getattr(parametrize, "_cache", None)
    return entries if enabled and isinstance(entries, dict) else None


def lerp_all_(tensors: Sequence[Tensor], ends: Sequence[Tensor], weight: float) -> None:
    """Interpolate tensors in place, `tensor.lerp_(end, weight)`, in one kernel if possible."""
    foreach = getattr(torch, "_foreach_lerp_", None)
    if foreach is not None:
        foreach(list(tensors), list(ends), weight)
        return
    for tensor, end in zip(tensors, ends, strict=True):
        tensor.lerp_(end, weight)


def raise_recompile_limit(least: int) -> None:
    """Let `torch.compile` compile a module at least `least` times before it falls back to eager mode."""
    try:
        import torch._dynamo.config as settings

        settings.recompile_limit = max(settings.recompile_limit, least)
    except (ImportError, AttributeError):
        return


class PackedConv:
    """Convolution whose weight is packed for oneDNN once, not at every call.

    Args:
        weight: `[O, C, h, w]`, channels-last.
        bias: `[O]`.
        stride, padding: of both axes.

    Raises:
        AttributeError, RuntimeError, TypeError: not supported by this PyTorch; see `can_pack`.
    """

    def __init__(self, weight: Tensor, bias: Tensor, stride: int, padding: int) -> None:
        self.bias, self.stride = bias, [stride, stride]
        reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
        size_hint = [1, weight.shape[1], 32, 32]
        self.weight = reorder(weight.to_mkldnn(), [padding, padding], self.stride, [1, 1], 1, size_hint)

    def __call__(self, x: Tensor, padding: tuple[int, int]) -> Tensor:
        """Map `[N, C, h, w]` to `[N, O, h', w']`, both channels-last."""
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, list(padding), self.stride, [1, 1], 1, "none", [], ""
        )
        return result


@cache
def can_pack(dtype: torch.dtype) -> bool:
    """Return whether `PackedConv` works with a dtype on this machine."""
    try:
        x = torch.ones(1, 16, 4, 4, dtype=dtype).contiguous(memory_format=torch.channels_last)
        weight = torch.ones(16, 16, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
        packed = PackedConv(weight, torch.zeros(16, dtype=dtype), stride=1, padding=1)
        return bool(torch.equal(packed(x, (1, 1)), F.conv2d(x, weight, padding=1)))
    except (AttributeError, RuntimeError, TypeError):
        return False
