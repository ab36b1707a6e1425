"""Local enhancer generator of Pix2PixHD (Wang et al., CVPR 2018, 3.1): refines a global generator at larger sizes."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from lab2pix.nn.discriminators import downsample
from lab2pix.nn.normalization import Norm
from lab2pix.nn.resnet import ResNetBlock, ResNetGenerator, downsampling, normed, upsampling


class LocalEnhancer(nn.Module):
    """Global generator without its last layer at the smallest size, and one enhancer at each larger size.

    Enhancer l halves its input, adds the features of the size below, refines the sum by residual blocks and doubles
    it. Both sides of the input must be multiples of `2^(downsamplings + enhancers)`. Parameters have the names of the
    authors' code; those of enhancer l begin with `model{l}_`.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the image.
        width: channels at full size; the global generator begins with `width * 2^enhancers`.
        blocks: residual blocks of the global generator.
        downsamplings: halvings of the global generator.
        enhancers: number of enhancers.
        enhancer_blocks: residual blocks of each enhancer.
        norm: normalization layers.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 3,
        *,
        width: int = 32,
        blocks: int = 9,
        downsamplings: int = 4,
        enhancers: int = 1,
        enhancer_blocks: int = 3,
        norm: Norm = "instance",
    ) -> None:
        super().__init__()
        self.enhancers = enhancers
        smallest = ResNetGenerator(
            in_channels,
            width=width * 2**enhancers,
            blocks=blocks,
            downsamplings=downsamplings,
            norm=norm,
            bias=True,
        )
        self.model = smallest.model[:-3]
        for level in range(1, enhancers + 1):
            channels = width * 2 ** (enhancers - level)
            last = [nn.ReflectionPad2d(3), nn.Conv2d(width, out_channels, 7), nn.Tanh()] if level == enhancers else []
            first = nn.Sequential(
                nn.ReflectionPad2d(3),
                *normed(nn.Conv2d(in_channels, channels, 7), channels, norm),
                *downsampling(channels, norm, bias=True),
            )
            second = nn.Sequential(
                *(ResNetBlock(2 * channels, norm=norm) for _ in range(enhancer_blocks)),
                *upsampling(2 * channels, norm, bias=True),
                *last,
            )
            self.add_module(f"model{level}_1", first)
            self.add_module(f"model{level}_2", second)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Map `[N, in_channels, H, W]` to an image `[N, out_channels, H, W]` in [-1, 1]; noise has no effect."""
        inputs = [x]
        for _ in range(self.enhancers):
            inputs.append(downsample(inputs[-1]))
        result: Tensor = self.model(inputs[-1])
        for level in range(1, self.enhancers + 1):
            first, second = (self.get_submodule(f"model{level}_{part}") for part in (1, 2))
            result = second(cast(Tensor, first(inputs[self.enhancers - level])) + result)
        return result
