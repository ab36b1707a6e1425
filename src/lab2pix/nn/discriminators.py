"""Multi-scale discriminators that also return features: hierarchical perceptual (3.2.1, Fig. 6), and PatchGANs.

Scales count from the largest image: scale 0 is the full size (scale 3 and D3 of the paper). The scales of generators
count from the smallest.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.nn.blocks import SLOPE, ConvNormAct, MiniInception, conv2d
from lab2pix.nn.normalization import Norm


class ScaleOutput(NamedTuple):
    """Output of the discriminator of one scale.

    Attributes:
        predictions: logits per level `[N, 1, h, w]`, high where the image looks real; the first level is the largest.
        features: intermediate features, for feature matching (Eq. 29).
    """

    predictions: list[Tensor]
    features: list[Tensor]


def downsample(x: Tensor) -> Tensor:
    """Halve `[N, C, H, W]` for the next discriminator (4.2.1): 3x3 average pooling, padding not counted."""
    return F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)


def pyramid(image: Tensor, scales: int) -> list[Tensor]:
    """Return `[N, C, H, W]` at every scale, largest first, each `downsample` of the one before (4.2.1)."""
    images = [image]
    for _ in range(scales - 1):
        images.append(downsample(images[-1]))
    return images


def num_levels(scale: int) -> int:
    """Return the levels of a hierarchical discriminator: 3 at scale 0 (full size, D3 of the paper), 2 at 1, 1 at 2."""
    return 3 - scale


class HierarchicalDiscriminator(nn.Module):
    """Hierarchical perceptual discriminator: predicts on up to three levels, each with a backbone's feature (Fig. 6).

    Args:
        in_channels: channels of the input: the image, or label map and image.
        backbone_channels: channels of the backbone's feature for each level.
        levels: 3 for D3, 2 for D2, 1 for D1 (Eq. 8, 23).
        width: channels of the trunk's first convolution; the second and third have 2 and 4 times as many.
        max_width: channels of the levels.
    """

    def __init__(
        self,
        in_channels: int,
        backbone_channels: Sequence[int],
        *,
        levels: int,
        width: int = 64,
        max_width: int = 512,
    ) -> None:
        super().__init__()
        self.trunk = nn.ModuleList(
            [
                nn.Sequential(
                    conv2d(in_channels, width, 3, stride=2, spectral_norm=False),
                    nn.LeakyReLU(SLOPE, inplace=True),
                ),
                ConvNormAct(width, 2 * width, 3, stride=2),
                ConvNormAct(2 * width, 4 * width, 3, stride=2),
            ]
        )
        mains = [4 * width, *[max_width] * (levels - 1)]
        # The perceptual branch, on `BackboneFeatures.discriminator`; not on the features of the perceptual loss.
        self.perceptual = nn.ModuleList(ConvNormAct(channels, channels, 3) for channels in backbone_channels[:levels])
        self.fusion = nn.ModuleList(
            ConvNormAct(main + more, max_width, 3) for main, more in zip(mains, backbone_channels[:levels], strict=True)
        )
        self.heads = nn.ModuleList(
            nn.Sequential(ConvNormAct(max_width, max_width, 3), conv2d(max_width, 1, 5, spectral_norm=False))
            for _ in range(levels)
        )
        self.stages = nn.ModuleList(MiniInception(max_width, max_width) for _ in range(levels - 1))

    def forward(self, x: Tensor, backbone_features: Sequence[Tensor]) -> ScaleOutput:
        """Predict on every level (Eq. 8, 23).

        Args:
            x: `[N, in_channels, H, W]`, H and W multiples of 2^(2 + levels).
            backbone_features: per level `[N, C_l, H / 2^(3 + l), W / 2^(3 + l)]` of the same image, l from 0.

        Returns:
            One prediction per level, and the features: trunk, then per level its fusion and, except for the last, its
            mini-inception block.
        """
        predictions: list[Tensor] = []
        features: list[Tensor] = []
        for layer in self.trunk:
            x = layer(x)
            features.append(x)
        for level, (perceptual, fusion, head) in enumerate(zip(self.perceptual, self.fusion, self.heads, strict=True)):
            if level > 0:
                x = self.stages[level - 1](x)
                features.append(x)
            x = fusion(torch.cat([x, perceptual(backbone_features[level])], 1))
            features.append(x)
            predictions.append(head(x))
        return ScaleOutput(predictions, features)


class PatchDiscriminator(nn.Module):
    """PatchGAN of Pix2PixHD, SPADE (5.4) and TSIT, which also returns its features: 4x4 convolutions with norms.

    `lab2pix.nn.patchgan.PatchGAN` is that of Pix2Pix, with another padding, and returns logits only.

    Args:
        in_channels: channels of the input: the image, or label map and image.
        width: channels of the first convolution; they double with each layer.
        max_width: upper limit of the channels.
        layers: convolutions before the one that predicts.
        full_size_layer: the layer, counted from 0, that keeps the size, while the others halve it; None: the last one.
            TSIT has 3; with three layers, all of them then halve the size.
        norm: normalization.
        spectral_norm: whether the normalized convolutions have spectral norm and no bias (SPADE), or a bias alone
            (Pix2PixHD).
    """

    def __init__(
        self,
        in_channels: int,
        *,
        width: int = 64,
        max_width: int = 512,
        layers: int = 4,
        full_size_layer: int | None = None,
        norm: Norm = "instance",
        spectral_norm: bool = True,
    ) -> None:
        super().__init__()
        widths = [min(width * 2**step, max_width) for step in range(layers)]
        # An even kernel: `kernel // 2` is the padding of 2 on both sides that the authors' code has.
        first = conv2d(in_channels, widths[0], 4, stride=2, spectral_norm=False)
        self.layers = nn.ModuleList([nn.Sequential(first, nn.LeakyReLU(SLOPE, inplace=True))])
        for step, (before, after) in enumerate(pairwise(widths), start=1):
            stride = 1 if step == (layers - 1 if full_size_layer is None else full_size_layer) else 2
            self.layers.append(ConvNormAct(before, after, 4, stride=stride, norm=norm, spectral_norm=spectral_norm))
        self.head = conv2d(widths[-1], 1, 4, spectral_norm=False)

    def forward(self, x: Tensor, backbone_features: Sequence[Tensor] = ()) -> ScaleOutput:
        """Predict for `[N, in_channels, H, W]`; it ignores the features of a backbone."""
        del backbone_features
        features: list[Tensor] = []
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        return ScaleOutput([self.head(x)], features)


class MultiScaleDiscriminator(nn.Module):
    """Multi-scale discriminator: independent discriminators, one per size of the image (4.2.1, Eq. 23).

    Args:
        networks: the discriminators, largest image first.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    @classmethod
    def hierarchical(
        cls, in_channels: int, backbone_channels: Sequence[int], *, scales: int, width: int = 64, max_width: int = 512
    ) -> Self:
        """Return hierarchical discriminators, largest image first: D3 with 3 levels, D2 with 2, D1 with 1 (5.2).

        Args:
            in_channels: channels of the input: the image, or label map and image.
            backbone_channels: widths of the backbone's features, one per level.
            scales: 2 for D3 and D2, 3 for D1 as well (V2-H).
            width: channels of each trunk's first convolution.
            max_width: channels of the levels.
        """
        return cls(
            [
                HierarchicalDiscriminator(
                    in_channels, backbone_channels, levels=num_levels(scale), width=width, max_width=max_width
                )
                for scale in range(scales)
            ]
        )

    def forward(self, inputs: Sequence[Tensor], backbone_features: Sequence[Sequence[Tensor]]) -> list[ScaleOutput]:
        """Predict for every size.

        Args:
            inputs: label map and image, `[N, C, H / 2^s, W / 2^s]` for scale s, largest first.
            backbone_features: per scale the backbone's features of that image.
        """
        return [
            network(x, features) for network, x, features in zip(self.networks, inputs, backbone_features, strict=True)
        ]
