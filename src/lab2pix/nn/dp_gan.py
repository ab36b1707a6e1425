"""Networks of DP-GAN: OASIS's generator guided by a pyramid of label features, and its U-Net with two score heads."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.nn.blocks import SLOPE, GenResBlk
from lab2pix.nn.normalization import resize_nearest
from lab2pix.nn.oasis import OASISDiscriminator, block_widths, with_noise


def _conv_norm_relu(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU())


class DPGANGenerator(nn.Module):
    """Generator of DP-GAN (Li et al., 2022): scale and shift come from a feature pyramid of label map and noise.

    The pyramid has the full size twice, then halves it with every layer. A block is guided by the layer of its own size
    and by the last one, resized.

    Args:
        label_channels: channels of the condition.
        width: channels of the last block; the first has up to 16 times as many.
        num_upsamples: how often the size doubles; there is one block more.
        pyramid_first: channels of the pyramid's first layer.
        pyramid_width: channels of its other layers.
        noise_dim: length of the noise vector; 0: the image depends on the label map alone.

    Attributes:
        stride: height and width of an image are multiples of it.
    """

    def __init__(
        self,
        label_channels: int,
        *,
        width: int = 64,
        num_upsamples: int = 5,
        pyramid_first: int = 32,
        pyramid_width: int = 64,
        noise_dim: int = 64,
    ) -> None:
        super().__init__()
        channels, widths = label_channels + noise_dim, block_widths(width, num_upsamples)
        self.noise_dim, self.stride = noise_dim, 2**num_upsamples
        layers = [channels, pyramid_first, *[pyramid_width] * (num_upsamples + 1)]
        self.pyramid = nn.ModuleList(
            _conv_norm_relu(before, after, 1 if layer < 2 else 2)
            for layer, (before, after) in enumerate(pairwise(layers))
        )
        self.fc = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(
            GenResBlk(before, after, 2 * pyramid_width, hidden=0, modulation="spade")
            for before, after in pairwise(widths)
        )
        self.to_image = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, condition: Tensor, noise: Tensor | None = None) -> Tensor:
        """Generate images `[N, 3, H, W]` in [-1, 1].

        Args:
            condition: `[N, label_channels, H, W]`; sides are multiples of `stride`.
            noise: `[N, noise_dim]`; None only if `noise_dim` is 0.
        """
        guide = with_noise(condition, noise, self.noise_dim)
        features = [guide]
        for layer in self.pyramid:
            features.append(layer(features[-1]))
        last = features[-1]
        x = self.fc(resize_nearest(guide, (last.shape[-2], last.shape[-1])))
        for index, block in enumerate(self.blocks):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest") if index else x
            own = features[-1 - index]
            whole = F.interpolate(last, size=own.shape[-2:], mode="bilinear", align_corners=False) if index else last
            x = block(x, torch.cat([whole, own], 1))
        return torch.tanh(self.to_image(F.leaky_relu(x, SLOPE)))


class DPGANOutput(NamedTuple):
    """Output of DP-GAN's discriminator.

    Attributes:
        logits: `[N, K + 1, H, W]`: "fake", then the classes.
        scores: logits of the image being real at two depths, `[N, 1, h, w]`.
        features: outputs of the doubling blocks but the first, smallest first.
    """

    logits: Tensor
    scores: list[Tensor]
    features: list[Tensor]


class DPGANDiscriminator(OASISDiscriminator):
    """OASIS's U-Net with two heads that score the encoder's features: after the last halving and two before it.

    Args:
        classes: number of classes K.
        widths: channels after each halving of the size, three or more.
        last_width: channels before the logits.
        head_width: channels of the heads.
    """

    def __init__(
        self,
        classes: int,
        *,
        widths: Sequence[int] = (128, 128, 256, 256, 512, 512),
        last_width: int = 64,
        head_width: int = 64,
    ) -> None:
        super().__init__(classes, widths=widths, last_width=last_width)
        self.heads = nn.ModuleList(_score_head(channels, head_width) for channels in (widths[-3], widths[-1]))

    def forward(self, image: Tensor) -> DPGANOutput:  # type: ignore[override]
        """Segment and score images `[N, 3, H, W]`."""
        falling, rising = self.features(image)
        scores = [head(feature) for head, feature in zip(self.heads, (falling[-3], falling[-1]), strict=True)]
        return DPGANOutput(self.head(rising[-1]), scores, rising[1:])


def _score_head(channels: int, width: int) -> nn.Sequential:
    head = nn.Sequential(nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.LeakyReLU(SLOPE))
    for _ in range(3):
        head.extend([nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.LeakyReLU(SLOPE)])
    head.append(nn.Conv2d(width, 1, 3, padding=1))
    return head
