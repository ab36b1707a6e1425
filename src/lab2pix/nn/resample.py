"""Anti-aliased resampling by 2 (Zhang, 2019), a fixed binomial filter per channel, as in CUT; and padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ReplicationPad(nn.Module):
    """Padding by the nearest pixel of the border.

    The compiled backward pass of `nn.ReplicationPad2d` fails for channels-last inputs.

    Args:
        width: pixels on each side.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, C, h, w]` to `[N, C, h + 2 width, w + 2 width]`."""
        for dim in (-2, -1):
            first, last = x.narrow(dim, 0, 1), x.narrow(dim, x.shape[dim] - 1, 1)
            x = torch.cat([*[first] * self.width, x, *[last] * self.width], dim)
        return x


def binomial(taps: tuple[int, ...], gain: float, channels: int) -> Tensor:
    """Return the filter of a depthwise convolution, `[channels, 1, k, k]`, whose taps sum to `gain`."""
    row = torch.tensor(taps, dtype=torch.float32)
    square = torch.outer(row, row)
    return (square * (gain / square.sum())).repeat(channels, 1, 1, 1)


class BlurDownsample(nn.Module):
    """Blur by [1, 2, 1] in both directions, with reflection, and keep every second pixel.

    Args:
        channels: channels of input and result.
    """

    filt: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("filt", binomial((1, 2, 1), 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, channels, h, w]` to `[N, channels, ceil(h / 2), ceil(w / 2)]`."""
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.filt, stride=2, groups=x.shape[1])


class BlurUpsample(nn.Module):
    """Double the size: a transposed convolution with [1, 3, 3, 1] in both directions, with replicated borders.

    Args:
        channels: channels of input and result.
    """

    filt: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pad = ReplicationPad(1)
        self.register_buffer("filt", binomial((1, 3, 3, 1), 4, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, channels, h, w]` to `[N, channels, 2h, 2w]`."""
        doubled = F.conv_transpose2d(self.pad(x), self.filt, stride=2, padding=2, groups=x.shape[1])
        return doubled[..., 1:-1, 1:-1]
