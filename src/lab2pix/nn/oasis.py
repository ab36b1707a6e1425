"""Networks of OASIS: a generator with SPADE blocks from label map and noise, and a U-Net that segments its images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.errors import ConfigError
from lab2pix.nn.blocks import SLOPE, GenResBlk, conv2d
from lab2pix.nn.normalization import resize_nearest


def block_widths(width: int, num_upsamples: int) -> list[int]:
    """Return the channels between the blocks of a generator: 16, 16, 16, 8, 4, 2, 1 times `width` with 5 upsamplings.

    Fewer upsamplings leave out the first ones, more of them repeat the first.
    """
    return [width * min(16, 2**step) for step in range(num_upsamples + 1, -1, -1)]


def with_noise(condition: Tensor, noise: Tensor | None, noise_dim: int) -> Tensor:
    """Return 3D noise and condition as one map: the noise vector at every pixel, then the channels of the condition.

    Args:
        condition: `[N, C, H, W]`.
        noise: `[N, noise_dim]`.
        noise_dim: length of the noise vector; 0: the result is the condition.

    Raises:
        ConfigError: there is no noise.
    """
    if not noise_dim:
        return condition
    if noise is None:
        raise ConfigError(f"this generator varies its images by noise; pass a tensor of [N, {noise_dim}]")
    everywhere = noise[:, :, None, None].to(condition.dtype).expand(-1, -1, *condition.shape[2:])
    return torch.cat([everywhere, condition], 1)


class OASISGenerator(nn.Module):
    """Generator of OASIS (Schönfeld et al., 2021): SPADE's blocks, guided by label map and 3D noise.

    Args:
        label_channels: channels of the condition.
        width: channels of the last block; the first has up to 16 times as many.
        num_upsamples: how often the size doubles; there is one block more.
        modulation_hidden: channels between the label map and scale and shift.
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
        modulation_hidden: int = 128,
        noise_dim: int = 64,
    ) -> None:
        super().__init__()
        channels, widths = label_channels + noise_dim, block_widths(width, num_upsamples)
        self.noise_dim, self.stride = noise_dim, 2**num_upsamples
        self.fc = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(
            GenResBlk(before, after, channels, hidden=modulation_hidden, modulation="spade")
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
        size = (guide.shape[-2] // self.stride, guide.shape[-1] // self.stride)
        x = self.fc(resize_nearest(guide, size))
        for index, block in enumerate(self.blocks):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest") if index else x
            x = block(x, resize_nearest(guide, (x.shape[-2], x.shape[-1])))
        return torch.tanh(self.to_image(F.leaky_relu(x, SLOPE)))


class UNetResBlk(nn.Module):
    """Residual block of the U-Net: two 3x3 convolutions, halving or doubling the size, and a 1x1 shortcut.

    The shortcut has a convolution only where widths differ. All convolutions have spectral norm.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result.
        resample: average pooling after the convolutions, or nearest-neighbor upsampling before them.
        first: leave out the activation of the input, an image.
    """

    def __init__(
        self, in_channels: int, out_channels: int, resample: Literal["down", "up"], *, first: bool = False
    ) -> None:
        super().__init__()
        self.resample, self.first = resample, first
        self.conv1 = conv2d(in_channels, out_channels, 3)
        self.conv2 = conv2d(out_channels, out_channels, 3)
        self.conv_s = conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, in_channels, h, w]` to `[N, out_channels, h / 2, w / 2]` or `[N, out_channels, 2h, 2w]`."""
        # A 1x1 convolution commutes with pooling and upsampling, and is cheaper at the smaller size.
        shortcut = F.avg_pool2d(x, 2) if self.resample == "down" else x
        shortcut = shortcut if self.conv_s is None else self.conv_s(shortcut)
        h = x if self.first else F.leaky_relu(x, SLOPE)
        h = F.interpolate(h, scale_factor=2.0) if self.resample == "up" else h
        h = self.conv2(F.leaky_relu(self.conv1(h), SLOPE))
        result: Tensor = (
            F.avg_pool2d(h, 2) + shortcut if self.resample == "down" else h + F.interpolate(shortcut, scale_factor=2.0)
        )
        return result


class OASISDiscriminator(nn.Module):
    """Segmentation-based discriminator of OASIS: a U-Net with a logit per pixel for "fake" and for each class.

    Args:
        classes: number of classes K.
        widths: channels after each halving of the size.
        last_width: channels before the logits.

    Attributes:
        stride: height and width of an image are multiples of it.
    """

    def __init__(
        self,
        classes: int,
        *,
        widths: Sequence[int] = (128, 128, 256, 256, 512, 512),
        last_width: int = 64,
    ) -> None:
        super().__init__()
        self.stride = 2 ** len(widths)
        self.down = nn.ModuleList(
            UNetResBlk(before, after, "down", first=index == 0)
            for index, (before, after) in enumerate(pairwise((3, *widths)))
        )
        rising = [*widths[::-1], last_width]
        self.up = nn.ModuleList(
            UNetResBlk(before * (1 if index == 0 else 2), after, "up")
            for index, (before, after) in enumerate(pairwise(rising))
        )
        self.head = nn.Conv2d(last_width, classes + 1, 1)

    def features(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the outputs of the halving and of the doubling blocks, in order."""
        falling, rising = [image], []
        for block in self.down:
            falling.append(block(falling[-1]))
        x = falling[-1]
        for index, block in enumerate(self.up):
            x = block(torch.cat([falling[-1 - index], x], 1) if index else x)
            rising.append(x)
        return falling[1:], rising

    def forward(self, image: Tensor) -> Tensor:
        """Map images `[N, 3, H, W]` to logits `[N, K + 1, H, W]`: channel 0 is "fake", channel k + 1 class k."""
        logits: Tensor = self.head(self.features(image)[1][-1])
        return logits
