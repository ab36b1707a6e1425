"""The frozen networks that lend discriminators and losses their eyes: each held once, each image seen once."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from lab2pix.config import Config
from lab2pix.methods.backbones import load_backbone
from lab2pix.nn.backbones import Backbone

__all__ = ["Eyes", "Sight"]


@dataclass(frozen=True)
class Sight:
    """What the backbones see in one image.

    Attributes:
        discriminator: features for the perceptual branch (3.2.1), 1/8, 1/16, 1/32 of the size, as many as asked for.
        perceptual: five features for the perceptual loss (Eq. 28), or none.
    """

    discriminator: list[Tensor] = field(default_factory=list)
    perceptual: list[Tensor] = field(default_factory=list)


class Eyes(nn.Module):
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
        if config.loss.perceptual > 0:
            wanted.add(settings.perceptual)
        self.networks = nn.ModuleDict(
            {name: load_backbone(name, settings.weights.get(name), pretrained=pretrained) for name in sorted(wanted)}
        )
        self.discriminator_name = settings.discriminator
        self.perceptual_name = settings.perceptual
        self.normalize_perceptual = settings.normalize
        self.shared = settings.discriminator == settings.perceptual and settings.normalize
        self.discriminator_channels: tuple[int, ...] = (
            self._network(settings.discriminator).discriminator_channels if levels else ()
        )

    def _network(self, name: str) -> Backbone:
        network = self.networks[name]
        assert isinstance(network, Backbone)
        return network

    def forward(self, image: Tensor, *, levels: int, perceptual: bool) -> Sight:
        """Look at `[N, 3, H, W]` images in [-1, 1]: `levels` discriminator features and, if asked, the perceptual five.

        The perceptual branch always sees images normalised as ImageNet's are; the perceptual loss unless
        `backbone.normalize` is false.
        """
        normal = Backbone.normalize(image) if levels or (perceptual and self.normalize_perceptual) else image
        if levels and perceptual and self.shared:
            seen = self._network(self.discriminator_name)(normal, levels=levels, perceptual=True)
            return Sight(seen.discriminator, seen.perceptual)
        sight = Sight()
        if levels:
            seen = self._network(self.discriminator_name)(normal, levels=levels, perceptual=False)
            sight.discriminator.extend(seen.discriminator)
        if perceptual:
            pixels = normal if self.normalize_perceptual else image
            seen = self._network(self.perceptual_name)(pixels, levels=0, perceptual=True)
            sight.perceptual.extend(seen.perceptual)
        return sight
