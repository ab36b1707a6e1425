"""Encoders of noise, sketch and label map: f_z, f_lsk (3.1.1), the global feature (Eq. 2); SPADE's image encoder."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.nn.blocks import SLOPE, ConvNormAct, conv2d


class NoiseEncoder(nn.Linear):
    """Linear layer from z to a feature map, f_z of 3.1.1.

    Args:
        noise_dim: length of z.
        channels: channels of the map.
        size: height and width of the map.
    """

    def __init__(self, noise_dim: int, channels: int, size: tuple[int, int]) -> None:
        super().__init__(noise_dim, channels * size[0] * size[1])
        self.channels, self.size = channels, size

    def forward(self, noise: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Map `[N, noise_dim]` to `[N, channels, h, w]`, bilinearly resized if `size` is not the map's own."""
        return self.to_map(super().forward(noise), size)

    def to_map(self, flat: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Return the output of the linear layer, `[N, channels * h * w]`, as a map of the wanted size."""
        x = flat.view(-1, self.channels, *self.size)
        if size is not None and size != self.size:
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
        return x


class SketchEncoder(nn.Sequential):
    """Sketch encoder f_lsk: a 5x5 convolution, then five 3x3 ones with stride 2, each with norm and ReLU (Fig. 3).

    Args:
        in_channels: channels of the sketch.
        width: channels of the first convolution; they double five times, to at most 16 times as many.
    """

    def __init__(self, in_channels: int, width: int) -> None:
        widths = [width * min(2**step, 16) for step in range(6)]
        layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 5, padding=2), nn.BatchNorm2d(width), nn.ReLU(True)]
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU(True)]
        super().__init__(*layers)


class GlobalEncoder(nn.Module):
    """Global encoder: one feature of the whole label map, for every scale of the generator (Eq. 2).

    3x3 convolutions with spectral norm and LeakyReLU, the first with stride 1, the others with stride 2, down to the
    generator's first scale. Each scale upsamples their output and has its own 3x3 convolution and ReLU.

    Args:
        label_channels: channels of the one-hot label map.
        num_upsamples: how often the generator doubles its size.
        width: channels of the first convolution; they double with each stride.
        max_width: upper limit of the channels.
        out_channels: channels of the global feature: the modulation's hidden width.
        outputs: how many scales get a feature, smallest first; None: all of them.
        upsample: nearest neighbor before the convolutions of the scales (Eq. 2), or bilinear after them and the ReLU.
    """

    def __init__(
        self,
        label_channels: int,
        *,
        num_upsamples: int,
        width: int = 64,
        max_width: int = 512,
        out_channels: int = 128,
        outputs: int | None = None,
        upsample: Literal["nearest", "bilinear"] = "nearest",
    ) -> None:
        super().__init__()
        self.upsample = upsample
        widths = [min(width * 2**step, max_width) for step in range(num_upsamples + 1)]
        inputs = [label_channels, *widths[:-1]]
        self.down = nn.ModuleList(
            conv2d(before, after, 3, stride=1 if step == 0 else 2)
            for step, (before, after) in enumerate(zip(inputs, widths, strict=True))
        )
        self.scales = nn.ModuleList(
            nn.Conv2d(widths[-1], out_channels, 3, padding=1) for _ in range(outputs or num_upsamples + 1)
        )

    def forward(self, label: Tensor) -> list[Tensor]:
        """Return the global feature of every scale that gets one, smallest first (Eq. 2).

        Args:
            label: `[N, label_channels, H, W]` one-hot; H and W multiples of 2^num_upsamples.

        Returns:
            Feature i is `[N, out_channels, H / 2^(num_upsamples - i), W / 2^(num_upsamples - i)]`.
        """
        x = label
        for conv in self.down:
            x = F.leaky_relu(conv(x), SLOPE)
        if self.upsample == "bilinear":
            return [upsample_bilinear(F.relu(conv(x)), 2**s) for s, conv in enumerate(self.scales)]
        return [F.relu(upsampled_conv(conv, x, 2**s)) for s, conv in enumerate(self.scales)]


class ImageEncoder(nn.Module):
    """Image encoder of SPADE: mean and log variance of the style vector z of an image (Park et al., CVPR 2019).

    Six 3x3 convolutions with stride 2, spectral norm, instance norm and LeakyReLU, then two linear layers. Images of
    other sizes are resized to 256x256.

    Args:
        width: channels of the first convolution; they double with each, to at most 8 times as many.
        noise_dim: length of z.
    """

    SIZE = (256, 256)

    def __init__(self, width: int = 64, noise_dim: int = 256) -> None:
        super().__init__()
        widths = [3, *(width * min(2**step, 8) for step in range(6))]
        self.layers = nn.Sequential(*(ConvNormAct(before, after, 3, stride=2) for before, after in pairwise(widths)))
        features = widths[-1] * (self.SIZE[0] >> 6) * (self.SIZE[1] >> 6)
        self.mean = nn.Linear(features, noise_dim)
        self.log_variance = nn.Linear(features, noise_dim)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance, `[N, noise_dim]` each, of images `[N, 3, H, W]` in [-1, 1]."""
        if tuple(image.shape[-2:]) != self.SIZE:
            image = F.interpolate(image, size=self.SIZE, mode="bilinear", align_corners=False)
        features = self.layers(image).flatten(1)
        return self.mean(features), self.log_variance(features)

    def sample(self, image: Tensor, noise: Tensor | None) -> Tensor:
        """Return z, `[N, noise_dim]`, of style images; see `reparameterize`."""
        mean, log_variance = self(image)
        return reparameterize(mean, log_variance, noise)


def reparameterize(mean: Tensor, log_variance: Tensor, noise: Tensor | None) -> Tensor:
    """Return a sample of N(mean, exp(log_variance)), given one of N(0, 1); the mean if there is no noise."""
    return mean if noise is None else mean + torch.exp(0.5 * log_variance) * noise


def upsample_bilinear(x: Tensor, factor: int) -> Tensor:
    """Return `[N, C, h, w]` upsampled `factor` times by bilinear interpolation."""
    return F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)


def upsampled_conv(conv: nn.Module, x: Tensor, factor: int) -> Tensor:
    """Return `conv(upsample(x))` for nearest-neighbor upsampling and a 3x3 convolution, without computing repetitions.

    The upsampled map is constant on blocks of `factor` x `factor` pixels, so the outputs of a block differ only in its
    first, inner and last rows and columns. Upsampling by 3 has one of each.
    `lab2pix.nn.fast.upsample_conv.upsample_conv3x3_relu` is the accelerated form.
    """
    y: Tensor = conv(F.interpolate(x, scale_factor=float(min(factor, 3))))
    if factor <= 3:
        return y
    pixel = torch.tensor([0, *[1] * (factor - 2), 2], device=x.device)
    y = torch.unflatten(y, 2, (-1, 3)).index_select(3, pixel).flatten(2, 3)
    return torch.unflatten(y, 3, (-1, 3)).index_select(4, pixel).flatten(3, 4)
