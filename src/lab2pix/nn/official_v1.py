"""Networks of the official Lab2Pix-V1 code with its weight names, for conversion and parity; they are not trained.

They differ from 3.1 and 3.2: plain SPADE without the 1 added to gamma, blocks without identity skip, label maps reduced
by pooling, ReLU, batch or instance norm throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.errors import ConfigError

OfficialNorm = Literal["batch", "instance"]
Task = Literal["semantic", "sketch"]

_SLOPE = 0.2
_BLOCK_WIDTHS = {1: (16, 16), 2: (16, 16), 3: (16, 16), 4: (16, 8), 5: (8, 4), 6: (4, 2), 7: (2, 1)}
"""Width before and after each block, in multiples of the generator's."""
_IMAGE_BLOCKS = (5, 6, 7)
"""Blocks that are followed by co-attention and an image head."""

_NORMS: dict[OfficialNorm, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm2d, "instance": nn.InstanceNorm2d}


def _conv3(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride=stride, padding=1)


class _Modulation(nn.Module):
    """SPADE of V1: norm(x) * gamma + beta, both predicted from the label map."""

    def __init__(self, channels: int, label_channels: int, hidden: int, norm: OfficialNorm) -> None:
        super().__init__()
        self.normalization = _NORMS[norm](channels)
        self.common_conv = nn.Sequential(_conv3(label_channels, hidden), nn.ReLU())
        self.mul_conv = _conv3(hidden, channels)
        self.add_conv = _conv3(hidden, channels)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Modulate `[N, channels, h, w]` with `[N, label_channels, h, w]`."""
        shared = self.common_conv(label)
        return torch.addcmul(self.add_conv(shared), self.normalization(x), self.mul_conv(shared))


class _Block(nn.Module):
    """Residual block: twice modulation, ReLU, 3x3 convolution; the same once as a shortcut if the widths differ."""

    def __init__(self, before: int, after: int, label_channels: int, hidden: int, norm: OfficialNorm) -> None:
        super().__init__()
        layers = {"SPADE_1": (before, after), "SPADE_2": (after, after)}
        if before != after:
            layers["SPADE_res"] = (before, after)
        for name, (width, result) in layers.items():
            self.add_module(name, _Modulation(width, label_channels, hidden, norm))
            self.add_module(f"{name}_", nn.Sequential(nn.ReLU(), _conv3(width, result)))
        self.shortcut = "SPADE_res" in layers

    def _modulated_conv(self, name: str, x: Tensor, label: Tensor) -> Tensor:
        result: Tensor = self.get_submodule(f"{name}_")(self.get_submodule(name)(x, label))
        return result

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Map `[N, before, h, w]` to `[N, after, h, w]`."""
        residual = self._modulated_conv("SPADE_2", self._modulated_conv("SPADE_1", x, label), label)
        return residual + self._modulated_conv("SPADE_res", x, label) if self.shortcut else residual


class _CoAttention(nn.Module):
    """Label guided spatial co-attention (3.1.3, Eq. 7) of a block's input and its upsampled output."""

    def __init__(self, before: int, after: int, label_channels: int, norm: OfficialNorm) -> None:
        super().__init__()
        self.input1 = nn.Sequential(_conv3(before, after), nn.ReLU())
        self.norm1, self.norm2 = _NORMS[norm](after), _NORMS[norm](after)
        self.seg_process = nn.Sequential(_conv3(label_channels, after), nn.ReLU(), _NORMS[norm](after))
        self.mask = nn.Sequential(_conv3(3 * after, 1), nn.Sigmoid())

    def forward(self, previous: Tensor, current: Tensor, label: Tensor) -> Tensor:
        """Blend `[N, before, h/2, w/2]` and `[N, after, h, w]` into `[N, after, h, w]`."""
        previous = self.input1(F.interpolate(previous, scale_factor=2.0))
        features = torch.cat([self.norm1(previous), self.norm2(current), self.seg_process(label)], 1)
        blended: Tensor = torch.lerp(current, previous, self.mask(features))
        return blended


class _SketchEncoder(nn.Module):
    """5x5 convolution, then five 3x3 ones of stride 2, each with norm and ReLU (3.1.1)."""

    def __init__(self, width: int, norm: OfficialNorm) -> None:
        super().__init__()
        widths = [min(2**step, 16) * width for step in range(6)]
        layers: list[nn.Module] = [nn.Conv2d(1, width, 5, padding=2), _NORMS[norm](width), nn.ReLU()]
        for before, after in pairwise(widths):
            layers += [_conv3(before, after, stride=2), _NORMS[norm](after), nn.ReLU()]
        self.model = nn.Sequential(*layers)

    def forward(self, sketch: Tensor) -> Tensor:
        """Map `[N, 1, H, W]` to `[N, 16 * width, H/32, W/32]`."""
        encoded: Tensor = self.model(sketch)
        return encoded


class OfficialV1Generator(nn.Module):
    """The official label-adaptive generator: X3, X2, X1 from one pass (3.1, Eq. 17).

    Args:
        classes: channels of the label map; 1 for sketches.
        task: `semantic` starts from noise, `sketch` from the encoded sketch (and ignores the noise).
        width: channels at the last scale; the first has 16 times as many.
        hidden: channels between the label map and scale and shift.
        norm: batch norm with weights and statistics, or instance norm without.
        noise_dim: length of z.
        start_size: height and width of the first scale; at other sizes the encoded noise is resized.
    """

    def __init__(
        self,
        classes: int,
        *,
        task: Task = "semantic",
        width: int = 64,
        hidden: int = 128,
        norm: OfficialNorm = "instance",
        noise_dim: int = 128,
        start_size: tuple[int, int] = (2, 4),
    ) -> None:
        super().__init__()
        self.classes, self.task, self.norm = classes, task, norm
        self.start_size, self.start_width = start_size, 16 * width
        self.blocks = range(1 if task == "semantic" else 3, 8)
        self.stride = 2 ** len(self.blocks)
        self.noise_process = nn.Linear(noise_dim, self.start_width * start_size[0] * start_size[1])
        if task == "sketch":
            self.encoder = _SketchEncoder(width, norm)
        for index in self.blocks:
            before, after = (multiple * width for multiple in _BLOCK_WIDTHS[index])
            self.add_module(f"SPADEResBlock_{index}", _Block(before, after, classes, hidden, norm))
            if index in _IMAGE_BLOCKS:
                self.add_module(f"SPADEResBlock_{index}_fusion", _CoAttention(before, after, classes, norm))
                self.add_module(f"out_{index}", nn.Sequential(_conv3(after, 3), nn.Tanh()))

    def forward(self, condition: Tensor, noise: Tensor | None = None) -> list[Tensor]:
        """Generate images at three sizes.

        Args:
            condition: `[N, classes, H, W]`: one-hot classes, or a sketch (paper +1, line -1).
            noise: `[N, noise_dim]`; None only for sketches.

        Returns:
            X3, X2, X1: `[N, 3, H, W]`, `[N, 3, H/2, W/2]`, `[N, 3, H/4, W/4]` in [-1, 1].

        Raises:
            ConfigError: a size that is not a multiple of the stride, or no noise if the generator starts from it.
        """
        size = (condition.shape[-2], condition.shape[-1])
        self.check_size(*size)
        shift = len(self.blocks)
        x = self._start(condition, noise, (size[0] >> shift, size[1] >> shift))
        label = self._reduced(condition, shift)
        images: list[Tensor] = []
        for index in self.blocks:
            shift -= 1
            current = F.interpolate(self.get_submodule(f"SPADEResBlock_{index}")(x, label), scale_factor=2.0)
            label = self._reduced(condition, shift)
            if index in _IMAGE_BLOCKS:
                current = self.get_submodule(f"SPADEResBlock_{index}_fusion")(x, current, label)
                images.insert(0, self.get_submodule(f"out_{index}")(current))
            x = current
        return images

    def _start(self, condition: Tensor, noise: Tensor | None, size: tuple[int, int]) -> Tensor:
        if self.task == "sketch":
            encoded: Tensor = self.encoder(condition)
            return encoded
        if noise is None:
            raise ConfigError("this generator starts from noise; pass a tensor of [N, noise_dim]")
        x: Tensor = self.noise_process(noise).unflatten(1, (self.start_width, *self.start_size))
        return x if size == self.start_size else F.interpolate(x, size=size, mode="bilinear", align_corners=False)

    def _reduced(self, condition: Tensor, shift: int) -> Tensor:
        """Return the condition at 1/2^shift of its size: one-hot max-pooled class ids, or the average-pooled sketch."""
        if self.task == "sketch":
            return F.avg_pool2d(condition, 2**shift)
        ids = condition.argmax(1, keepdim=True).float()
        highest = F.max_pool2d(ids, 2**shift).long()
        shape = (highest.shape[0], self.classes, *highest.shape[2:])
        return torch.zeros(shape, device=condition.device).scatter_(1, highest, 1.0)

    def check_size(self, height: int, width: int) -> None:
        """Raise ConfigError, naming the nearest valid size, if a size is invalid."""
        # A single pixel has no variance to divide by.
        least = 2 if self.norm == "instance" else 1
        near = [max(1, round(side / self.stride)) for side in (height, width)]
        fits = height % self.stride == 0 and width % self.stride == 0
        if near[0] * near[1] >= least and fits:
            return
        if near[0] * near[1] < least:
            near = [1, least] if width >= height else [least, 1]
        wants = f"multiples of {self.stride}" + (" and more than one of them" if fits else "")
        raise ConfigError(
            f"a size of {height}x{width} (height x width) does not fit this generator, which needs {wants}; "
            f"the nearest valid size is {near[0] * self.stride}x{near[1] * self.stride}"
        )


class _Inception(nn.Module):
    """Mini-inception block: sum of three branches with growing receptive fields, at half the size (Fig. 6)."""

    def __init__(self, channels: int, norm: OfficialNorm) -> None:
        super().__init__()

        def layer(kernel: int, stride: int = 1) -> list[nn.Module]:
            conv = nn.Conv2d(channels, channels, kernel, stride=stride, padding=kernel // 2)
            return [conv, _NORMS[norm](channels), nn.LeakyReLU(_SLOPE)]

        self.pool_branch = nn.Sequential(nn.AvgPool2d(2), *layer(1))
        self.conv3_branch = nn.Sequential(*layer(1), *layer(3, 2))
        self.conv5_branch = nn.Sequential(*layer(1), *layer(3), *layer(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        summed: Tensor = self.pool_branch(x) + self.conv3_branch(x) + self.conv5_branch(x)
        return summed


class OfficialV1Discriminator(nn.Module):
    """Official hierarchical perceptual discriminator of one scale (3.2.1), on images without label maps.

    Args:
        backbone_channels: channels of the backbone's feature for each level; as many as there are levels.
        width: channels of the trunk's first convolution.
        max_width: channels of the levels.
        norm: batch norm with weights and statistics, or instance norm without.
    """

    def __init__(
        self,
        backbone_channels: Sequence[int],
        *,
        width: int = 64,
        max_width: int = 512,
        norm: OfficialNorm = "instance",
    ) -> None:
        super().__init__()

        def act(channels: int) -> list[nn.Module]:
            return [_NORMS[norm](channels), nn.LeakyReLU(_SLOPE)]

        trunk: list[nn.Module] = []
        for before, after in pairwise((3, width, 2 * width, 4 * width)):
            trunk += [_conv3(before, after, stride=2), *act(after)]
        self.common = nn.Sequential(*trunk)
        self.levels = len(backbone_channels)
        main = 4 * width
        for level, channels in enumerate(backbone_channels, start=1):
            self.add_module(f"pre{level}", nn.Sequential(*act(channels)))
            self.add_module(f"gcb{level}", nn.Sequential(_conv3(main + channels, max_width), *act(max_width)))
            head = nn.Conv2d(max_width, 1, 5, padding=2)
            self.add_module(f"conv{level}_out", nn.Sequential(*act(max_width), head))
            if level < self.levels:
                self.add_module(f"conv{level}_line", nn.Sequential(_Inception(max_width, norm)))
            main = max_width

    def forward(self, image: Tensor, backbone_features: Sequence[Tensor]) -> list[Tensor]:
        """Predict on every level.

        Args:
            image: `[N, 3, H, W]` in [-1, 1].
            backbone_features: per level `[N, C_l, H / 2^(2 + l), W / 2^(2 + l)]` of the same image, not normalized.

        Returns:
            Per level `[N, 1, h, w]` logits; the official network returns their sigmoids.
        """
        predictions: list[Tensor] = []
        x = self.common(image)
        for level, feature in enumerate(backbone_features, start=1):
            perceptual = self.get_submodule(f"pre{level}")(feature)
            x = self.get_submodule(f"gcb{level}")(torch.cat([x, perceptual], 1))
            predictions.append(self.get_submodule(f"conv{level}_out")(x))
            if level < self.levels:
                x = self.get_submodule(f"conv{level}_line")(x)
        return predictions
