"""Methods by name: how a configuration becomes networks that train and draw."""

from __future__ import annotations

from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.config import Config
from lab2pix.labels import LabelSpace
from lab2pix.methods.base import Engine, Losses, Method
from lab2pix.methods.conditions import condition_channels, make_condition
from lab2pix.methods.lab2pix_v2 import Lab2PixV2, build_v2_generator

__all__ = [
    "Engine",
    "Lab2PixV2",
    "Losses",
    "Method",
    "build_generator",
    "build_method",
    "condition_channels",
    "draw",
    "make_condition",
]

_METHODS: dict[str, type[Method]] = {Lab2PixV2.name: Lab2PixV2}


def build_method(config: Config, label_space: LabelSpace, *, pretrained: bool = True) -> Method:
    """Return the configured method with freshly initialised players.

    Args:
        config: the whole run.
        label_space: what the class ids mean.
        pretrained: false leaves the frozen backbones at random weights, for measurements that need no pictures.

    Raises:
        WeightsError: a backbone's weights are missing or not what their hash says.
    """
    return _METHODS[config.method](config, label_space, pretrained=pretrained)


def build_generator(config: Config, label_space: LabelSpace) -> nn.Module:
    """Return the configured generator alone, which is all that drawing needs."""
    return build_v2_generator(config, label_space)


def draw(generator: nn.Module, config: Config, label_space: LabelSpace, batch: Batch, noise: Tensor) -> Tensor:
    """Return `[N, 3, H, W]` images in [-1, 1] for a batch of label maps and `[N, noise_dim]` noise."""
    image: Tensor = generator(make_condition(config, label_space, batch), noise)
    return image
