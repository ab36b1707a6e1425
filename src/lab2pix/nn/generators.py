"""The networks that draw."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.errors import ConfigError
from lab2pix.nn.blocks import SLOPE, GenResBlk
from lab2pix.nn.checkpointing import checkpointed
from lab2pix.nn.encoders import GlobalEncoder
from lab2pix.nn.modulation import resize_nearest

__all__ = ["Lab2PixV2Generator"]

_MULTIPLES = (16, 8, 4, 2, 1)
"""Width of the features between the blocks that come after the middle, in multiples of `width`."""


class Lab2PixV2Generator(nn.Module):
    """The generator of Lab2Pix-V2 (4.2.1, Eq. 21); with `modulation="spade"` it is SPADE's.

    One block at the first scale, two at the second (with more than five doublings: one each at the second and third),
    then blocks to 8, 4, 2, 1 times `width` (and half of it with seven doublings), each after a nearest-neighbour
    enlargement by 2; LeakyReLU, 3x3 convolution, tanh.

    Args:
        label_channels: width of the condition: one-hot classes, unknown, instance borders.
        width: channels at the last scale of the full size; the first has 16 times as many.
        doublings: 5 for 256x256 from 8x8, 6 for 512x256 from 4x8, 7 for 1024x512 from 4x8.
        start_size: height and width of the first scale, which the noise becomes; at other sizes it is resized.
        modulation: DG-Norm with its global encoder, or SPADE without.
        modulation_hidden: channels between the label map and scale and shift.
        global_width: channels of the global encoder's first convolution.
        global_max_width: the most channels of any of its convolutions.
        start: what the first scale is made from: noise (Eq. 21), or the small label map (released V2).
        noise_dim: length of z.
        spectral_norm: whether the blocks' convolutions are under spectral norm.
        gradient_checkpointing: compute the blocks' activations again in the backward pass instead of keeping them.
    """

    def __init__(
        self,
        label_channels: int,
        *,
        width: int = 64,
        doublings: int = 5,
        start_size: tuple[int, int] = (8, 8),
        modulation: Literal["dg-norm", "spade"] = "dg-norm",
        modulation_hidden: int = 128,
        global_width: int = 64,
        global_max_width: int = 512,
        start: Literal["noise", "label"] = "noise",
        noise_dim: int = 128,
        spectral_norm: bool = True,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if doublings not in (5, 6, 7):
            raise ConfigError(
                f"a generator doubles its size 5, 6 or 7 times, not {doublings}; set doublings to one of these"
            )
        if min(start_size) < 1:
            raise ConfigError(
                f"the size is smaller than {2**doublings}, which {doublings} doublings make of one pixel; "
                "choose a larger size or fewer doublings"
            )
        self.doublings, self.stride = doublings, 2**doublings
        self.label_channels = label_channels
        self.start_size, self.start_width, self.noise_dim = start_size, 16 * width, noise_dim
        self.gradient_checkpointing = gradient_checkpointing

        self.fc: nn.Linear | nn.Conv2d
        if start == "noise":
            self.fc = nn.Linear(noise_dim, self.start_width * start_size[0] * start_size[1])
        else:
            self.fc = nn.Conv2d(label_channels, self.start_width, 3, padding=1)

        self.global_encoder: GlobalEncoder | None = None
        if modulation == "dg-norm":
            self.global_encoder = GlobalEncoder(
                label_channels,
                doublings=doublings,
                width=global_width,
                max_width=global_max_width,
                out_channels=modulation_hidden,
            )

        widths = [multiple * width for multiple in _MULTIPLES] + ([width // 2] if doublings == 7 else [])
        shapes = [(widths[0], widths[0])] * 3 + list(pairwise(widths))
        self.blocks = nn.ModuleList(
            GenResBlk(
                before,
                after,
                label_channels,
                hidden=modulation_hidden,
                modulation=modulation,
                spectral_norm=spectral_norm,
            )
            for before, after in shapes
        )
        second_middle = 1 if doublings == 5 else 2
        self.block_scales = (0, 1, second_middle, *range(second_middle + 1, doublings + 1))
        self.to_image = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, condition: Tensor, noise: Tensor | None = None) -> Tensor:
        """Draw images.

        Args:
            condition: `[N, label_channels, H, W]`, H and W multiples of 2^doublings.
            noise: `[N, noise_dim]`, z ~ N(0, I); None only where the start is the label map.

        Returns:
            `[N, 3, H, W]` in [-1, 1].

        Raises:
            ConfigError: a size that is no multiple, or no noise where noise is the start.
        """
        height, width = condition.shape[-2:]
        self.check_size(height, width)
        sizes = [(height >> shift, width >> shift) for shift in range(self.doublings, -1, -1)]
        labels = [resize_nearest(condition, size) for size in sizes]
        features: list[Tensor] | list[None] = [None] * len(sizes)
        if self.global_encoder is not None:
            features = self.global_encoder(condition)

        x = self._start(labels[0], noise)
        scale = 0
        for block, block_scale in zip(self.blocks, self.block_scales, strict=True):
            if block_scale > scale:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
                scale = block_scale
            x = self._run(block, x, labels[scale], features[scale])
        return torch.tanh(self.to_image(F.leaky_relu(x, SLOPE, inplace=True)))

    def check_size(self, height: int, width: int) -> None:
        """Raise ConfigError, naming the nearest size that works, where this one does not."""
        if height % self.stride == 0 and width % self.stride == 0:
            return
        near = [max(1, round(side / self.stride)) * self.stride for side in (height, width)]
        raise ConfigError(
            f"a size of {height}x{width} (height x width) is no multiple of {self.stride}, which this generator "
            f"needs; the nearest that is: {near[0]}x{near[1]}"
        )

    def _start(self, label: Tensor, noise: Tensor | None) -> Tensor:
        """Return `[N, 16 * width, h0, w0]`: f_z of 3.1.1, or the released V2's encoded small label map."""
        if isinstance(self.fc, nn.Conv2d):
            encoded: Tensor = self.fc(label)
            return encoded
        if noise is None:
            raise ConfigError(f"this generator starts from noise; give it a tensor of [N, {self.noise_dim}]")
        x: Tensor = self.fc(noise).unflatten(1, (self.start_width, *self.start_size))
        size = (label.shape[-2], label.shape[-1])
        if size != self.start_size:
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
        return x

    def _run(self, block: nn.Module, x: Tensor, label: Tensor, feature: Tensor | None) -> Tensor:
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return checkpointed(block, x, label, feature)
        result: Tensor = block(x, label, feature)
        return result
