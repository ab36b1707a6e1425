"""Generator of TSIT (Jiang et al., ECCV 2020): two streams of features, FADE and FAdaIN."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.errors import ConfigError
from lab2pix.nn.blocks import SLOPE, GenResBlk, conv2d
from lab2pix.nn.encoders import ImageEncoder, NoiseEncoder
from lab2pix.nn.normalization import resize_nearest


class StreamBlock(nn.Module):
    """Residual block of a stream: twice 3x3 convolution, instance norm, LeakyReLU; plus a shortcut.

    Args:
        in_channels: channels of the input, and of the first convolution.
        out_channels: channels of the result.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_0 = conv2d(in_channels, in_channels, 3)
        self.conv_1 = conv2d(in_channels, out_channels, 3)
        self.conv_s = None if in_channels == out_channels else conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, in_channels, h, w]` to `[N, out_channels, h, w]`."""
        h = _activated(self.conv_1(_activated(self.conv_0(x))))
        return h + (x if self.conv_s is None else _activated(self.conv_s(x)))


def _activated(x: Tensor) -> Tensor:
    return F.leaky_relu(F.instance_norm(x), SLOPE)


class FeatureStream(nn.Module):
    """Stream of features of an image or label map at every scale, for content or for style.

    Args:
        in_channels: channels of the input.
        widths: width of the feature at each scale, full size first.
    """

    def __init__(self, in_channels: int, widths: list[int]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(StreamBlock(before, after) for before, after in pairwise([in_channels, *widths]))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features of `[N, in_channels, H, W]`: feature i is `[N, widths[i], H / 2^i, W / 2^i]`."""
        features: list[Tensor] = []
        for block in self.blocks:
            x = block(x[..., ::2, ::2] if features else x)
            features.append(x)
        return features


def fadain(x: Tensor, style: Tensor, alpha: float = 1.0) -> Tensor:
    """Return x with mean and standard deviation of the style per image and channel: feature adaptive instance norm.

    Args:
        x: `[N, C, h, w]`, of more than one pixel.
        style: feature of the style stream, `[N, C, h', w']`.
        alpha: share of the result; the rest is x.
    """
    (deviation, mean), (target_deviation, target_mean) = _statistics(x), _statistics(style)
    adapted = (x - mean) / deviation * target_deviation + target_mean
    return adapted if alpha == 1 else alpha * adapted + (1 - alpha) * x


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(x.float(), (2, 3), keepdim=True)
    return (variance + 1e-5).sqrt().to(x.dtype), mean.to(x.dtype)


@dataclass(frozen=True)
class TSITSettings:
    """Settings of the generator.

    Attributes:
        width: channels at full size; they double with each scale, to at most 16 times as many.
        num_upsamples: how often the size doubles; both sides of an image are multiples of 2 to this power.
        input: input of the first scale: the small label map, a noise vector, or a noise map of 3 channels.
        noise_dim: length of the noise vector.
        start_size: height and width of the first scale, for a noise vector.
        image_encoder: channels of the image encoder's first convolution; 0: no image encoder.
        style_stream: whether a style image enters by a second stream and FAdaIN.
        alpha: strength of FAdaIN.
    """

    width: int = 64
    num_upsamples: int = 7
    input: Literal["label", "noise", "noise-map"] = "label"
    noise_dim: int = 256
    start_size: tuple[int, int] = (2, 2)
    image_encoder: int = 0
    style_stream: bool = False
    alpha: float = 1.0


class TSITGenerator(nn.Module):
    """Generator whose blocks are modulated by the features of a content stream, from the smallest scale to the largest.

    Each scale but the full one has a block, after FAdaIN with the feature of the style stream, if there is one, and
    before nearest-neighbor upsampling by 2; then LeakyReLU, 3x3 convolution, tanh.

    Args:
        in_channels: channels of the condition, a label map or an image.
        settings: widths, depth and input.
    """

    def __init__(self, in_channels: int, settings: TSITSettings | None = None) -> None:
        super().__init__()
        self.settings = settings = settings or TSITSettings()
        scales = range(settings.num_upsamples + 1)
        widths = [settings.width * min(2**scale, 16) for scale in scales]
        self.fc: nn.Module
        if settings.input == "noise":
            self.fc = NoiseEncoder(settings.noise_dim, widths[-1], settings.start_size)
        else:
            self.fc = nn.Conv2d(in_channels if settings.input == "label" else 3, widths[-1], 3, padding=1)
        self.image_encoder: ImageEncoder | None = None
        if settings.image_encoder:
            self.image_encoder = ImageEncoder(settings.image_encoder, settings.noise_dim)
        self.content = FeatureStream(in_channels, widths)
        self.style = FeatureStream(3, widths) if settings.style_stream else None
        # FADE, feature-adaptive denormalization: SPADE directly from a feature of the content stream.
        self.blocks = nn.ModuleList(
            GenResBlk(before, after, before, hidden=0, middle=before, modulation="spade")
            for before, after in pairwise(widths[::-1])
        )
        self.to_image = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, condition: Tensor, noise: Tensor | None = None, style: Tensor | None = None) -> Tensor:
        """Generate images.

        Args:
            condition: `[N, in_channels, H, W]`, H and W multiples of 2^num_upsamples.
            noise: `[N, noise_dim]`, or a noise map `[N, 3, H / 2^num_upsamples, W / 2^num_upsamples]`; None if the
                label map is the input, or for the mean of an encoded style image.
            style: style images `[N, 3, H, W]` in [-1, 1], for the style stream or the image encoder.

        Returns:
            `[N, 3, H, W]` in [-1, 1].

        Raises:
            ConfigError: noise or style image are missing, or there is a style image without use.
        """
        styles: list[Tensor] | None = None
        if self.style is not None:
            if style is None:
                raise ConfigError("this generator has a style stream; give a style image")
            styles = self.style(style)
        elif style is not None:
            if self.image_encoder is None:
                raise ConfigError("this generator has no image encoder; leave the style image out")
            noise = self.image_encoder.sample(style, noise)
        features = self.content(condition)
        x = self._start(condition, noise, (features[-1].shape[-2], features[-1].shape[-1]))
        for scale, block in zip(range(len(features) - 1, 0, -1), self.blocks, strict=True):
            x = x if styles is None else fadain(x, styles[scale], self.settings.alpha)
            x = F.interpolate(block(x, features[scale]), scale_factor=2.0, mode="nearest")
        return torch.tanh(self.to_image(F.leaky_relu(x, SLOPE)))

    def _start(self, condition: Tensor, noise: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Return the feature of the first scale, `[N, C, *size]`."""
        x: Tensor
        if self.settings.input == "label":
            x = self.fc(resize_nearest(condition, size))
            return x
        if noise is None:
            raise ConfigError("this generator starts from noise; pass noise")
        x = self.fc(noise, size) if self.settings.input == "noise" else self.fc(noise)
        return x
