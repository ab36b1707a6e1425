"""UperNet (Xiao et al., 2018) on a ResNet with a stem of three convolutions, as a segmenter of ADE20K."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.evaluation.networks.bottleneck import EXPANSION, bottlenecks

_POOLS = (1, 2, 3, 6)


class UperNet(nn.Module):
    """Pyramid pooling and a feature pyramid over all stages of a ResNet.

    The defaults are those of UperNet-101.

    Args:
        classes: output channels.
        width: width of the first stage; each next one has twice as many.
        depths: residual blocks of the four stages.
        channels: channels of the decoder.
    """

    def __init__(
        self, classes: int = 150, width: int = 64, depths: Sequence[int] = (3, 4, 23, 3), channels: int = 512
    ) -> None:
        super().__init__()
        self.encoder = _Encoder(width, depths)
        self.decoder = _Decoder(classes, [width * EXPANSION * 2**stage for stage in range(4)], channels)

    def forward(self, image: Tensor) -> Tensor:
        """Map normalized RGB `[N, 3, H, W]`, sides divisible by 32, to logits `[N, classes, H / 4, W / 4]`."""
        logits: Tensor = self.decoder(self.encoder(image))
        return logits


class _Encoder(nn.Module):
    def __init__(self, width: int, depths: Sequence[int]) -> None:
        super().__init__()
        sizes = (3, width, width, 2 * width)
        for number in (1, 2, 3):
            stride = 2 if number == 1 else 1
            conv = nn.Conv2d(sizes[number - 1], sizes[number], 3, stride, padding=1, bias=False)
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", nn.BatchNorm2d(sizes[number]))
        in_channels = 2 * width
        for stage, depth in enumerate(depths):
            inner = width * 2**stage
            self.add_module(f"layer{stage + 1}", bottlenecks(in_channels, inner, depth, 1 if stage == 0 else 2))
            in_channels = inner * EXPANSION

    def forward(self, x: Tensor) -> list[Tensor]:
        for number in (1, 2, 3):
            x = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(x)).relu()
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        found = []
        for stage in (1, 2, 3, 4):
            x = self.get_submodule(f"layer{stage}")(x)
            found.append(x)
        return found


class _Decoder(nn.Module):
    def __init__(self, classes: int, widths: Sequence[int], channels: int) -> None:
        super().__init__()
        deepest = widths[-1]
        self.ppm_conv = nn.ModuleList(_convolution(deepest, channels, 1) for _ in _POOLS)
        self.ppm_last_conv = _convolution(deepest + len(_POOLS) * channels, channels, 3)
        self.fpn_in = nn.ModuleList(_convolution(width, channels, 1) for width in widths[:-1])
        self.fpn_out = nn.ModuleList(nn.Sequential(_convolution(channels, channels, 3)) for _ in widths[:-1])
        fused = _convolution(len(widths) * channels, channels, 3)
        self.conv_last = nn.Sequential(fused, nn.Conv2d(channels, classes, 1))

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        deepest = stages[-1]
        pooled = [F.adaptive_avg_pool2d(deepest, side) for side in _POOLS]
        parts = [conv(_resize(part, deepest)) for conv, part in zip(self.ppm_conv, pooled, strict=True)]
        feature = self.ppm_last_conv(torch.cat([deepest, *parts], 1))
        levels = [feature]
        for index in reversed(range(len(stages) - 1)):
            lateral = self.fpn_in[index](stages[index])
            feature = lateral + _resize(feature, lateral)
            levels.insert(0, self.fpn_out[index](feature))
        logits: Tensor = self.conv_last(torch.cat([_resize(level, levels[0]) for level in levels], 1))
        return logits


def _convolution(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def _resize(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)
