"""The frozen networks that lend discriminators and losses their eyes: each held once, each image seen once."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lab2pix.config import Config
from lab2pix.methods.backbones import load_backbone
from lab2pix.nn.backbones import Backbone

__all__ = ["FeatureExtractors", "Features"]


@dataclass(frozen=True)
class Features:
    """What the backbones see in one image.

    Attributes:
        discriminator: features for the perceptual branch (3.2.1), 1/8, 1/16, 1/32 of the size, as many as asked for.
        perceptual: five features for the perceptual loss (Eq. 28), or none.
        consistency: five features for image consistency (Eq. 18), or none.
    """

    discriminator: list[Tensor] = field(default_factory=list)
    perceptual: list[Tensor] = field(default_factory=list)
    consistency: list[Tensor] = field(default_factory=list)


class FeatureExtractors(nn.Module):
    """The backbones of a run; where both uses name the same network and normalisation, one pass serves both.

    Args:
        config: the run; its `backbone` section names the networks.
        levels: the most discriminator features anybody will ask for; 0 where no discriminator looks through them.
        pretrained: false leaves the networks at random weights.

    Attributes:
        shared: whether one pass of one network serves both uses.
    """

    def __init__(self, config: Config, *, levels: int, pretrained: bool = True) -> None:
        super().__init__()
        settings = config.backbone
        wanted = set()
        if levels:
            wanted.add(settings.discriminator)
        if config.loss.perceptual > 0 or config.loss.consistency > 0:
            wanted.add(settings.perceptual)
        self.networks = nn.ModuleDict(
            {name: load_backbone(name, settings.weights.get(name), pretrained=pretrained) for name in sorted(wanted)}
        )
        self.discriminator_name = settings.discriminator
        self.perceptual_name = settings.perceptual
        self.normalize_discriminator, self.normalize_perceptual = settings.normalize_discriminator, settings.normalize
        self.first_layers = config.loss.consistency_layers == "first"
        self.shared = (
            settings.discriminator == settings.perceptual and settings.normalize_discriminator == settings.normalize
        )
        self.discriminator_channels: tuple[int, ...] = (
            self._network(settings.discriminator).discriminator_channels if levels else ()
        )
        self.perceptual_channels: tuple[int, ...] = (
            self._network(settings.perceptual).perceptual_channels if settings.perceptual in wanted else ()
        )

    def _network(self, name: str) -> Backbone:
        network = self.networks[name]
        assert isinstance(network, Backbone)
        return network

    def lower(self, dtype: torch.dtype) -> None:
        """Hold the networks in the type that passes compute in under autocast; see `Backbone.lower`."""
        for name in self.networks:
            self._network(name).lower(dtype)

    def forward(self, image: Tensor, *, levels: int, perceptual: bool = False, consistency: bool = False) -> Features:
        """Look at `[N, 3, H, W]` images in [-1, 1].

        Args:
            image: the images; each network normalizes them as in its training, unless the setting of the use says no.
            levels: how many features for the perceptual branch.
            perceptual: whether to return the five of the perceptual loss.
            consistency: whether to return the five of image consistency.
        """
        if not (levels or perceptual or consistency):
            return Features()
        if self.shared:
            return self._extract(
                self.discriminator_name, self.normalize_perceptual, image, levels, perceptual, consistency
            )
        sight = Features()
        if levels:
            seen = self._extract(self.discriminator_name, self.normalize_discriminator, image, levels, False, False)
            sight.discriminator.extend(seen.discriminator)
        if perceptual or consistency:
            seen = self._extract(self.perceptual_name, self.normalize_perceptual, image, 0, perceptual, consistency)
            sight.perceptual.extend(seen.perceptual)
            sight.consistency.extend(seen.consistency)
        return sight

    def _extract(
        self, name: str, normal: bool, image: Tensor, levels: int, perceptual: bool, consistency: bool
    ) -> Features:
        """Run one network once."""
        first = consistency and self.first_layers
        network = self._network(name)
        seen = network(
            network.normalize(image) if normal else image,
            levels=levels,
            perceptual=perceptual or first,
            consistency=consistency and not first,
        )
        return Features(
            seen.discriminator, seen.perceptual if perceptual else [], seen.perceptual if first else seen.consistency
        )
