"""Generation from label maps in the SPADE family: the sampling and generator settings of SPADE, CC-FPSE and TSIT."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from lab2pix.config.schema import DataConfig
from lab2pix.interop.conversion import Converted
from lab2pix.interop.keymap import Rules, load_renamed
from lab2pix.interop.spade_weights import find_image_encoder, with_image_encoder
from lab2pix.labels.space import LabelSpace
from lab2pix.methods.multiscale_gan import MultiScaleGAN, discriminate
from lab2pix.methods.sampling import Condition, Sampling
from lab2pix.nn.discriminators import ScaleOutput
from lab2pix.nn.generators import GeneratorSettings


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


def convert_generator(
    cls: type[SemanticGAN],
    path: Path,
    state: dict[str, Tensor],
    data: DataConfig,
    space: LabelSpace,
    settings: Mapping[str, Any],
    rules: Rules,
) -> Converted:
    """Convert a released generator and, in style mode, the image encoder in the file next to it.

    Args:
        cls: the method.
        path: the checkpoint.
        state: weights of the generator, with the input channels of the label space.
        data: section `data` of the configuration.
        space: label space of the input.
        settings: settings of the generator, without `input` and `noise_dim`, which the first layer shows.
        rules: rules from our names of the weights to the authors'.
    """
    first = state["fc.weight"]
    encoder = find_image_encoder(path) if first.ndim == 2 else None
    start = "label" if first.ndim == 4 else "noise" if encoder is None else "style"
    generator_settings = {**settings, "input": start, "noise_dim": first.shape[1] if first.ndim == 2 else 256}
    config = cls.Config.model_validate({"name": cls.name, "data": data, "generator": generator_settings})
    cls.build_sampling(config, space).check_size(*config.data.size)
    generator = cls.build_generator(config, space)
    load_renamed(generator, rules, with_image_encoder(state, encoder), "generator")
    return Converted(generator.eval(), config, space)
