"""Networks of MUNIT (Huang et al., 2018): style and content encoders, AdaIN decoder, multi-scale discriminator.

Parameters have the names of the authors' code. Every convolution pads its input by itself and has a bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.nn.discriminators import pyramid
from lab2pix.nn.normalization import ImageLayerNorm, norm2d
from lab2pix.nn.resample import ReplicationPad

Activation = Literal["relu", "leaky-relu", "none"]
Norm = Literal["none", "instance", "batch", "layer"]
Padding = Literal["reflect", "replicate", "zero"]

EPS = 1e-5
_WIDER_STYLE_LAYERS = 2
"""Layers of the style encoder that double the width; later ones keep it."""


def _activation(name: Activation) -> nn.Module:
    if name == "none":
        return nn.Identity()
    return nn.ReLU() if name == "relu" else nn.LeakyReLU(0.2)


def _norm(name: Norm, channels: int) -> nn.Module:
    return ImageLayerNorm(channels) if name == "layer" else norm2d(name, channels)


class ConvBlock(nn.Module):
    """Padding, convolution, normalization and activation.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result.
        kernel: kernel size k; the input is padded by (k - 1) // 2 on each side.
        stride: stride of the convolution.
        norm: normalization.
        activation: activation.
        padding: kind of padding.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        norm: Norm = "none",
        activation: Activation = "relu",
        padding: Padding = "reflect",
    ) -> None:
        super().__init__()
        width = (kernel - 1) // 2
        pads = {"reflect": nn.ReflectionPad2d, "replicate": ReplicationPad}
        self.pad = nn.Identity() if padding == "zero" else pads[padding](width)
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride=stride, padding=width if padding == "zero" else 0
        )
        self.norm = _norm(norm, out_channels)
        self.activation = _activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, in_channels, h, w]` to `[N, out_channels, h / stride, w / stride]`."""
        result: Tensor = self.activation(self.norm(self.conv(self.pad(x))))
        return result


@dataclass(frozen=True)
class MUNITSettings:
    """Settings of a generator; the defaults are the published ones.

    Attributes:
        width: channels at full size; doubled by each downsampling.
        mlp_width: width of the MLP between the style code and the decoder.
        style_dim: length of the style code.
        num_downsamples: downsamplings of the content encoder.
        blocks: residual blocks of the content encoder, and of the decoder.
        style_downsamples: downsamplings of the style encoder; the width doubles with the first two.
        activation: activation of all layers.
        padding: padding of all convolutions.
    """

    width: int = 64
    mlp_width: int = 256
    style_dim: int = 8
    num_downsamples: int = 2
    blocks: int = 4
    style_downsamples: int = 4
    activation: Activation = "relu"
    padding: Padding = "reflect"

    @property
    def content_channels(self) -> int:
        """Channels of the content code."""
        return self.width * int(2**self.num_downsamples)


class StyleEncoder(nn.Module):
    """Convolutions without normalization, global average pooling, and a 1x1 convolution to the style code."""

    def __init__(self, in_channels: int, settings: MUNITSettings) -> None:
        super().__init__()
        s, width = settings, settings.width
        layers = [ConvBlock(in_channels, width, 7, activation=s.activation, padding=s.padding)]
        for index in range(s.style_downsamples):
            wider = width * 2 if index < _WIDER_STYLE_LAYERS else width
            layers.append(ConvBlock(width, wider, 4, stride=2, activation=s.activation, padding=s.padding))
            width = wider
        self.model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, s.style_dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map an image `[N, in_channels, H, W]` to a style code `[N, style_dim]`."""
        code: Tensor = self.model(x)
        return code.flatten(1)


class ResBlock(nn.Module):
    """Residual block: x + norm(conv(act(norm(conv(x))))), with 3x3 convolutions."""

    def __init__(self, channels: int, settings: MUNITSettings) -> None:
        super().__init__()
        activation, padding = settings.activation, settings.padding
        self.model = nn.Sequential(
            ConvBlock(channels, channels, 3, norm="instance", activation=activation, padding=padding),
            ConvBlock(channels, channels, 3, norm="instance", activation="none", padding=padding),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, channels, h, w]` to the same shape."""
        residual: Tensor = self.model(x)
        return x + residual


class ResBlocks(nn.Module):
    """Sequence of residual blocks."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.model = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, channels, h, w]` to the same shape."""
        result: Tensor = self.model(x)
        return result


class ContentEncoder(nn.Module):
    """Downsamplings and residual blocks, with instance norm."""

    def __init__(self, in_channels: int, settings: MUNITSettings) -> None:
        super().__init__()
        s, width = settings, settings.width
        layers = [ConvBlock(in_channels, width, 7, norm="instance", activation=s.activation, padding=s.padding)]
        for _ in range(s.num_downsamples):
            layers.append(
                ConvBlock(width, 2 * width, 4, stride=2, norm="instance", activation=s.activation, padding=s.padding)
            )
            width *= 2
        self.model = nn.Sequential(*layers, ResBlocks(*(ResBlock(width, s) for _ in range(s.blocks))))

    def forward(self, x: Tensor) -> Tensor:
        """Map an image `[N, in_channels, H, W]` to a content code `[N, content_channels, h, w]`."""
        code: Tensor = self.model(x)
        return code


def adain(x: Tensor, bias: Tensor, weight: Tensor) -> Tensor:
    """Adaptive instance norm (Huang and Belongie, 2017): instance_norm(x) * weight + bias.

    Args:
        x: `[N, C, h, w]`.
        bias: `[N, C]`.
        weight: `[N, C]`.
    """
    return torch.addcmul(bias[..., None, None], F.instance_norm(x, eps=EPS), weight[..., None, None])


class AdaINResBlock(nn.Module):
    """Residual block with adaptive instance norm."""

    def __init__(self, channels: int, settings: MUNITSettings) -> None:
        super().__init__()
        self.model = nn.ModuleList(
            ConvBlock(channels, channels, 3, activation="none", padding=settings.padding) for _ in range(2)
        )
        self.activation = _activation(settings.activation)

    def forward(self, x: Tensor, parameters: Tensor) -> Tensor:
        """Map `[N, channels, h, w]` to the same shape.

        Args:
            x: the feature.
            parameters: `[N, 2, 2, channels]`: per convolution, bias and weight of its norm.
        """
        first, second = self.model
        bias, weight, last_bias, last_weight = parameters.flatten(1, 2).unbind(1)
        h = self.activation(adain(first(x), bias, weight))
        return x + adain(second(h), last_bias, last_weight)


class AdaINResBlocks(nn.Module):
    """Sequence of residual blocks, each with parameters of its own."""

    def __init__(self, channels: int, settings: MUNITSettings) -> None:
        super().__init__()
        self.model = nn.ModuleList(AdaINResBlock(channels, settings) for _ in range(settings.blocks))

    def forward(self, x: Tensor, parameters: Tensor) -> Tensor:
        """Map `[N, channels, h, w]` to the same shape; parameters are `[N, blocks, 2, 2, channels]`."""
        for block, own in zip(self.model, parameters.unbind(1), strict=True):
            x = block(x, own)
        return x


class AdaINDecoder(nn.Module):
    """Residual blocks with adaptive instance norm, upsamplings with layer norm, and an image in [-1, 1]."""

    def __init__(self, out_channels: int, settings: MUNITSettings) -> None:
        super().__init__()
        s, width = settings, settings.content_channels
        layers: list[nn.Module] = [AdaINResBlocks(width, s)]
        for _ in range(s.num_downsamples):
            layers += [
                nn.Upsample(scale_factor=2),
                ConvBlock(width, width // 2, 5, norm="layer", activation=s.activation, padding=s.padding),
            ]
            width //= 2
        last = ConvBlock(width, out_channels, 7, activation="none", padding=s.padding)
        self.model = nn.Sequential(*layers, last)

    def forward(self, content: Tensor, parameters: Tensor) -> Tensor:
        """Map `[N, content_channels, h, w]` to an image `[N, out_channels, H, W]`.

        Args:
            content: the content code.
            parameters: `[N, blocks, 2, 2, content_channels]`: per block and convolution, bias and weight of its norm.
        """
        blocks, *layers = self.model
        x: Tensor = blocks(content, parameters)
        for layer in layers:
            x = layer(x)
        return x.tanh()


class _Linear(nn.Module):
    def __init__(self, inputs: int, outputs: int, activation: Activation) -> None:
        super().__init__()
        self.fc = nn.Linear(inputs, outputs)
        self.activation = _activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.activation(self.fc(x))
        return result


class StyleMLP(nn.Module):
    """MLP of three layers from a style code to the parameters of the decoder's adaptive instance norms."""

    def __init__(self, settings: MUNITSettings) -> None:
        super().__init__()
        s = settings
        self.shape = (s.blocks, 2, 2, s.content_channels)
        self.model = nn.Sequential(
            _Linear(s.style_dim, s.mlp_width, s.activation),
            _Linear(s.mlp_width, s.mlp_width, s.activation),
            _Linear(s.mlp_width, 4 * s.blocks * s.content_channels, "none"),
        )

    def forward(self, style: Tensor) -> Tensor:
        """Map `[N, style_dim]` to `[N, blocks, 2, 2, content_channels]`; see `AdaINDecoder`."""
        return torch.reshape(self.model(style), (-1, *self.shape))


class MUNITGenerator(nn.Module):
    """Generator of one domain: style encoder, content encoder, and a decoder that combines both codes.

    Args:
        style: encoder of the style of images.
        content: encoder of the content of images.
        decoder: decoder of both codes.
        mlp: network from a style code to the parameters of the decoder.
    """

    def __init__(self, style: StyleEncoder, content: ContentEncoder, decoder: AdaINDecoder, mlp: StyleMLP) -> None:
        super().__init__()
        self.enc_style, self.enc_content, self.dec, self.mlp = style, content, decoder, mlp

    @classmethod
    def build(cls, content_channels: int, image_channels: int, settings: MUNITSettings) -> MUNITGenerator:
        """Build a generator with initial weights.

        Args:
            content_channels: channels of images whose content is encoded.
            image_channels: channels of images whose style is encoded, and of the decoder's images.
            settings: widths, depths and layers.
        """
        return cls(
            StyleEncoder(image_channels, settings),
            ContentEncoder(content_channels, settings),
            AdaINDecoder(image_channels, settings),
            StyleMLP(settings),
        )

    @classmethod
    def translator(cls, source: MUNITGenerator, target: MUNITGenerator) -> MUNITGenerator:
        """Return the generator from the domain of `source` to that of `target`, whose modules it shares."""
        return cls(target.enc_style, source.enc_content, target.dec, target.mlp)

    def decode(self, content: Tensor, style: Tensor) -> Tensor:
        """Return the image `[N, image_channels, H, W]` of a content code and a style code `[N, style_dim]`."""
        image: Tensor = self.dec(content, self.mlp(style))
        return image

    def forward(self, x: Tensor, noise: Tensor | None, style: Tensor | None = None) -> Tensor:
        """Translate images.

        Args:
            x: `[N, content_channels, H, W]`, both sides multiples of `2^num_downsamples`.
            noise: style codes `[N, style_dim]`, unless style images are given.
            style: style images `[N, image_channels, h, w]`; None: `noise` is the style.

        Returns:
            `[N, image_channels, H, W]` in [-1, 1].
        """
        code = noise if style is None else self.enc_style(style)
        assert code is not None
        return self.decode(self.enc_content(x), code)


class MUNITDiscriminator(nn.Module):
    """Patch discriminators at several scales, each on the image average-pooled by 2 once more.

    Args:
        in_channels: channels of the image.
        width: channels of the first layer; they double with each layer.
        layers: 4x4 convolutions of stride 2 before the 1x1 convolution that predicts.
        scales: number of discriminators.
        norm: normalization of all layers but the first.
        activation: activation of the layers.
        padding: padding of the convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        width: int = 64,
        layers: int = 4,
        scales: int = 3,
        norm: Norm = "none",
        activation: Activation = "leaky-relu",
        padding: Padding = "reflect",
    ) -> None:
        super().__init__()

        def network() -> nn.Sequential:
            made, before = nn.Sequential(), in_channels
            for layer in range(layers):
                own = norm if layer else "none"
                after = width * 2**layer
                made.append(ConvBlock(before, after, 4, stride=2, norm=own, activation=activation, padding=padding))
                before = after
            return made.append(nn.Conv2d(before, 1, 1))

        self.cnns = nn.ModuleList(network() for _ in range(scales))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map `[N, in_channels, H, W]` to logits `[N, 1, h, w]` per scale, largest first."""
        return [network(image) for network, image in zip(self.cnns, pyramid(x, len(self.cnns)), strict=True)]
