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
from lab2pix.nn.coattention import LSCA
from lab2pix.nn.convolutions import type_of_pass
from lab2pix.nn.encoders import GlobalEncoder, NoiseEncoder, SketchEncoder
from lab2pix.nn.fused import traced_or_without_graph
from lab2pix.nn.layouts import order_of
from lab2pix.nn.modulation import resize_nearest

__all__ = ["Lab2PixV1Generator", "Lab2PixV2Generator"]

_MULTIPLES = (16, 8, 4, 2, 1)
"""Width of the features between the blocks that come after the middle, in multiples of `width`."""


class _Generator(nn.Module):
    """What both generators have: a number of doublings, and blocks that may be computed twice to save memory."""

    def __init__(
        self, doublings: int, start_size: tuple[int, int], noise_dim: int, gradient_checkpointing: bool
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
        self.start_size, self.noise_dim = start_size, noise_dim
        self.gradient_checkpointing = gradient_checkpointing

    def check_size(self, height: int, width: int) -> None:
        """Raise ConfigError, naming the nearest size that works, where this one does not."""
        if height % self.stride == 0 and width % self.stride == 0:
            return
        near = [max(1, round(side / self.stride)) * self.stride for side in (height, width)]
        raise ConfigError(
            f"a size of {height}x{width} (height x width) is no multiple of {self.stride}, which this generator "
            f"needs; the nearest that is: {near[0]}x{near[1]}"
        )

    def _sizes(self, condition: Tensor) -> list[tuple[int, int]]:
        """Return height and width of every scale, smallest first, once the size is found to be right."""
        height, width = condition.shape[-2:]
        self.check_size(height, width)
        return [(height // 2**shift, width // 2**shift) for shift in range(self.doublings, -1, -1)]

    def _in_order(self, condition: Tensor) -> Tensor:
        """Return the condition as a training step's convolutions want it, which would each convert it for themselves.

        Its values are whole numbers, so no type is too low for them.
        """
        if not self.training or traced_or_without_graph():
            return condition
        weight = next(p for p in self.parameters() if p.ndim == 4 and p[0, 0].numel() > 1)
        return condition.to(type_of_pass(condition), memory_format=order_of(weight))

    def _encode_noise(self, encoder: NoiseEncoder, noise: Tensor | None, size: tuple[int, int]) -> Tensor:
        if noise is None:
            raise ConfigError(f"this generator starts from noise; give it a tensor of [N, {self.noise_dim}]")
        x: Tensor = encoder(noise, size)
        return x

    def _run(self, block: nn.Module, x: Tensor, label: Tensor, feature: Tensor | None) -> Tensor:
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return checkpointed(block, x, label, feature)
        result: Tensor = block(x, label, feature)
        return result


class Lab2PixV2Generator(_Generator):
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
        super().__init__(doublings, start_size, noise_dim, gradient_checkpointing)
        self.label_channels, self.start_width = label_channels, 16 * width

        self.fc: NoiseEncoder | nn.Conv2d
        if start == "noise":
            self.fc = NoiseEncoder(noise_dim, self.start_width, start_size)
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
            noise: `[N, noise_dim]`, z ~ N(0, I), or `[k * N, noise_dim]`: k of each label map, all of the first noise
                before those of the second; None only where the start is the label map.

        Returns:
            `[N, 3, H, W]`, or `[k * N, 3, H, W]`, in [-1, 1].

        Raises:
            ConfigError: a size that is no multiple, or no noise where noise is the start.
        """
        sizes, condition = self._sizes(condition), self._in_order(condition)
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

    def _start(self, label: Tensor, noise: Tensor | None) -> Tensor:
        """Return `[N, 16 * width, h0, w0]`: f_z of 3.1.1, or the released V2's encoded small label map."""
        if isinstance(self.fc, NoiseEncoder):
            return self._encode_noise(self.fc, noise, (label.shape[-2], label.shape[-1]))
        encoded: Tensor = self.fc(label)
        return encoded


class Lab2PixV1Generator(_Generator):
    """The generator of Lab2Pix-V1 (3.1, 4.1.1, Eq. 17): label encoder, blocks, co-attention, up to three images.

    Semantic: f_z and two blocks of 16 times `width`, the label encoder; the first of them is followed by an enlargement
    with seven doublings only, the second with six or seven. Sketch: f_z beside f_lsk, five doublings. Then blocks to
    16, 8, 4, 2, 1 times `width`, each followed by a nearest-neighbour enlargement by 2. The last three scales have a
    co-attention that mixes in the scale before, and an image head (3x3 convolution, tanh).

    Args:
        label_channels: width of the condition: one-hot classes, or 1 for sketches.
        width: channels at the full size.
        doublings: 7 for 512x256 from 4x2, 5 for sketches.
        start_size: height and width of the first scale.
        encoder: which label encoder (3.1.1).
        progressive: draw X1, X2 and X3; false: X3 alone (rung A of the ladder, 5.4).
        coattention: mix scales by LSCA; false: not (rungs A and B).
        modulation: DG-Norm with its global encoder, or SPADE without.
        modulation_hidden: channels between the label map and scale and shift.
        global_width: channels of the global encoder's first convolution.
        global_max_width: the most channels of any of its convolutions.
        start: `label` leaves the noise out, which only the sketch encoder can (as released).
        noise_dim: length of z.
        spectral_norm: whether the blocks' convolutions are under spectral norm.
        gradient_checkpointing: compute the blocks' activations again in the backward pass instead of keeping them.
    """

    def __init__(
        self,
        label_channels: int,
        *,
        width: int = 64,
        doublings: int = 7,
        start_size: tuple[int, int] = (2, 4),
        encoder: Literal["semantic", "sketch"] = "semantic",
        progressive: bool = True,
        coattention: bool = True,
        modulation: Literal["dg-norm", "spade"] = "dg-norm",
        modulation_hidden: int = 128,
        global_width: int = 64,
        global_max_width: int = 512,
        start: Literal["noise", "label"] = "noise",
        noise_dim: int = 128,
        spectral_norm: bool = True,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__(doublings, start_size, noise_dim, gradient_checkpointing)
        if encoder == "sketch" and doublings != 5:
            raise ConfigError(f"the sketch encoder halves five times, so doublings must be 5, not {doublings}")
        if encoder == "semantic" and start == "label":
            raise ConfigError("the semantic label encoder starts from noise; set start to 'noise'")
        self.label_channels, self.encoder = label_channels, encoder
        widest = 16 * width
        self.noise = NoiseEncoder(noise_dim, widest, start_size) if start == "noise" else None
        self.sketch = SketchEncoder(label_channels, width) if encoder == "sketch" else None
        self.global_encoder: GlobalEncoder | None = None
        if modulation == "dg-norm":
            self.global_encoder = GlobalEncoder(
                label_channels,
                doublings=doublings,
                width=global_width,
                max_width=global_max_width,
                out_channels=modulation_hidden,
                outputs=doublings,  # no block runs at the full size
            )

        before = [widest] * 2 if encoder == "semantic" else []  # the two blocks of the label encoder
        first = widest * (2 if self.sketch is not None and self.noise is not None else 1)
        widths = [first, *before, *(multiple * width for multiple in _MULTIPLES)]
        self.blocks = nn.ModuleList(
            GenResBlk(
                inside,
                outside,
                label_channels,
                hidden=modulation_hidden,
                modulation=modulation,
                spectral_norm=spectral_norm,
            )
            for inside, outside in pairwise(widths)
        )
        # How often the size has doubled when a block runs.
        self.block_scales = [*([0, max(0, doublings - 6)] if before else []), *range(doublings - 5, doublings)]
        last = list(pairwise(widths))[-3:]
        self.coattention = nn.ModuleList(
            LSCA(inside, outside, label_channels) for inside, outside in last if coattention
        )
        self.outputs = 3 if progressive else 1
        self.to_image = nn.ModuleList(nn.Conv2d(outside, 3, 3, padding=1) for _, outside in last[-self.outputs :])

    def forward(self, condition: Tensor, noise: Tensor | None = None) -> list[Tensor]:
        """Draw images.

        Args:
            condition: `[N, label_channels, H, W]`, H and W multiples of 2^doublings.
            noise: `[N, noise_dim]`, z ~ N(0, I); None only where the start is the label map.

        Returns:
            X3 `[N, 3, H, W]` and, where the generator is progressive, X2 at a half and X1 at a quarter of the size;
            all in [-1, 1].

        Raises:
            ConfigError: a size that is no multiple, or no noise where noise is the start.
        """
        sizes, condition = self._sizes(condition), self._in_order(condition)
        labels = [self._resize(condition, size) for size in sizes]
        features: list[Tensor] | list[None] = [None] * len(sizes)
        if self.global_encoder is not None:
            features = self.global_encoder(condition)
        x = self._start(condition, noise, sizes[0])
        ends = [*self.block_scales[1:], self.doublings]
        images: list[Tensor] = []
        first_mixed, first_drawn = len(self.blocks) - len(self.coattention), len(self.blocks) - self.outputs
        for index, (block, scale, end) in enumerate(zip(self.blocks, self.block_scales, ends, strict=True)):
            previous = x
            x = self._run(block, previous, labels[scale], features[scale])
            if end > scale:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            if index >= first_mixed:
                x = self.coattention[index - first_mixed](previous, x, labels[end])
            if index >= first_drawn:
                images.append(torch.tanh(self.to_image[index - first_drawn](x)))
        return images[::-1]

    def _resize(self, condition: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the condition at a scale: classes by nearest neighbour, lines averaged (as released), or they tear."""
        return resize_nearest(condition, size) if self.sketch is None else F.adaptive_avg_pool2d(condition, size)

    def _start(self, condition: Tensor, noise: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Return f_z, f_lsk, or both beside each other (3.1.1)."""
        parts = [] if self.noise is None else [self._encode_noise(self.noise, noise, size)]
        if self.sketch is not None:
            parts.append(self.sketch(condition))
        return torch.cat(parts, 1)
