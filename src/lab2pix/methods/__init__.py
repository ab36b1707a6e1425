"""Methods by name: how a configuration becomes networks that train and draw."""

from __future__ import annotations

from torch import nn

from lab2pix.config.schema import Config
from lab2pix.labels.space import LabelSpace
from lab2pix.methods.base import Losses, Method, StepContext
from lab2pix.methods.lab2pix_v1 import Lab2PixV1, build_v1_generator
from lab2pix.methods.lab2pix_v2 import Lab2PixV2, build_v2_generator
from lab2pix.methods.sampling import (
    condition_channels,
    encode_condition,
    generate,
    generate_deterministic,
    generate_pyramid,
    latent_from_seed,
)

__all__ = [
    "Lab2PixV1",
    "Lab2PixV2",
    "Losses",
    "Method",
    "StepContext",
    "build_generator",
    "build_method",
    "condition_channels",
    "encode_condition",
    "generate",
    "generate_deterministic",
    "generate_pyramid",
    "latent_from_seed",
]

_METHODS: dict[str, type[Method]] = {Lab2PixV1.name: Lab2PixV1, Lab2PixV2.name: Lab2PixV2}


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
    if config.method == Lab2PixV1.name:
        return build_v1_generator(config, label_space)
    return build_v2_generator(config, label_space)
