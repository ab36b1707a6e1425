"""Generators of Lab2Pix-V1 and Lab2Pix-V2.

SPADE's generator is `Lab2PixV2Generator` with `modulation="spade"`; CC-FPSE's, in `lab2pix.nn.cc_fpse`, is a subclass.
Scales count from the first, smallest one: scale i has 2^i times its size. The scales of discriminators count from the
largest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.errors import ConfigError
from lab2pix.nn.attention import LSCA
from lab2pix.nn.blocks import SLOPE, GenResBlk
from lab2pix.nn.encoders import GlobalEncoder, ImageEncoder, NoiseEncoder, SketchEncoder, upsample_bilinear
from lab2pix.nn.gradient_checkpointing import checkpointed
from lab2pix.nn.normalization import resize_nearest

__all__ = ["GeneratorBase", "GeneratorSettings", "Lab2PixV1Generator", "Lab2PixV2Generator"]

_MULTIPLES = (16, 8, 4, 2, 1)
"""Width of the features between the last blocks, in multiples of `width`."""


@dataclass(frozen=True)
class GeneratorSettings:
    """Settings that both generators share.

    Attributes:
        width: channels at the full size; the first scale has 16 times as many.
        num_upsamples: 5 for 256x256 from 8x8, 6 for 256x512 from 4x8, 7 for 512x1024 from 4x8.
        start_size: height and width of the first scale; at other sizes the encoded noise is resized.
        modulation: DG-Norm with its global encoder, or SPADE without.
        modulation_hidden: channels between the label map and scale and shift.
        global_width: channels of the global encoder's first convolution.
        global_max_width: upper limit of its channels.
        global_upsample: upsampling of its features.
        input: input of the first scale: noise (Eq. 17, 21), or the label map alone (as in the official code).
        noise_dim: length of z.
        spectral_norm: whether the blocks' convolutions have spectral norm.
        image_encoder: channels of the image encoder's first convolution (V2, SPADE); 0: no image encoder.
        upsample: upsampling between the blocks (V2).
    """

    width: int = 64
    num_upsamples: int = 5
    start_size: tuple[int, int] = (8, 8)
    modulation: Literal["dg-norm", "spade"] = "dg-norm"
    modulation_hidden: int = 128
    global_width: int = 64
    global_max_width: int = 512
    global_upsample: Literal["nearest", "bilinear"] = "nearest"
    input: Literal["noise", "label"] = "noise"
    noise_dim: int = 128
    spectral_norm: bool = True
    image_encoder: int = 0
    upsample: Literal["nearest", "bilinear"] = "nearest"

    def __post_init__(self) -> None:
        """Raise ConfigError for an impossible number of upsamplings or size."""
        if self.num_upsamples not in (5, 6, 7):
            raise ConfigError(
                f"a generator doubles its size 5, 6 or 7 times, not {self.num_upsamples}; set num_upsamples to one of "
                "these"
            )
        if min(self.start_size) < 1:
            raise ConfigError(
                f"the size is smaller than {2**self.num_upsamples}, the result of {self.num_upsamples} upsamplings of "
                "one pixel; choose a larger size or fewer upsamplings"
            )
        if self.image_encoder and self.input == "label":
            raise ConfigError("an image encoder replaces the noise, which the label map as input leaves out")


class GeneratorBase(nn.Module):
    """Base of both generators: image sizes, the parts that both have, and gradient checkpointing.

    Args:
        label_channels: channels of the condition: one-hot classes, unknown, instance borders; 1 for sketches.
        settings: settings of both generators.

    Attributes:
        stride: height and width of an image are multiples of it.
        grad_checkpointing: whether the backward pass recomputes the activations of the blocks.
    """

    def __init__(self, label_channels: int, settings: GeneratorSettings) -> None:
        super().__init__()
        self.label_channels, self.settings = label_channels, settings
        self.num_upsamples, self.stride = settings.num_upsamples, 2**settings.num_upsamples
        self.image_encoder: ImageEncoder | None = None
        self.grad_checkpointing = False

    def _global_encoder(self, outputs: int | None = None) -> GlobalEncoder | None:
        settings = self.settings
        if settings.modulation == "spade":
            return None
        return GlobalEncoder(
            self.label_channels,
            num_upsamples=settings.num_upsamples,
            width=settings.global_width,
            max_width=settings.global_max_width,
            upsample=settings.global_upsample,
            out_channels=settings.modulation_hidden,
            outputs=outputs,
        )

    def _blocks(self, widths: Iterable[tuple[int, int]]) -> nn.ModuleList:
        settings = self.settings
        return nn.ModuleList(
            GenResBlk(
                before,
                after,
                self.label_channels,
                hidden=settings.modulation_hidden,
                modulation=settings.modulation,
                spectral_norm=settings.spectral_norm,
            )
            for before, after in widths
        )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the activations of the blocks in the backward pass instead of keeping them, or keep them again."""
        self.grad_checkpointing = enable

    def check_size(self, height: int, width: int) -> None:
        """Raise ConfigError, naming the nearest valid size, if a size is not a multiple of the stride."""
        if height % self.stride == 0 and width % self.stride == 0:
            return
        near = [max(1, round(side / self.stride)) * self.stride for side in (height, width)]
        raise ConfigError(
            f"the size {height}x{width} (height x width) is not a multiple of {self.stride}, which this generator "
            f"needs; choose another size, the nearest is {near[0]}x{near[1]}"
        )

    def scale_sizes(self, condition: Tensor) -> list[tuple[int, int]]:
        """Return height and width of every scale, smallest first.

        Raises:
            ConfigError: the size of the condition is not a multiple of the stride.
        """
        height, width = condition.shape[-2:]
        self.check_size(height, width)
        return [(height // 2**step, width // 2**step) for step in range(self.num_upsamples, -1, -1)]

    def match_noise(self, condition: Tensor, noise: Tensor | None) -> Tensor:
        """Return a condition per noise: k noises per label map repeat the batch k times."""
        if noise is None or noise.shape[0] == condition.shape[0]:
            return condition
        return condition.repeat(noise.shape[0] // condition.shape[0], 1, 1, 1)

    def encode_noise(self, encoder: NoiseEncoder, noise: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Return f_z at the first scale's size (3.1.1).

        Raises:
            ConfigError: there is no noise.
        """
        if noise is None:
            raise ConfigError(f"this generator starts from noise; pass a tensor of [N, {self.settings.noise_dim}]")
        x: Tensor = encoder(noise, size)
        return x

    def encode_style(self, style: Tensor, noise: Tensor | None) -> Tensor:
        """Return z of style images; see `ImageEncoder.sample`.

        Raises:
            ConfigError: there is no image encoder.
        """
        if self.image_encoder is None:
            raise ConfigError("this generator has no image encoder; leave the style image out")
        return self.image_encoder.sample(style, noise)

    def run_block(self, block: nn.Module, x: Tensor, label: Tensor, feature: Tensor | None) -> Tensor:
        """Run a block, with gradient checkpointing if it is on."""
        if self.grad_checkpointing and self.training:
            return checkpointed(block, x, label, feature)
        result: Tensor = block(x, label, feature)
        return result


class Lab2PixV2Generator(GeneratorBase):
    """Generator of Lab2Pix-V2 (4.2.1, Eq. 21) and, with `modulation="spade"`, of SPADE; base of `CCFPSEGenerator`.

    One block at the first scale, two at the second (with more than five upsamplings: one each at the second and third),
    then blocks to 8, 4, 2, 1 times `width` (and half of it with seven upsamplings), each after nearest-neighbor
    upsampling by 2; LeakyReLU, 3x3 convolution, tanh.

    Args:
        label_channels: channels of the condition: one-hot classes, unknown, instance borders.
        settings: widths, sizes, modulation and input.
    """

    def __init__(self, label_channels: int, settings: GeneratorSettings | None = None) -> None:
        settings = settings or GeneratorSettings()
        super().__init__(label_channels, settings)
        width, upsamples = settings.width, settings.num_upsamples
        # Named as in the authors' code, where it is fully connected for noise alone.
        self.fc: NoiseEncoder | nn.Conv2d
        if settings.input == "noise":
            self.fc = NoiseEncoder(settings.noise_dim, 16 * width, settings.start_size)
        else:
            self.fc = nn.Conv2d(label_channels, 16 * width, 3, padding=1)
        if settings.image_encoder:
            self.image_encoder = ImageEncoder(settings.image_encoder, settings.noise_dim)
        self.global_encoder = self._global_encoder()
        widths = [multiple * width for multiple in _MULTIPLES] + ([width // 2] if upsamples == 7 else [])
        self.blocks = self._blocks([(widths[0], widths[0])] * 3 + list(pairwise(widths)))
        # The scale that each block runs at; with five upsamplings, the second and third block share scale 1.
        self.block_scales = (0, 1, *range(1 if upsamples == 5 else 2, upsamples + 1))
        self.to_image = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def start(self, label: Tensor, noise: Tensor | None) -> Tensor:
        """Return `[N, 16 * width, h0, w0]`: f_z of 3.1.1, or the encoded small label map of the official V2."""
        if isinstance(self.fc, NoiseEncoder):
            return self.encode_noise(self.fc, noise, (label.shape[-2], label.shape[-1]))
        x: Tensor = self.fc(label)
        return x

    def upsample2x(self, x: Tensor) -> Tensor:
        """Double height and width of a feature `[N, C, h, w]`, as the settings have it."""
        if self.settings.upsample == "bilinear":
            return upsample_bilinear(x, 2)
        return F.interpolate(x, scale_factor=2.0, mode="nearest")

    def scale_features(self, condition: Tensor, scales: int) -> Sequence[Tensor | None]:
        """Return what guides the blocks at every scale in addition to the label map, smallest first."""
        if self.global_encoder is None:
            return [None] * scales
        features: list[Tensor] = self.global_encoder(condition)
        return features

    def forward(self, condition: Tensor, noise: Tensor | None = None, style: Tensor | None = None) -> Tensor:
        """Generate images.

        Args:
            condition: `[N, label_channels, H, W]`, H and W multiples of 2^num_upsamples.
            noise: `[N, noise_dim]`, z ~ N(0, I), or `[k * N, noise_dim]`: k per label map, the first of every label map
                before the second; None only if the input is the label map, or for the mean of a style image.
            style: style images `[N, 3, H, W]` in [-1, 1], which the image encoder turns into z, varied by the noise.

        Returns:
            `[N, 3, H, W]`, or `[k * N, 3, H, W]`, in [-1, 1].

        Raises:
            ConfigError: a size that is not a multiple, or no noise if noise is the input.
        """
        if style is not None:
            noise = self.encode_style(style, noise)
        sizes, condition = self.scale_sizes(condition), self.match_noise(condition, noise)
        labels = [resize_nearest(condition, size) for size in sizes]
        features = self.scale_features(condition, len(sizes))
        x, last = self.start(labels[0], noise), 0
        for block, scale in zip(self.blocks, self.block_scales, strict=True):
            x = x if scale == last else self.upsample2x(x)
            x, last = self.run_block(block, x, labels[scale], features[scale]), scale
        return torch.tanh(self.to_image(F.leaky_relu(x, SLOPE)))


class Lab2PixV1Generator(GeneratorBase):
    """Generator of Lab2Pix-V1 (3.1, 4.1.1, Eq. 17): label encoder, blocks, co-attention, up to three images.

    Semantic: f_z and two blocks of 16 times `width`, the label encoder; with seven upsamplings each is followed by one,
    with six only the second. Sketch: f_z concatenated with f_lsk, five upsamplings. Then blocks to 16, 8, 4, 2, 1 times
    `width`, each followed by nearest-neighbor upsampling by 2. Each of the last three scales has a co-attention with
    the scale before, and an image head (3x3 convolution, tanh).

    Args:
        label_channels: channels of the condition: one-hot classes, or 1 for sketches.
        settings: widths, sizes, modulation; `input="label"`, for sketches only: no noise (official code).
        encoder: the label encoder (3.1.1).
        progressive: generate X1, X2 and X3; false: X3 alone (step A of the ablation, 5.4).
        coattention: fuse scales by LSCA; false: not (steps A and B).
    """

    def __init__(
        self,
        label_channels: int,
        settings: GeneratorSettings | None = None,
        *,
        encoder: Literal["semantic", "sketch"] = "semantic",
        progressive: bool = True,
        coattention: bool = True,
    ) -> None:
        settings = settings or GeneratorSettings(num_upsamples=7, start_size=(2, 4))
        super().__init__(label_channels, settings)
        width, upsamples = settings.width, settings.num_upsamples
        if encoder == "sketch" and upsamples != 5:
            raise ConfigError(f"the sketch encoder halves five times, so num_upsamples must be 5, not {upsamples}")
        if encoder == "semantic" and settings.input == "label":
            raise ConfigError("the semantic label encoder starts from noise; set input to 'noise'")
        widest = 16 * width
        with_noise, with_sketch = settings.input == "noise", encoder == "sketch"
        self.noise = NoiseEncoder(settings.noise_dim, widest, settings.start_size) if with_noise else None
        self.sketch = SketchEncoder(label_channels, width) if with_sketch else None
        self.global_encoder = self._global_encoder(outputs=upsamples)  # no block runs at the full size
        encoded = widest * (with_noise + with_sketch)
        widths = [encoded, *([] if with_sketch else [widest] * 2), *(multiple * width for multiple in _MULTIPLES)]
        self.blocks = self._blocks(pairwise(widths))
        # The scale that each block runs at, and the scale of its output once it is upsampled.
        label_encoder = [] if with_sketch else [0, max(0, upsamples - 6)]
        self.block_scales = [*label_encoder, *range(upsamples - 5, upsamples)]
        self.output_scales = [*self.block_scales[1:], upsamples]
        last = list(pairwise(widths))[-3:]
        self.coattention = nn.ModuleList(LSCA(before, after, label_channels) for before, after in last if coattention)
        self.outputs = 3 if progressive else 1
        self.to_image = nn.ModuleList(nn.Conv2d(after, 3, 3, padding=1) for _, after in last[-self.outputs :])

    def resize(self, condition: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the condition at a scale: classes by nearest neighbor; sketches averaged, which keeps thin lines."""
        return resize_nearest(condition, size) if self.sketch is None else F.adaptive_avg_pool2d(condition, size)

    def start(self, condition: Tensor, noise: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Return f_z, f_lsk, or both concatenated (3.1.1), `[N, C, h0, w0]`."""
        parts = [] if self.noise is None else [self.encode_noise(self.noise, noise, size)]
        if self.sketch is not None:
            parts.append(self.sketch(condition))
        return torch.cat(parts, 1)

    def forward(self, condition: Tensor, noise: Tensor | None = None) -> list[Tensor]:
        """Generate images.

        Args:
            condition: `[N, label_channels, H, W]`, H and W multiples of 2^num_upsamples.
            noise: `[N, noise_dim]`, z ~ N(0, I), or k per label map as in V2; None only without noise as input.

        Returns:
            X3 `[N, 3, H, W]` and, if the generator is progressive, X2 at a half and X1 at a quarter of the size;
            all in [-1, 1].

        Raises:
            ConfigError: a size that is not a multiple, or no noise if noise is the input.
        """
        sizes, condition = self.scale_sizes(condition), self.match_noise(condition, noise)
        labels = [self.resize(condition, size) for size in sizes]
        features = [None] * len(sizes) if self.global_encoder is None else self.global_encoder(condition)
        x = self.start(condition, noise, sizes[0])
        images: list[Tensor] = []
        for step, (block, scale, end) in enumerate(
            zip(self.blocks, self.block_scales, self.output_scales, strict=True)
        ):
            previous, x = x, self.run_block(block, x, labels[scale], features[scale])
            if end > scale:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            left = len(self.blocks) - step
            if left <= len(self.coattention):
                x = self.coattention[-left](previous, x, labels[end])
            if left <= self.outputs:
                images.append(torch.tanh(self.to_image[-left](x)))
        return images[::-1]
