"""Frozen classification networks whose features the perceptual branch (3.2.1) and the perceptual loss (Eq. 28) see.

All return their features after the layer that ends a stage: VGG's after the ReLU (what the paper and the released code
take), EfficientNet-Lite's after a block's last batch norm. Its blocks are inverted bottlenecks without an activation
there: the sum that the next block reads loses nothing and lets gradients of both signs through.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from lab2pix.nn.convolutions import FrozenConv2d

__all__ = ["VGG16", "VGG19", "Backbone", "BackboneFeatures", "CompactVGG19", "EfficientNetLite0", "EfficientNetLite1"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class BackboneFeatures(NamedTuple):
    """What a backbone sees in a batch of images.

    Attributes:
        discriminator: as many as were asked for of the features at 1/8, 1/16 and 1/32 of the size.
        perceptual: the five of the perceptual loss, shallow first; empty where they were not asked for.
        consistency: the five of image consistency, likewise.
    """

    discriminator: list[Tensor]
    perceptual: list[Tensor]
    consistency: list[Tensor]


class Backbone(nn.Module):
    """A frozen feature network: its weights get no gradients, and it stays in evaluation mode whatever its parent does.

    A subclass gives the layers, which run one after the other, and after which of them features are taken.

    Args:
        layers: what runs, in order.

    Attributes:
        name: what settings call it.
        discriminator_channels: widths of the features at 1/8, 1/16 and 1/32 of the size.
        perceptual_channels: widths of the five features of the perceptual loss.
        discriminator_taps, perceptual_taps: the layers after which they are taken.
        consistency_taps: the layers after which the five features of image consistency are taken (Eq. 18).
        feature_scale: what they are multiplied by.
        mean, std: of each channel of an RGB image in [0, 1], as the network was trained with.
        order: memory order that images are looked at in, on a CPU.
    """

    name: ClassVar[str]
    discriminator_channels: ClassVar[tuple[int, int, int]]
    perceptual_channels: ClassVar[tuple[int, int, int, int, int]]
    discriminator_taps: ClassVar[tuple[int, int, int]]
    perceptual_taps: ClassVar[tuple[int, int, int, int, int]]
    consistency_taps: ClassVar[tuple[int, int, int, int, int]]
    feature_scale: ClassVar[float] = 1.0
    mean: ClassVar[tuple[float, float, float]] = IMAGENET_MEAN
    std: ClassVar[tuple[float, float, float]] = IMAGENET_STD

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        # Layers behind the last tap are never needed.
        last = max(*self.discriminator_taps, *self.perceptual_taps, *self.consistency_taps)
        self.layers = nn.ModuleList(layers[: last + 1])
        self.order = torch.preserve_format
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, also where a parent's `train()` reaches this far."""
        return super().train(False)

    @classmethod
    def normalize(cls, image: Tensor) -> Tensor:
        """Normalize `[N, 3, H, W]` RGB in [-1, 1] with the mean and deviation that this network was trained with."""
        mean = torch.tensor(cls.mean, dtype=image.dtype, device=image.device).view(1, 3, 1, 1)
        std = torch.tensor(cls.std, dtype=image.dtype, device=image.device).view(1, 3, 1, 1)
        return (image + (1 - 2 * mean)) / (2 * std)

    def forward(
        self, image: Tensor, *, levels: int = 3, perceptual: bool = False, consistency: bool = False
    ) -> BackboneFeatures:
        """Run the layers once, no further than what is asked for needs; gradients reach the image.

        Args:
            image: `[N, 3, H, W]`, normalised (see `normalize`) or, as the released code sometimes does, in [-1, 1].
            levels: how many of the features at 1/8, 1/16, 1/32 to return, 0 to 3.
            perceptual: whether to return the five features of the perceptual loss.
            consistency: whether to return the five features of image consistency.
        """
        taps = (
            self.discriminator_taps[:levels],
            self.perceptual_taps if perceptual else (),
            self.consistency_taps if consistency else (),
        )
        features = BackboneFeatures([], [], [])
        if self.order != torch.preserve_format and image.device.type == "cpu":
            image = image.contiguous(memory_format=self.order)
        for index in range(max((tap for group in taps for tap in group), default=-1) + 1):
            image = self.layers[index](image)
            if not any(index in group for group in taps):
                continue
            feature = self.feature(index, image)
            for group, found in zip(taps, features, strict=True):
                if index in group:
                    found.append(feature)
        return features

    def feature(self, index: int, output: Tensor) -> Tensor:
        """Return the feature that is taken after a layer, given the layer's output."""
        return output if self.feature_scale == 1 else output * self.feature_scale

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights out of a whole classifier's state dict.

        Raises:
            RuntimeError: weights are missing or of another shape.
        """
        renamed = {self.local_name(name): tensor for name, tensor in state.items()}
        own = self.state_dict()
        self.load_state_dict({name: tensor for name, tensor in renamed.items() if name in own})

    def lower(self, dtype: torch.dtype) -> None:
        """Hold the convolutions in a lower type, so that autocast need not cast them at every pass.

        Batch norms become part of them, in float32 before the cast. From now on passes have to run under autocast.
        """
        for owner, convolution, norm in self._normalised():
            if isinstance(getattr(owner, norm), nn.BatchNorm2d):
                _fold(getattr(owner, convolution), getattr(owner, norm))
                setattr(owner, norm, nn.Identity())
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.to(dtype=dtype)
        self.order = torch.channels_last  # pooling in a low type is several times faster in it

    def _normalised(self) -> Iterator[tuple[nn.Module, str, str]]:
        """Yield every module that has a convolution with a batch norm right behind it, and the names of both."""
        yield from ()

    @staticmethod
    @abstractmethod
    def local_name(name: str) -> str:
        """Return what this module calls a weight of the classifier; any other name for those it has no use for."""


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Let a convolution without bias do what its batch norm does in evaluation mode."""
    assert norm.running_mean is not None and norm.running_var is not None and convolution.bias is None
    factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    convolution.weight.mul_(factor.view(-1, 1, 1, 1))
    convolution.bias = nn.Parameter(norm.bias - norm.running_mean * factor, requires_grad=False)


class _VGG(Backbone):
    """The convolutions of a VGG network (Simonyan and Zisserman), weights under torchvision's names.

    Discriminator features are pool3, pool4, pool5; perceptual ones relu1_1, relu2_1, relu3_1, relu4_1, relu5_1;
    those of image consistency relu1_2, relu2_2, relu3_2, relu4_2, relu5_2.
    """

    discriminator_channels = (256, 512, 512)
    perceptual_channels = (64, 128, 256, 512, 512)
    depths: ClassVar[tuple[int, int, int, int, int]]

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        width = 3
        for depth, stage_width in zip(self.depths, self.perceptual_channels, strict=True):
            for _ in range(depth):
                convolution = FrozenConv2d(width, stage_width, 3, padding=1)
                nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
                nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
                layers += [convolution, nn.ReLU(inplace=True)]  # features are returned after it, not before
                width = stage_width
            layers.append(nn.MaxPool2d(2))
        super().__init__(layers)

    @staticmethod
    def local_name(name: str) -> str:
        """Return this module's name of one of torchvision's weights."""
        return name.replace("features.", "layers.", 1)


class VGG16(_VGG):
    """VGG16: 13 convolutions."""

    name = "vgg16"
    depths = (2, 2, 3, 3, 3)
    discriminator_taps = (16, 23, 30)
    perceptual_taps = (1, 6, 11, 18, 25)
    consistency_taps = (3, 8, 13, 20, 27)


class VGG19(_VGG):
    """VGG19: 16 convolutions."""

    name = "vgg19"
    depths = (2, 2, 4, 4, 4)
    discriminator_taps = (18, 27, 36)
    perceptual_taps = (1, 6, 11, 20, 29)
    consistency_taps = (3, 8, 13, 22, 31)


class CompactVGG19(Backbone):
    """VGG19 at a quarter of its channels, distilled from it up to relu5_1 (Wang et al., CVPR 2020): 1/16 of the work.

    1x1 heads turn relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1 into as many channels as VGG19's own, which stand for
    them in the perceptual loss and in image consistency. Discriminator features are pool3, pool4 and relu5_1, pooled.
    Images are padded by reflection; the first layer turns RGB in [0, 1] into Caffe's BGR.
    """

    name = "vgg19-16x"
    discriminator_channels = (64, 128, 128)
    perceptual_channels = (64, 128, 256, 512, 512)
    depths: ClassVar[tuple[int, ...]] = (2, 2, 4, 4, 1)
    discriminator_taps = (19, 28, 31)
    perceptual_taps = (2, 7, 12, 21, 30)
    consistency_taps = perceptual_taps
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, 3, 1)]
        width = 3
        for depth, channels in zip(self.depths, (16, 32, 64, 128, 128), strict=True):
            for _ in range(depth):
                layers += [nn.Conv2d(width, channels, 3, padding=1, padding_mode="reflect"), nn.ReLU(inplace=True)]
                width = channels
            layers.append(nn.MaxPool2d(2))
        super().__init__(layers)
        widths = (16, 32, 64, 128, 128)
        self.heads = nn.ModuleList(
            nn.Conv2d(narrow, wide, 1) for narrow, wide in zip(widths, self.perceptual_channels, strict=True)
        )
        self.requires_grad_(False)

    def feature(self, index: int, output: Tensor) -> Tensor:
        """See `Backbone.feature`: behind relu1_1 to relu5_1 stand the heads."""
        if index not in self.perceptual_taps:
            return output
        head: Tensor = self.heads[self.perceptual_taps.index(index)](output)
        return head

    @classmethod
    def local_name(cls, name: str) -> str:
        """Return this module's name of one of the published weights: `conv0`, `conv34`, `conv41_aux`."""
        layer, _, kind = name.partition(".")
        digits = layer.removeprefix("conv").removesuffix("_aux")
        if digits == "0":
            return f"layers.0.{kind}"
        if not (layer.startswith("conv") and len(digits) == 2 and digits.isdecimal()):
            return name
        stage, place = int(digits[0]), int(digits[1])
        if layer.endswith("_aux"):
            return f"heads.{stage - 1}.{kind}"
        first = 1 + sum(2 * depth + 1 for depth in cls.depths[: stage - 1])
        return f"layers.{first + 2 * (place - 1)}.{kind}"


class _EfficientNetLite(Backbone):
    """A network of the package `efficientnet-lite-pytorch`: a fiftieth of VGG19's work, for CPUs.

    Discriminator features are the blocks' results at 1/8, 1/16, 1/32; perceptual ones, and those of image consistency,
    at 1/2, 1/4, 1/8, 1/16, 1/32.
    Without an activation they are about ten times as large as VGG's, so they are divided by ten: between two landscape
    photographs Lite0's five differ by 0.7, 0.8, 0.7, 0.5, 0.2 on average (L1), which Eq. 28 with its weights makes 0.5.
    """

    discriminator_channels = (40, 112, 320)
    perceptual_channels = (16, 24, 40, 112, 320)
    feature_scale = 0.1
    # Trained on (x - 127) / 128 of pixels in 0 to 255, unlike torchvision's networks.
    mean, std = (127 / 255,) * 3, (128 / 255,) * 3

    def __init__(self) -> None:
        from efficientnet_lite_pytorch import EfficientNet

        # Without a fixed image size the convolutions pad as any size needs.
        network = EfficientNet.from_name(self.name, image_size=None)
        stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6())
        super().__init__([stem, *network._blocks])
        self.order = torch.channels_last  # its depthwise convolutions take half the time in it

    def _normalised(self) -> Iterator[tuple[nn.Module, str, str]]:
        """See `Backbone._normalised`."""
        stem, *blocks = self.layers
        yield stem, "0", "1"
        for block in blocks:
            for convolution, norm in (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")):
                if hasattr(block, convolution):
                    yield block, convolution, norm

    @staticmethod
    def local_name(name: str) -> str:
        """Return this module's name of one of the package's weights."""
        for theirs, ours in (("_conv_stem.", "layers.0.0."), ("_bn0.", "layers.0.1.")):
            if name.startswith(theirs):
                return ours + name.removeprefix(theirs)
        if name.startswith("_blocks."):
            _, block, rest = name.split(".", 2)
            return f"layers.{int(block) + 1}.{rest}"
        return name


class EfficientNetLite0(_EfficientNetLite):
    """EfficientNet-Lite0: 16 blocks."""

    name = "efficientnet-lite0"
    discriminator_taps = (5, 11, 16)
    perceptual_taps = (1, 3, 5, 11, 16)
    consistency_taps = perceptual_taps


class EfficientNetLite1(_EfficientNetLite):
    """EfficientNet-Lite1: 21 blocks, other weights; for runs that shall be judged by what Lite0 sees."""

    name = "efficientnet-lite1"
    discriminator_taps = (7, 15, 21)
    perceptual_taps = (1, 4, 7, 15, 21)
    consistency_taps = perceptual_taps
