"""SPADE: paired label-to-image synthesis with spatially-adaptive normalization (Park et al., CVPR 2019)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from lab2pix.config.rules import check_size, squares_per_image
from lab2pix.interop.conversion import CheckpointFormat, ConversionOptions, Converted, fit_label_space
from lab2pix.interop.keymap import Rules
from lab2pix.interop.spade_weights import (
    IMAGE_ENCODER_RULES,
    NUM_UPSAMPLES,
    choose_geometry,
    generator_rules,
    infer_generator_settings,
    patch_discriminator_rules,
)
from lab2pix.interop.vectors import Row, Vectors, recorded_choice
from lab2pix.labels.space import LabelSpace
from lab2pix.methods.multiscale_gan import (
    CheckpointingTrainConfig,
    PatchDiscriminatorConfig,
    SemanticGANConfig,
    SemanticGeneratorConfig,
    build_patch_discriminators,
)
from lab2pix.methods.multiscale_vectors import check_recording, recorded_sections, recorded_space
from lab2pix.methods.replay import record_scales
from lab2pix.methods.semantic_gan import SemanticGAN, convert_generator, semantic_generator_settings
from lab2pix.nn.generators import Lab2PixV2Generator
from lab2pix.nn.init import init_weights

# --- settings ---------------------------------------------------------------------------------------------------------


class SPADEGeneratorConfig(SemanticGeneratorConfig):
    """Generator and image encoder."""

    num_upsamples: Literal[5, 6, 7] = Field(
        5, description="How often the size doubles: 5 for 256x256, 6 for 256x512 (`more`), 7 for 512x512 (`most`)."
    )
    modulation_hidden: int = Field(128, ge=1, description="Channels between the label map and scale and shift.")
    spectral_norm: bool = Field(True, description="Spectral norm on the convolutions of the blocks.")


class SPADEConfig(SemanticGANConfig):
    """Settings of SPADE."""

    method: Literal["spade"] = Field("spade", description="SPADE: paired.")
    generator: SPADEGeneratorConfig = SPADEGeneratorConfig()
    discriminator: PatchDiscriminatorConfig = PatchDiscriminatorConfig()
    train: CheckpointingTrainConfig = CheckpointingTrainConfig()

    def check_rules(self) -> None:
        """Check the image size against the generator."""
        depth = self.generator.num_upsamples
        check_size(self, f"generator.num_upsamples={depth}", squares=squares_per_image(self, depth))


# --- the method -------------------------------------------------------------------------------------------------------


class SPADE(SemanticGAN):
    """SPADE: a generator with the norm `lab2pix.nn.normalization.SPADE`, and multi-scale PatchGAN discriminators."""

    name: ClassVar[str] = "spade"
    Config = SPADEConfig
    config: SPADEConfig

    def __init__(self, config: SPADEConfig, label_space: LabelSpace, *, pretrained: bool = True) -> None:
        super().__init__(config, label_space, pretrained=pretrained)
        channels = self.sampling.condition.channels + 3
        discriminator = build_patch_discriminators(config.discriminator, channels)
        init_weights(discriminator, "xavier", config.train.init_gain)
        self.networks = {"generator": self.build_generator(config, label_space), "discriminator": discriminator}

    @classmethod
    def build_generator(cls, config: SPADEConfig, label_space: LabelSpace) -> nn.Module:
        """Return the generator, with its image encoder in style mode."""
        generator = Lab2PixV2Generator(
            cls.build_sampling(config, label_space).condition.channels,
            semantic_generator_settings(config, config.generator.modulation_hidden),
        )
        generator.set_grad_checkpointing(config.train.gradient_checkpointing)
        init_weights(generator, "xavier", config.train.init_gain)
        return generator

    # --- the authors' code ------------------------------------------------------------------------------------------

    @classmethod
    def checkpoint_formats(cls) -> Mapping[str, CheckpointFormat]:
        """Return the format of the authors' generators."""
        return {"spade": CheckpointFormat(_matches, _convert)}

    @classmethod
    def check_vectors(cls, vectors: Vectors, *, fast: bool = False) -> Iterator[Row]:
        """Compare outputs, losses, gradients and the weights after one and two steps with a vector file."""
        method = cls(recorded_config(vectors), recorded_space(vectors))
        rules = dict(zip(("generator", "discriminator"), method.weight_rules(), strict=True))
        return check_recording(method, vectors, rules, record_scales, fast=fast)

    def weight_rules(self) -> tuple[Rules, Rules]:
        """Return the rules from our names of the weights of generator and discriminators to the authors'."""
        generator = [*generator_rules(self.config.generator.num_upsamples), *IMAGE_ENCODER_RULES]
        return generator, patch_discriminator_rules(self.config.discriminator.layers)


# --- the authors' code: settings and weights --------------------------------------------------------------------------

_LABEL_WEIGHTS = r"^fc\.weight$|\.mlp_shared\.0\.weight$"
"""Names of weights that are applied to the label map, and of the first linear layer, which has other dimensions."""


def recorded_config(vectors: Vectors) -> SPADEConfig:
    """Return the settings of a recording."""
    recorded = vectors.values["config"]
    sections = recorded_sections(vectors)
    sections["generator"] |= {
        "num_upsamples": recorded_choice(recorded, "num_upsampling_layers", NUM_UPSAMPLES, "normal"),
        "modulation_hidden": recorded.get("modulation_hidden", 128),
    }
    return SPADEConfig.model_validate(sections)


def _matches(state: Mapping[str, Tensor]) -> bool:
    """Return whether a state dict is of a generator of SPADE."""
    names = {"fc.weight", "head_0.norm_0.mlp_shared.0.weight", "conv_img.weight"}
    others = ("fpencoder.", "labelenc", "content_stream.")
    return names <= state.keys() and not any(name.startswith(others) for name in state)


def _convert(path: Path, state: dict[str, Tensor], options: ConversionOptions) -> Converted:
    """Convert a generator and, in style mode, the image encoder in the file next to it."""
    settings = infer_generator_settings(state)
    fit = fit_label_space(path, settings["label_channels"], options, edges_possible=True)
    fit.pad_unknown_channel(state, _LABEL_WEIGHTS)
    fit.move_unknown_last(state, _LABEL_WEIGHTS)
    num_upsamples, size = choose_geometry(
        state["fc.weight"], settings["width"], settings["num_upsamples"], fit, options
    )
    kept = {key: settings[key] for key in ("width", "modulation_hidden", "spectral_norm")}
    kept["num_upsamples"] = num_upsamples
    rules = [*generator_rules(num_upsamples), *IMAGE_ENCODER_RULES]
    return convert_generator(SPADE, path, state, fit.data(size, options), fit.space, kept, rules)
