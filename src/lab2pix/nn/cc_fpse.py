"""Networks of CC-FPSE: generator with predicted convolutions, and feature-pyramid discriminator (NeurIPS 2019)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.errors import ConfigError
from lab2pix.nn.blocks import SLOPE, ConvNormAct, conv2d
from lab2pix.nn.discriminators import ScaleOutput
from lab2pix.nn.generators import GeneratorSettings, Lab2PixV2Generator
from lab2pix.nn.normalization import SPADE, resize_nearest


def depthwise_conv(x: Tensor, kernels: Tensor) -> Tensor:
    """Return a depthwise 3x3 convolution, with zeros outside, whose kernel differs from pixel to pixel.

    Args:
        x: `[N, C, h, w]`.
        kernels: `[N, 9 * C, h, w]`, per channel the nine weights of a kernel, row by row.
    """
    height, width = x.shape[-2:]
    padded, weights = F.pad(x, (1, 1, 1, 1)), torch.unflatten(kernels, 1, (-1, 9))
    # Nine products of views, so that the backward pass keeps no copy of the map per weight.
    total: Tensor = weights[:, :, 0] * padded[..., :height, :width]
    for tap in range(1, 9):
        row, column = divmod(tap, 3)
        total = total + weights[:, :, tap] * padded[..., row : row + height, column : column + width]
    return total


def _predictor(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Return the network that predicts kernels or attention from the label map and its features."""
    return nn.Sequential(nn.Conv2d(inputs, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, outputs, 3, padding=1))


class PredictedConvBlock(nn.Module):
    """Residual block whose depthwise kernels and channel attention are predicted per pixel from the label map.

    Twice: batch norm, depthwise convolution with predicted kernels, 1x1 convolution, times a predicted attention,
    LeakyReLU; plus a shortcut, the identity where widths agree, else SPADE and a 1x1 convolution.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result.
        guide_channels: channels of the label map and the label pyramid's feature together.
        hidden: channels of the predictors.
        spectral_norm: whether the shortcut's convolution has spectral norm.
    """

    def __init__(
        self, in_channels: int, out_channels: int, guide_channels: int, *, hidden: int, spectral_norm: bool
    ) -> None:
        super().__init__()
        middle = min(in_channels, out_channels)
        self.kernels_1 = _predictor(guide_channels, hidden, 9 * in_channels)
        self.kernels_2 = _predictor(guide_channels, hidden, 9 * middle)
        self.attention_1 = _predictor(guide_channels, hidden, middle)
        self.attention_2 = _predictor(guide_channels, hidden, out_channels)
        self.norm_1 = nn.BatchNorm2d(in_channels)
        self.conv_1 = nn.Conv2d(in_channels, middle, 1)
        self.norm_2 = nn.BatchNorm2d(middle)
        self.conv_2 = nn.Conv2d(middle, out_channels, 1)
        self.norm_s: SPADE | None = None
        self.conv_s: nn.Conv2d | None = None
        if in_channels != out_channels:
            self.norm_s = SPADE(in_channels, guide_channels, hidden=hidden)
            self.conv_s = conv2d(in_channels, out_channels, 1, bias=False, spectral_norm=spectral_norm)

    def forward(self, x: Tensor, label: Tensor, feature: Tensor) -> Tensor:
        """Map `[N, in_channels, h, w]` to `[N, out_channels, h, w]`.

        Args:
            x: the feature.
            label: `[N, label_channels, H, W]` one-hot, resized to h and w.
            feature: `[N, width, h, w]` of the label pyramid.
        """
        guide = torch.cat([resize_nearest(label, (x.shape[-2], x.shape[-1])).to(feature.dtype), feature], 1)
        h = self.conv_1(depthwise_conv(self.norm_1(x), self.kernels_1(guide)))
        h = F.leaky_relu(torch.sigmoid(self.attention_1(guide)) * h, SLOPE)
        h = self.conv_2(depthwise_conv(self.norm_2(h), self.kernels_2(guide)))
        h = F.leaky_relu(torch.sigmoid(self.attention_2(guide)) * h, SLOPE)
        shortcut = x if self.norm_s is None or self.conv_s is None else self.conv_s(self.norm_s(x, guide))
        result: Tensor = shortcut + h
        return result


class LabelPyramid(nn.Module):
    """Feature pyramid of the label map: 3x3 convolutions down to the first scale, and up again with lateral 1x1 ones.

    Args:
        label_channels: channels of the one-hot label map.
        width: channels of every feature.
        levels: number of scales.
    """

    def __init__(self, label_channels: int, width: int, levels: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            ConvNormAct(label_channels if level == 0 else width, width, 3, stride=1 if level == 0 else 2, norm="batch")
            for level in range(levels)
        )
        self.lateral = nn.ModuleList(ConvNormAct(width, width, 1, norm="batch") for _ in range(levels - 1))
        self.up = nn.ModuleList(ConvNormAct(width, width, 3, norm="batch") for _ in range(levels - 1))

    def forward(self, label: Tensor) -> list[Tensor]:
        """Return a feature `[N, width, h, w]` per scale of `[N, label_channels, H, W]`, smallest first."""
        encoded: list[Tensor] = []
        for layer in self.down:
            encoded.append(layer(encoded[-1] if encoded else label))
        features = [encoded.pop()]
        for lateral, up in zip(self.lateral, self.up, strict=True):
            features.append(up(F.interpolate(features[-1], scale_factor=2.0, mode="nearest") + lateral(encoded.pop())))
        return features


class CCFPSEGenerator(Lab2PixV2Generator):
    """Generator of CC-FPSE: SPADE's layout with `PredictedConvBlock`, guided by a `LabelPyramid`.

    Args:
        label_channels: channels of the condition: one-hot classes, unknown, instance borders.
        settings: widths, sizes and input; `modulation_hidden` is the width of the predictors.

    Raises:
        ConfigError: more than six upsamplings.
    """

    def __init__(self, label_channels: int, settings: GeneratorSettings) -> None:
        if settings.num_upsamples > 6:
            raise ConfigError("CC-FPSE doubles its size 5 or 6 times; set num_upsamples to one of these")
        super().__init__(label_channels, settings)
        self.label_pyramid = LabelPyramid(label_channels, settings.width, settings.num_upsamples + 1)

    def _blocks(self, widths: Iterable[tuple[int, int]]) -> nn.ModuleList:
        settings = self.settings
        return nn.ModuleList(
            PredictedConvBlock(
                before,
                after,
                self.label_channels + settings.width,
                hidden=settings.modulation_hidden,
                spectral_norm=settings.spectral_norm,
            )
            for before, after in widths
        )

    def scale_features(self, condition: Tensor, scales: int) -> list[Tensor]:
        """Return the feature of every scale, smallest first."""
        features: list[Tensor] = self.label_pyramid(condition)
        return features


class FPSEDiscriminator(nn.Module):
    """Feature-pyramid discriminator with semantic embeddings (CC-FPSE).

    Convolutions with stride 2 go down to 1/32 of the size; from there a pyramid goes up to 1/4. At 1/4, 1/8 and 1/16 a
    prediction is the sum of a realism score and of the product of the image's features and embedded classes.

    Args:
        label_channels: channels of the label map.
        width: channels of the first convolution.
    """

    STRIDE = 32
    """Height and width of images are multiples of it."""

    def __init__(self, label_channels: int, *, width: int = 64) -> None:
        super().__init__()
        widths = [3, width, 2 * width, 4 * width, 8 * width, 8 * width]
        self.down = nn.ModuleList(ConvNormAct(before, after, 3, stride=2) for before, after in pairwise(widths))
        self.lateral = nn.ModuleList(ConvNormAct(channels, 4 * width, 1) for channels in widths[2:])
        self.final = nn.ModuleList(ConvNormAct(4 * width, 2 * width, 3) for _ in range(3))
        self.realism = nn.Conv2d(2 * width, 1, 1)
        self.semantics = nn.Conv2d(2 * width, 2 * width, 1)
        self.embedding = nn.Conv2d(label_channels, 2 * width, 1)

    def forward(self, image: Tensor, label: Tensor) -> ScaleOutput:
        """Predict at three sizes, largest first.

        Args:
            image: `[N, 3, H, W]`, H and W multiples of 32.
            label: `[N, label_channels, H, W]`, the condition.

        Returns:
            Predictions at 1/4, 1/8 and 1/16, and the features of the way down but the first.
        """
        x, features = image, []
        for layer in self.down:
            x = layer(x)
            features.append(x)
        features = features[1:]
        laterals = [lateral(feature) for lateral, feature in zip(self.lateral, features, strict=True)]
        pyramid = [laterals.pop()]
        while laterals:
            upsampled = F.interpolate(pyramid[0], scale_factor=2.0, mode="bilinear", align_corners=False)
            pyramid.insert(0, upsampled + laterals.pop())
        predictions = []
        # Pooling before the 1x1 convolution gives the same embedding as after it.
        pooled = F.avg_pool2d(label, 2)
        for final, feature in zip(self.final, pyramid[:-1], strict=True):
            pooled = F.avg_pool2d(pooled, 2)
            h = final(feature)
            match = (self.embedding(pooled) * self.semantics(h)).sum(1, keepdim=True)
            predictions.append(self.realism(h) + match)
        return ScaleOutput(predictions, features)
