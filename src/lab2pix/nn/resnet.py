"""ResNet generators of CycleGAN (Zhu et al., 2017, after Johnson et al., 2016), Pix2PixHD (2018) and CUT (2020)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from lab2pix.nn.normalization import Norm, norm2d
from lab2pix.nn.resample import BlurDownsample, BlurUpsample


def normed(conv: nn.Module, channels: int, norm: Norm) -> list[nn.Module]:
    """Return a convolution, its normalization and a ReLU."""
    return [conv, norm2d(norm, channels), nn.ReLU()]


def downsampling(channels: int, norm: Norm, *, bias: bool, antialias: bool = False) -> list[nn.Module]:
    """Return a 3x3 convolution of stride 2 to twice as many channels, with norm and ReLU.

    Args:
        channels: channels of the input.
        norm: normalization layer.
        bias: whether the convolution has a bias.
        antialias: halve the size by a blur (CUT), not by the stride.
    """
    conv = nn.Conv2d(channels, 2 * channels, 3, stride=1 if antialias else 2, padding=1, bias=bias)
    return [*normed(conv, 2 * channels, norm), *([BlurDownsample(2 * channels)] if antialias else [])]


def upsampling(channels: int, norm: Norm, *, bias: bool, antialias: bool = False) -> list[nn.Module]:
    """Return a transposed 3x3 convolution of stride 2 to half as many channels, with norm and ReLU.

    Args:
        channels: channels of the input.
        norm: normalization layer.
        bias: whether the convolution has a bias.
        antialias: double the size by a blur (CUT) before a convolution of stride 1.
    """
    half = channels // 2
    if antialias:
        return [BlurUpsample(channels), *normed(nn.Conv2d(channels, half, 3, padding=1, bias=bias), half, norm)]
    conv = nn.ConvTranspose2d(channels, half, 3, stride=2, padding=1, output_padding=1, bias=bias)
    return normed(conv, half, norm)


class ResNetBlock(nn.Module):
    """Residual block: x + norm(conv(ReLU(norm(conv(x))))), 3x3 convolutions with reflection padding.

    Args:
        channels: channels of input and result.
        norm: normalization layers.
        dropout: probability of dropout after the ReLU; None leaves the layer out.
        bias: whether the convolutions have a bias.
    """

    def __init__(
        self, channels: int, *, norm: Norm = "instance", dropout: float | None = None, bias: bool = True
    ) -> None:
        super().__init__()

        def conv() -> list[nn.Module]:
            return [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, bias=bias), norm2d(norm, channels)]

        middle: list[nn.Module] = [nn.ReLU()] if dropout is None else [nn.ReLU(), nn.Dropout(dropout)]
        self.conv_block = nn.Sequential(*conv(), *middle, *conv())

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, channels, h, w]` to the same shape."""
        residual: Tensor = self.conv_block(x)
        return x + residual


class ResNetGenerator(nn.Module):
    """Halve the image a few times, refine it by residual blocks, and double it as often.

    Both sides of the input must be multiples of `2^downsamplings`. CycleGAN's published networks halve it twice and
    have 9 blocks for 256x256 pixels and more, 6 for 128x128; Pix2PixHD's global generator halves it four times and has
    9 blocks; its encoder has none. Parameters have the names of the authors' code.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the image.
        width: channels at full size; each halving doubles them.
        blocks: number of residual blocks.
        downsamplings: number of halvings.
        norm: normalization layers.
        dropout: probability of dropout in the blocks; None leaves the layers out.
        bias: whether the convolutions before a norm have a bias; None: those before instance norm.
        antialias_down: halve the size by a blur (CUT), not by a stride of the convolution.
        antialias_up: double the size by a blur (CUT), not by a transposed convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 3,
        *,
        width: int = 64,
        blocks: int = 9,
        downsamplings: int = 2,
        norm: Norm = "instance",
        dropout: float | None = None,
        bias: bool | None = None,
        antialias_down: bool = False,
        antialias_up: bool = False,
    ) -> None:
        super().__init__()
        bias = norm == "instance" if bias is None else bias
        widths = [width * 2**level for level in range(downsamplings + 1)]
        down = partial(downsampling, norm=norm, bias=bias, antialias=antialias_down)
        up = partial(upsampling, norm=norm, bias=bias, antialias=antialias_up)
        self.model = nn.Sequential(
            nn.ReflectionPad2d(3),
            *normed(nn.Conv2d(in_channels, width, 7, bias=bias), width, norm),
            *(layer for channels in widths[:-1] for layer in down(channels)),
            *(ResNetBlock(widths[-1], norm=norm, dropout=dropout, bias=bias) for _ in range(blocks)),
            *(layer for channels in widths[:0:-1] for layer in up(channels)),
            nn.ReflectionPad2d(3),
            nn.Conv2d(width, out_channels, 7),
            nn.Tanh(),
        )

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Map `[N, in_channels, H, W]` to an image `[N, out_channels, H, W]` in [-1, 1]; noise has no effect."""
        image: Tensor = self.model(x)
        return image

    def features(self, x: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Return the outputs of some layers, without running the layers after the last of them.

        Args:
            x: `[N, in_channels, H, W]`.
            layers: indices in `model`, in rising order.
        """
        found = []
        for index in range(layers[-1] + 1):
            x = self.model[index](x)
            if index in layers:
                found.append(x)
        return found
