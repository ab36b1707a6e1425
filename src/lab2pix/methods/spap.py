"""SPAP: CycleGAN with an attentive spatial pyramid in generators and discriminators (arXiv 1901.06322); our reading.

The authors published no code, and their abstract leaves widths, dilations and places open. What is chosen here is in
the documentation.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from lab2pix.config.schema import Section
from lab2pix.methods.cyclegan import (
    CycleGAN,
    CycleGANConfig,
    CycleGANDiscriminatorConfig,
    CycleGANGeneratorConfig,
)
from lab2pix.methods.image_translation import build_discriminator, build_translator
from lab2pix.nn.normalization import Norm
from lab2pix.nn.patchgan import PatchGAN
from lab2pix.nn.resnet import ResNetBlock, ResNetGenerator
from lab2pix.nn.spap import Attention, Order, PyramidAttention


class SPAPGeneratorConfig(CycleGANGeneratorConfig):
    """Both generators: ResNets with a pyramid after the residual blocks."""

    network: Literal["resnet"] = Field("resnet", description="Residual blocks.")
    depth: int = Field(9, ge=1, description="Residual blocks (9 for 256x256, 6 for 128x128).")


class SPAPDiscriminatorConfig(CycleGANDiscriminatorConfig):
    """Both discriminators: PatchGANs with a pyramid before the last convolution."""

    layers: int = Field(3, ge=1, description="Layers between the first and the one that predicts.")


class PyramidConfig(Section):
    """Pyramids of generators and discriminators."""

    dilations: tuple[int, ...] = Field(
        (7, 5, 3, 1),
        min_length=1,
        description="Dilations of the 3x3 convolutions, from coarse to fine; a 1x1 convolution follows.",
    )
    order: Order = Field("coarse-to-fine", description="Order in which levels are fused.")
    attention: Attention = Field("pixel", description="Weights of a fusion: one per pixel, or one per channel.")


class SPAPConfig(CycleGANConfig):
    """Settings of SPAP."""

    method: Literal["spap"] = Field("spap", description="SPAP: unpaired.")  # type: ignore[assignment]
    generator: SPAPGeneratorConfig = SPAPGeneratorConfig()
    discriminator: SPAPDiscriminatorConfig = SPAPDiscriminatorConfig()
    pyramid: PyramidConfig = PyramidConfig()


class SPAP(CycleGAN):
    """SPAP: the losses and the training of CycleGAN, with a pyramid in each of its four networks."""

    name: ClassVar[str] = "spap"
    Config = SPAPConfig
    released_weight = None
    config: SPAPConfig

    @classmethod
    def build_translator(cls, config: SPAPConfig, inputs: int, outputs: int) -> nn.Module:  # type: ignore[override]
        """Return a ResNet with a pyramid after its residual blocks."""
        network = build_translator(config.generator, inputs, outputs)
        assert isinstance(network, ResNetGenerator)
        last = max(place for place, layer in enumerate(network.model) if isinstance(layer, ResNetBlock))
        unit = _pyramid(config.pyramid, 4 * config.generator.width, config.generator.norm)
        network.model.insert(last + 1, unit)
        return network

    @classmethod
    def build_discriminators(cls, config: SPAPConfig, channels: int) -> dict[str, nn.Module]:  # type: ignore[override]
        """Return PatchGANs with a pyramid before the last convolution."""
        networks = {"discriminator_a": 3, "discriminator_b": channels}
        return {name: _discriminator(config, own) for name, own in networks.items()}


def _discriminator(config: SPAPConfig, channels: int) -> nn.Module:
    network = build_discriminator(config.discriminator, channels)
    assert isinstance(network, PatchGAN)
    last = network.model[-1]
    assert isinstance(last, nn.Conv2d)
    unit = _pyramid(config.pyramid, last.in_channels, config.discriminator.norm, slope=0.2)
    network.model.insert(len(network.model) - 1, unit)
    return network


def _pyramid(settings: PyramidConfig, channels: int, norm: Norm, slope: float = 0.0) -> PyramidAttention:
    return PyramidAttention(
        channels,
        dilations=settings.dilations,
        order=settings.order,
        attention=settings.attention,
        norm=norm,
        slope=slope,
    )
