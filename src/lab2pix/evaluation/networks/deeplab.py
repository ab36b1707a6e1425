"""DeepLab-V2 (Chen et al., 2017) on ResNet-101 at three scales, as a segmenter of COCO-Stuff."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DeepLabV2(nn.Module):
    """Dilated ResNet with four parallel dilated classifiers, over the image at the sizes 1, 1/2 and 3/4.

    The defaults are those of DeepLab-V2-101.

    Args:
        classes: output channels.
        width: width of the stem; the deepest stage has 32 times as many channels.
        depths: residual blocks of the four stages.
        rates: dilations of the classifiers.
    """

    def __init__(
        self,
        classes: int = 182,
        width: int = 64,
        depths: Sequence[int] = (3, 4, 23, 3),
        rates: Sequence[int] = (6, 12, 18, 24),
    ) -> None:
        super().__init__()
        widths = [width, *(width * 4 * 2**stage for stage in range(4))]
        strides, dilations = (1, 2, 1, 1), (1, 1, 2, 4)
        pool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            layer1=nn.Sequential(OrderedDict(conv1=_convolution(3, width, 7, stride=2), pool=pool))
        )
        for stage, depth in enumerate(depths):
            sizes = widths[stage], widths[stage + 1]
            parts[f"layer{stage + 2}"] = _stage(*sizes, depth, strides[stage], dilations[stage])
        parts["aspp"] = _DilatedClassifiers(widths[-1], classes, rates)
        self.base = nn.Sequential(parts)

    def forward(self, image: Tensor) -> Tensor:
        """Map BGR `[N, 3, H, W]` of 0 to 255 minus the mean to logits `[N, classes, ~H / 8, ~W / 8]`.

        Each logit is the largest one of the three scales.
        """
        logits: Tensor = self.base(image)
        for scale in (0.5, 0.75):
            size = [int(side * scale) for side in image.shape[-2:]]
            small = self.base(F.interpolate(image, size, mode="bilinear", align_corners=False))
            other = F.interpolate(small, logits.shape[-2:], mode="bilinear", align_corners=False)
            logits = torch.maximum(logits, other)
        return logits


class _Bottleneck(nn.Module):
    """Bottleneck block with the stride in its first convolution."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, dilation: int, project: bool) -> None:
        super().__init__()
        width = out_channels // 4
        self.reduce = _convolution(in_channels, width, 1, stride=stride)
        self.conv3x3 = _convolution(width, width, 3, dilation=dilation)
        self.increase = _convolution(width, out_channels, 1, relu=False)
        self.shortcut: nn.Module = nn.Identity()
        if project:
            self.shortcut = _convolution(in_channels, out_channels, 1, stride=stride, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.increase(self.conv3x3(self.reduce(x)))
        result: Tensor = (out + self.shortcut(x)).relu()
        return result


class _DilatedClassifiers(nn.Module):
    """Sum of 3x3 classifiers of several dilations."""

    def __init__(self, in_channels: int, classes: int, rates: Sequence[int]) -> None:
        super().__init__()
        for number, rate in enumerate(rates):
            self.add_module(f"c{number}", nn.Conv2d(in_channels, classes, 3, padding=rate, dilation=rate))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([classifier(x) for classifier in self.children()]).sum(0)


def _stage(in_channels: int, out_channels: int, depth: int, stride: int, dilation: int) -> nn.Sequential:
    blocks: OrderedDict[str, nn.Module] = OrderedDict(
        block1=_Bottleneck(in_channels, out_channels, stride, dilation, True)
    )
    for number in range(2, depth + 1):
        blocks[f"block{number}"] = _Bottleneck(out_channels, out_channels, 1, dilation, False)
    return nn.Sequential(blocks)


def _convolution(
    in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, dilation: int = 1, relu: bool = True
) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation, bias=False),
        bn=nn.BatchNorm2d(out_channels),
    )
    if relu:
        layers["relu"] = nn.ReLU()
    return nn.Sequential(layers)
