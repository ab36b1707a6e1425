"""Bottleneck blocks of ResNet (He et al., 2016), with dilation, for DRN and UperNet."""

from __future__ import annotations

from torch import Tensor, nn

EXPANSION = 4
"""Output channels of a block, as a multiple of its width."""


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with batch norm, added to the input.

    Args:
        in_channels: input channels.
        width: channels of the 3x3 convolution; the output has `EXPANSION` times as many.
        stride: stride of the 3x3 convolution.
        dilation: dilation of the 3x3 convolution.
    """

    def __init__(self, in_channels: int, width: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        out_channels = width * EXPANSION
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, in_channels, H, W]` to `[N, EXPANSION * width, H / stride, W / stride]`."""
        out = self.bn1(self.conv1(x)).relu()
        out = self.bn2(self.conv2(out)).relu()
        result: Tensor = (self.bn3(self.conv3(out)) + self.downsample(x)).relu()
        return result


def bottlenecks(in_channels: int, width: int, depth: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Return a stage of `depth` blocks, the first of which has the stride."""
    first = Bottleneck(in_channels, width, stride, dilation)
    return nn.Sequential(first, *(Bottleneck(width * EXPANSION, width, dilation=dilation) for _ in range(depth - 1)))
