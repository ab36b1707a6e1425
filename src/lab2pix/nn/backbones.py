"""Frozen backbones: feature extractors for the perceptual branch (3.2.1) and the perceptual loss (Eq. 28).

Features are taken after the layer that ends a stage. For VGG this is the ReLU, as in the paper and the official code;
for EfficientNet-Lite the last batch norm of a block, an inverted bottleneck without an activation there.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class BackboneFeatures(NamedTuple):
    """Features of a batch of images.

    Attributes:
        discriminator: the features at 1/8, 1/16 and 1/32 of the size, as many as requested.
        perceptual: the five features of the perceptual loss, shallow first; empty unless requested.
        consistency: the five features of image consistency, shallow first; empty unless requested.
    """

    discriminator: list[Tensor]
    perceptual: list[Tensor]
    consistency: list[Tensor]


class Backbone(nn.Module):
    """Frozen feature extractor: its weights get no gradients, and it always stays in evaluation mode.

    A subclass defines the layers, which run in sequence, and the layers after which features are taken.

    Args:
        layers: the layers, in order.

    Attributes:
        name: name in settings.
        discriminator_channels: widths of the features at 1/8, 1/16 and 1/32 of the size.
        perceptual_channels: widths of the five features of the perceptual loss.
        discriminator_layers, perceptual_layers: the layers after which these features are taken.
        consistency_layers: the layers after which the five features of image consistency are taken (Eq. 18).
        feature_scale: factor of all features.
        mean, std: mean and standard deviation per channel of RGB images in [0, 1] in the training of the network.
    """

    name: ClassVar[str]
    discriminator_channels: ClassVar[tuple[int, int, int]]
    perceptual_channels: ClassVar[tuple[int, int, int, int, int]]
    discriminator_layers: ClassVar[tuple[int, int, int]]
    perceptual_layers: ClassVar[tuple[int, int, int, int, int]]
    consistency_layers: ClassVar[tuple[int, int, int, int, int]]
    feature_scale: ClassVar[float] = 1.0
    mean: ClassVar[tuple[float, float, float]] = IMAGENET_MEAN
    std: ClassVar[tuple[float, float, float]] = IMAGENET_STD

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        # Layers after the last feature are not needed.
        last = max(*self.discriminator_layers, *self.perceptual_layers, *self.consistency_layers)
        self.layers = nn.ModuleList(layers[: last + 1])
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, even if a parent module calls `train()`."""
        return super().train(False)

    @classmethod
    def normalize(cls, image: Tensor) -> Tensor:
        """Normalize `[N, 3, H, W]` RGB in [-1, 1] with the mean and deviation of the training of this network."""
        mean = torch.tensor(cls.mean, dtype=image.dtype, device=image.device).view(1, 3, 1, 1)
        std = torch.tensor(cls.std, dtype=image.dtype, device=image.device).view(1, 3, 1, 1)
        return (image + (1 - 2 * mean)) / (2 * std)

    def forward(
        self, image: Tensor, *, levels: int = 3, perceptual: bool = False, consistency: bool = False
    ) -> BackboneFeatures:
        """Run the layers once, up to the last requested feature; gradients reach the image.

        Args:
            image: `[N, 3, H, W]`, normalized (see `normalize`) or, as in parts of the official code, in [-1, 1].
            levels: how many of the features at 1/8, 1/16, 1/32 to return, 0 to 3.
            perceptual: whether to return the five features of the perceptual loss.
            consistency: whether to return the five features of image consistency.
        """
        requested = (
            self.discriminator_layers[:levels],
            self.perceptual_layers if perceptual else (),
            self.consistency_layers if consistency else (),
        )
        features = BackboneFeatures([], [], [])
        for index in range(max((layer for layers in requested for layer in layers), default=-1) + 1):
            image = self.layers[index](image)
            if not any(index in layers for layers in requested):
                continue
            feature = self.feature(index, image)
            for layers, result in zip(requested, features, strict=True):
                if index in layers:
                    result.append(feature)
        return features

    def feature(self, index: int, output: Tensor) -> Tensor:
        """Return the feature after a layer, given the layer's output."""
        return output if self.feature_scale == 1 else output * self.feature_scale

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Load the weights from the state dict of a whole classifier.

        Raises:
            RuntimeError: weights are missing or of another shape.
        """
        renamed = {self.remap_key(name): tensor for name, tensor in state.items()}
        own = self.state_dict()
        self.load_state_dict({name: tensor for name, tensor in renamed.items() if name in own})

    @staticmethod
    @abstractmethod
    def remap_key(name: str) -> str:
        """Return the name in this module of a weight of the classifier; another name if this module lacks it."""


class _VGG(Backbone):
    """Convolutions of a VGG network (Simonyan and Zisserman), weights under torchvision's names.

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
                convolution = nn.Conv2d(width, stage_width, 3, padding=1)
                nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
                nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
                layers += [convolution, nn.ReLU(inplace=True)]
                width = stage_width
            layers.append(nn.MaxPool2d(2))
        super().__init__(layers)

    @staticmethod
    def remap_key(name: str) -> str:
        """Return the name in this module of a torchvision weight."""
        return name.replace("features.", "layers.", 1)


class VGG16(_VGG):
    """VGG16: 13 convolutions."""

    name = "vgg16"
    depths = (2, 2, 3, 3, 3)
    discriminator_layers = (16, 23, 30)
    perceptual_layers = (1, 6, 11, 18, 25)
    consistency_layers = (3, 8, 13, 20, 27)


class VGG19(_VGG):
    """VGG19: 16 convolutions."""

    name = "vgg19"
    depths = (2, 2, 4, 4, 4)
    discriminator_layers = (18, 27, 36)
    perceptual_layers = (1, 6, 11, 20, 29)
    consistency_layers = (3, 8, 13, 22, 31)


class _ReflectConv2d(nn.Conv2d):
    """3x3 convolution padded by reflection, and by repetition where a side has only one pixel."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, C, H, W]` to `[N, O, H, W]`."""
        mode = "reflect" if min(x.shape[-2:]) > 1 else "replicate"
        return super().forward(F.pad(x, (1, 1, 1, 1), mode=mode))


class CompactVGG19(Backbone):
    """VGG19 up to relu5_1, distilled to a quarter of its channels: 1/16 of the operations (Wang et al., CVPR 2020).

    1x1 heads predict VGG19's relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1, for the perceptual loss and image
    consistency. Discriminator features are pool3, pool4 and relu5_1, pooled. Images are padded by reflection; the
    first layer converts RGB in [0, 1] to Caffe's BGR.
    """

    name = "vgg19-16x"
    discriminator_channels = (64, 128, 128)
    perceptual_channels = (64, 128, 256, 512, 512)
    depths: ClassVar[tuple[int, ...]] = (2, 2, 4, 4, 1)
    discriminator_layers = (19, 28, 31)
    perceptual_layers = (2, 7, 12, 21, 30)
    consistency_layers = perceptual_layers
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, 3, 1)]
        width = 3
        for depth, channels in zip(self.depths, (16, 32, 64, 128, 128), strict=True):
            for _ in range(depth):
                layers += [_ReflectConv2d(width, channels, 3), nn.ReLU(inplace=True)]
                width = channels
            layers.append(nn.MaxPool2d(2))
        super().__init__(layers)
        widths = (16, 32, 64, 128, 128)
        self.heads = nn.ModuleList(
            nn.Conv2d(narrow, wide, 1) for narrow, wide in zip(widths, self.perceptual_channels, strict=True)
        )
        self.requires_grad_(False)

    def feature(self, index: int, output: Tensor) -> Tensor:
        """See `Backbone.feature`: after relu1_1 to relu5_1, the output of a head."""
        if index not in self.perceptual_layers:
            return output
        head: Tensor = self.heads[self.perceptual_layers.index(index)](output)
        return head

    @classmethod
    def remap_key(cls, name: str) -> str:
        """Return the name in this module of a published weight: `conv0`, `conv34`, `conv41_aux`."""
        layer, _, parameter = name.partition(".")
        digits = layer.removeprefix("conv").removesuffix("_aux")
        if digits == "0":
            return f"layers.0.{parameter}"
        if not (layer.startswith("conv") and len(digits) == 2 and digits.isdecimal()):
            return name
        stage, index = int(digits[0]), int(digits[1])
        if layer.endswith("_aux"):
            return f"heads.{stage - 1}.{parameter}"
        first = 1 + sum(2 * depth + 1 for depth in cls.depths[: stage - 1])
        return f"layers.{first + 2 * (index - 1)}.{parameter}"


class _EfficientNetLite(Backbone):
    """EfficientNet-Lite of timm (`tf_efficientnet_lite*`): a fiftieth of VGG19's work, for CPUs.

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
    depths: ClassVar[tuple[int, ...]]

    def __init__(self) -> None:
        from timm import create_model

        network: Any = create_model(f"tf_{self.name.replace('-', '_')}")
        stem = nn.Sequential(network.conv_stem, network.bn1)  # the activation is part of timm's norm
        super().__init__([stem, *chain.from_iterable(network.blocks)])

    @classmethod
    def remap_key(cls, name: str) -> str:
        """Return this module's name of a weight of timm, or of the package `efficientnet-lite-pytorch`."""
        stems = {"conv_stem": "layers.0.0", "_conv_stem": "layers.0.0", "bn1": "layers.0.1", "_bn0": "layers.0.1"}
        first, _, rest = name.partition(".")
        if first in stems:
            return f"{stems[first]}.{rest}"
        if first == "blocks":
            stage, block, rest = rest.split(".", 2)
            return f"layers.{1 + sum(cls.depths[: int(stage)]) + int(block)}.{rest}"
        if first == "_blocks":
            block, layer, rest = rest.split(".", 2)
            return f"layers.{int(block) + 1}.{_PACKAGE_LAYERS[block == '0'].get(layer, layer)}.{rest}"
        return name


_PACKAGE_LAYERS: tuple[dict[str, str], dict[str, str]] = (
    {
        **{"_expand_conv": "conv_pw", "_depthwise_conv": "conv_dw", "_project_conv": "conv_pwl"},
        **{"_bn0": "bn1", "_bn1": "bn2", "_bn2": "bn3"},
    },
    {"_depthwise_conv": "conv_dw", "_project_conv": "conv_pw", "_bn1": "bn1", "_bn2": "bn2"},
)
"""timm's names of a block's layers, by those of `efficientnet-lite-pytorch`; then those of the first block."""


class EfficientNetLite0(_EfficientNetLite):
    """EfficientNet-Lite0: 16 blocks."""

    name = "efficientnet-lite0"
    depths = (1, 2, 2, 3, 3, 4, 1)
    discriminator_layers = (5, 11, 16)
    perceptual_layers = (1, 3, 5, 11, 16)
    consistency_layers = perceptual_layers


class EfficientNetLite1(_EfficientNetLite):
    """EfficientNet-Lite1: 21 blocks; for runs that are evaluated by distances through Lite0."""

    name = "efficientnet-lite1"
    depths = (1, 3, 3, 4, 4, 5, 1)
    discriminator_layers = (7, 15, 21)
    perceptual_layers = (1, 4, 7, 15, 21)
    consistency_layers = perceptual_layers
