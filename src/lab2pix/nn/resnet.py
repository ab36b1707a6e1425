"""ResNet generator of CycleGAN (Zhu et al., 2017, after Johnson et al., 2016), and of CUT (Park et al., 2020)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lab2pix.nn.normalization import Norm, norm2d
from lab2pix.nn.resample import BlurDownsample, BlurUpsample

__all__ = ["ResNetBlock", "ResNetGenerator"]


class ResNetBlock(nn.Module):
    """Residual block: x + norm(conv(ReLU(norm(conv(x))))), 3x3 convolutions with reflection padding.

    Args:
        channels: width of input and result.
        norm: normalization layers.
        dropout: probability of dropout after the ReLU; None leaves the layer out.
    """

    def __init__(self, channels: int, *, norm: Norm = "instance", dropout: float | None = None) -> None:
        super().__init__()

        def conv() -> list[nn.Module]:
            layer = nn.Conv2d(channels, channels, 3, bias=norm == "instance")
            return [nn.ReflectionPad2d(1), layer, norm2d(norm, channels)]

        middle: list[nn.Module] = [nn.ReLU()] if dropout is None else [nn.ReLU(), nn.Dropout(dropout)]
        self.conv_block = nn.Sequential(*conv(), *middle, *conv())

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, channels, h, w]` to the same shape."""
        residual: Tensor = self.conv_block(x)
        return x + residual


class ResNetGenerator(nn.Module):
    """Halve the image twice, refine it by residual blocks, double it twice.

    Both sides of the input must be multiples of 4. The published networks have 9 blocks for 256x256 pixels and more,
    6 for 128x128. Parameters have the names of the authors' code.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the image.
        width: channels at full size; the blocks have 4 times as many.
        blocks: number of residual blocks.
        norm: normalization layers.
        dropout: probability of dropout in the blocks; None leaves the layers out.
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
        norm: Norm = "instance",
        dropout: float | None = None,
        antialias_down: bool = False,
        antialias_up: bool = False,
    ) -> None:
        super().__init__()
        bias = norm == "instance"

        def normed(conv: nn.Module, channels: int) -> list[nn.Module]:
            return [conv, norm2d(norm, channels), nn.ReLU()]

        def down(channels: int) -> list[nn.Module]:
            stride = 1 if antialias_down else 2
            conv = nn.Conv2d(channels // 2, channels, 3, stride=stride, padding=1, bias=bias)
            return [*normed(conv, channels), *([BlurDownsample(channels)] if antialias_down else [])]

        def up(channels: int) -> list[nn.Module]:
            if antialias_up:
                conv = nn.Conv2d(2 * channels, channels, 3, padding=1, bias=bias)
                return [BlurUpsample(2 * channels), *normed(conv, channels)]
            return normed(
                nn.ConvTranspose2d(2 * channels, channels, 3, stride=2, padding=1, output_padding=1, bias=bias),
                channels,
            )

        self.model = nn.Sequential(
            nn.ReflectionPad2d(3),
            *normed(nn.Conv2d(in_channels, width, 7, bias=bias), width),
            *down(2 * width),
            *down(4 * width),
            *(ResNetBlock(4 * width, norm=norm, dropout=dropout) for _ in range(blocks)),
            *up(2 * width),
            *up(width),
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
