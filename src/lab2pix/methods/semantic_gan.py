"""Generation from label maps in the SPADE family: the sampling and generator settings of SPADE, CC-FPSE and TSIT."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from lab2pix.labels.space import LabelSpace
from lab2pix.methods.multiscale_gan import MultiScaleGAN, discriminate
from lab2pix.methods.sampling import Condition, Sampling
from lab2pix.nn.discriminators import ScaleOutput
from lab2pix.nn.generators import GeneratorSettings

__all__ = ["SemanticGAN", "semantic_generator_settings"]


class SemanticGAN(MultiScaleGAN):
    """Base of SPADE, CC-FPSE and TSIT from label maps, with the setting `generator.input`: label, noise or style."""

    min_pixels: ClassVar[int] = 1
    """Smallest number of pixels of the generator's first scale."""
    config: Any

    @classmethod
    def build_sampling(cls, config: Any, label_space: LabelSpace) -> Sampling:
        """Return the sampling: from one-hot classes, with noise unless the generator starts from the label map."""
        settings = config.generator
        return Sampling(
            Condition(label_space, edges=config.data.instance_edges),
            size_multiple=2**settings.num_upsamples,
            min_pixels=cls.min_pixels,
            noise_channels=0 if settings.input == "label" else settings.noise_dim,
            style="optional" if settings.input == "style" else "none",
        )

    def discriminate(self, condition: Tensor, image: Tensor) -> list[ScaleOutput]:
        """Run the discriminators on label maps and images."""
        return discriminate(self.networks["discriminator"], torch.cat([condition.to(image.dtype), image], 1))


def semantic_generator_settings(config: Any, modulation_hidden: int) -> GeneratorSettings:
    """Return the settings of a generator with SPADE's blocks.

    Args:
        config: configuration of SPADE or CC-FPSE.
        modulation_hidden: channels between the label map and what it predicts.
    """
    settings, size = config.generator, config.padded_size
    return GeneratorSettings(
        width=settings.width,
        num_upsamples=settings.num_upsamples,
        start_size=(size[0] >> settings.num_upsamples, size[1] >> settings.num_upsamples),
        modulation="spade",
        modulation_hidden=modulation_hidden,
        input="label" if settings.input == "label" else "noise",
        noise_dim=settings.noise_dim,
        spectral_norm=settings.spectral_norm,
        image_encoder=settings.width if settings.input == "style" else 0,
    )
