"""Networks of USIS in the wavelet domain: a generator that draws Haar coefficients, and an unconditional discriminator.

Haar coefficients of `[N, C, H, W]` are `[N, 4C, H / 2, W / 2]`: the average of each 2x2 square (times 2), top minus
bottom, left minus right, and diagonal minus diagonal, each group with all channels of the input.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.nn.blocks import SLOPE, conv2d
from lab2pix.nn.normalization import SPADE, resize_nearest
from lab2pix.nn.oasis import block_widths, with_noise
from lab2pix.nn.resample import binomial


def haar(x: Tensor) -> Tensor:
    """Return the Haar coefficients of `[N, C, H, W]`, `[N, 4C, H / 2, W / 2]`."""
    top, bottom = x[..., ::2, :], x[..., 1::2, :]
    high, low = top - bottom, top + bottom
    parts = [(low, 1), (high, 1), (low, -1), (high, -1)]
    return torch.cat([(part[..., ::2] + sign * part[..., 1::2]) / 2 for part, sign in parts], 1)


def inverse_haar(x: Tensor) -> Tensor:
    """Return the `[N, C, 2h, 2w]` whose Haar coefficients are `[N, 4C, h, w]`."""
    average, vertical, horizontal, diagonal = x.chunk(4, 1)
    top = torch.stack([average + vertical + (horizontal + diagonal), average + vertical - (horizontal + diagonal)], -1)
    bottom = torch.stack(
        [average - vertical + (horizontal - diagonal), average - vertical - (horizontal - diagonal)], -1
    )
    rows = torch.stack([top, bottom], -3) / 2
    return rows.flatten(-2).flatten(-3, -2)


# --- generator --------------------------------------------------------------------------------------------------------


class WaveletSPADE(nn.Module):
    """SPADE on the image that Haar coefficients stand for.

    Args:
        channels: channels of the coefficients, a multiple of 4.
        label_channels: channels of noise and label map.
        hidden: channels between these and scale and shift.
    """

    def __init__(self, channels: int, label_channels: int, *, hidden: int = 128) -> None:
        super().__init__()
        self.spade = SPADE(channels // 4, label_channels, hidden=hidden)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Normalize `[N, channels, h, w]` with `[N, label_channels, 2h, 2w]`."""
        return haar(self.spade(inverse_haar(x), label))


class WaveletResBlk(nn.Module):
    """Residual block on Haar coefficients that returns shortcut and main path apart.

    The shortcut is a 1x1 convolution without a norm where widths differ.

    Args:
        in_channels: channels of the input.
        out_channels: channels of both results.
        label_channels: channels of noise and label map.
        hidden: hidden width of the modulation.
    """

    def __init__(self, in_channels: int, out_channels: int, label_channels: int, *, hidden: int = 128) -> None:
        super().__init__()
        middle = min(in_channels, out_channels)
        self.norm_0 = WaveletSPADE(in_channels, label_channels, hidden=hidden)
        self.conv_0 = conv2d(in_channels, middle, 3)
        self.norm_1 = WaveletSPADE(middle, label_channels, hidden=hidden)
        self.conv_1 = conv2d(middle, out_channels, 3)
        self.conv_s = conv2d(in_channels, out_channels, 1, bias=False) if in_channels != out_channels else None

    def forward(self, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Map `[N, in_channels, h, w]` and `[N, label_channels, 2h, 2w]` to two `[N, out_channels, h, w]`."""
        h = self.conv_0(F.leaky_relu(self.norm_0(x, label), SLOPE))
        h = self.conv_1(F.leaky_relu(self.norm_1(h, label), SLOPE))
        return x if self.conv_s is None else self.conv_s(x), h


class WaveletGenerator(nn.Module):
    """Wavelet generator of USIS (Eskandar et al., 2022): OASIS's generator on Haar coefficients.

    Args:
        label_channels: channels of the condition.
        width: a quarter of the channels of the last block.
        num_upsamples: how often the size of the coefficients doubles; there is one block more.
        modulation_hidden: channels between the label map and scale and shift.
        noise_dim: length of the noise vector; 0: the image depends on the label map alone.

    Attributes:
        stride: height and width of an image are multiples of it.
    """

    def __init__(
        self,
        label_channels: int,
        *,
        width: int = 16,
        num_upsamples: int = 5,
        modulation_hidden: int = 128,
        noise_dim: int = 64,
    ) -> None:
        super().__init__()
        channels, widths = label_channels + noise_dim, block_widths(4 * width, num_upsamples)
        self.noise_dim, self.stride = noise_dim, 2 ** (num_upsamples + 1)
        self.fc = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(
            WaveletResBlk(before, after, channels, hidden=modulation_hidden) for before, after in pairwise(widths)
        )
        self.to_coefficients = nn.Conv2d(widths[-1], 12, 1)

    def forward(self, condition: Tensor, noise: Tensor | None = None) -> Tensor:
        """Generate images `[N, 3, H, W]` in [-1, 1].

        Args:
            condition: `[N, label_channels, H, W]`; sides are multiples of `stride`.
            noise: `[N, noise_dim]`; None only if `noise_dim` is 0.
        """
        guide = with_noise(condition, noise, self.noise_dim)
        x = self.fc(resize_nearest(guide, (guide.shape[-2] // self.stride, guide.shape[-1] // self.stride)))
        shortcut = torch.zeros_like(x)
        for index, block in enumerate(self.blocks):
            if index:
                doubled = F.interpolate(inverse_haar(shortcut), scale_factor=2.0, mode="bilinear", align_corners=False)
                x = F.interpolate(x, scale_factor=2.0, mode="nearest") + haar(doubled)
            shortcut, x = block(x, resize_nearest(guide, (2 * x.shape[-2], 2 * x.shape[-1])))
        return torch.tanh(inverse_haar(self.to_coefficients(x + shortcut)))


# --- discriminator ----------------------------------------------------------------------------------------------------


class EqualizedConv2d(nn.Conv2d):
    """Convolution without bias whose weight, N(0, 1), is divided by the square root of its fan-in (StyleGAN)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, padding: int = 0) -> None:
        super().__init__(in_channels, out_channels, kernel, stride=stride, padding=padding, bias=False)
        self.gain = 1 / math.sqrt(in_channels * kernel**2)
        nn.init.normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, in_channels, H, W]` to `[N, out_channels, h, w]`."""
        result: Tensor = self._conv_forward(x, self.weight * self.gain, None)
        return result


class EqualizedLinear(nn.Linear):
    """Linear layer whose weight, N(0, 1), is divided by the square root of its fan-in (StyleGAN)."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.gain = 1 / math.sqrt(in_features)
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, in_features]` to `[N, out_features]`."""
        return F.linear(x, self.weight * self.gain, self.bias)


def _activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE) * math.sqrt(2)


class BiasedActivation(nn.Module):
    """A bias per channel, LeakyReLU, and a gain of the square root of 2 (StyleGAN2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, channels, H, W]` to the same shape."""
        return _activate(x + self.bias)


def _blur(x: Tensor, padding: int, stride: int = 1) -> Tensor:
    """Blur `[N, C, H, W]` by [1, 3, 3, 1] in both directions, with zeros around."""
    kernel = binomial((1, 3, 3, 1), 1, x.shape[1]).to(x)
    return F.conv2d(x, kernel, stride=stride, padding=padding, groups=x.shape[1])


class _DownBlock(nn.Module):
    """Two convolutions, the second of which halves the size after a blur."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = EqualizedConv2d(in_channels, in_channels, 3, padding=1)
        self.act1 = BiasedActivation(in_channels)
        self.conv2 = EqualizedConv2d(in_channels, out_channels, 3, stride=2)
        self.act2 = BiasedActivation(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, in_channels, h, w]` to `[N, out_channels, h / 2, w / 2]`."""
        h = self.act1(self.conv1(x))
        result: Tensor = self.act2(self.conv2(_blur(h, 2)))
        return result


class WaveletDiscriminator(nn.Module):
    """Unconditional discriminator of USIS: StyleGAN2's pieces on Haar coefficients, with the image at every size.

    It can be differentiated twice, for R1.

    Args:
        size: height and width of the images.
        width: channels of the last blocks; the first have fewer above 64 pixels.
        depth: how often the size of the coefficients halves; 5 for 256x256.

    Attributes:
        stride: height and width of an image are multiples of it.
    """

    def __init__(self, size: tuple[int, int], *, width: int = 512, depth: int = 5) -> None:
        super().__init__()
        self.stride = 2 ** (depth + 1)
        # The first block's output has the width of a quarter of its size, as in the authors' code.
        halvings = [depth - 3, *range(depth - 5, -5, -1)]
        widths = [max(1, width // 2 ** max(0, halving)) for halving in halvings]
        self.inputs = nn.ModuleList(EqualizedConv2d(12, channels, 1) for channels in widths)
        self.input_acts = nn.ModuleList(BiasedActivation(channels) for channels in widths)
        self.blocks = nn.ModuleList(_DownBlock(before, after) for before, after in pairwise(widths))
        self.last_conv = EqualizedConv2d(widths[-1] + 1, width, 3, padding=1)
        self.last_act = BiasedActivation(width)
        pixels = (size[0] // self.stride) * (size[1] // self.stride)
        self.hidden = EqualizedLinear(width * pixels, width)
        self.head = EqualizedLinear(width, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Map images `[N, 3, H, W]` of the given size to logits `[N, 1]`, high where the image looks real."""
        coefficients = haar(image)
        x = self.input_acts[0](self.inputs[0](coefficients))
        for index, block in enumerate(self.blocks, start=1):
            coefficients = haar(_blur(inverse_haar(coefficients), 1, 2))
            x = block(x) + self.input_acts[index](self.inputs[index](coefficients))
        x = self.last_act(self.last_conv(torch.cat([x, _batch_deviation(x)], 1)))
        logits: Tensor = self.head(_activate(self.hidden(x.flatten(1))))
        return logits


def _batch_deviation(x: Tensor) -> Tensor:
    """Return the mean standard deviation over groups of up to four images as a map, `[N, 1, h, w]`."""
    count = len(x)
    group = max(size for size in range(1, 5) if count % size == 0)
    grouped = x.float().view(group, count // group, *x.shape[1:])
    deviation = (grouped.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3), keepdim=True)
    return deviation.repeat(group, 1, *x.shape[2:]).to(x.dtype)
