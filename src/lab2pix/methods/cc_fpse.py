"""CC-FPSE: paired label-to-image synthesis with predicted convolutions (Liu et al., NeurIPS 2019)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from lab2pix.config.rules import check_size, squares_per_image
from lab2pix.config.schema import Section
from lab2pix.interop import spade_weights
from lab2pix.interop.conversion import CheckpointFormat, ConversionOptions, Converted, fit_label_space
from lab2pix.interop.keymap import SPECTRAL_NORM, Rules
from lab2pix.interop.spade_weights import IMAGE_ENCODER_RULES, choose_geometry
from lab2pix.interop.vectors import Row, Vectors
from lab2pix.labels.space import LabelSpace
from lab2pix.methods.multiscale_gan import (
    CheckpointingTrainConfig,
    SemanticGANConfig,
    SemanticGeneratorConfig,
    StyleLossConfig,
)
from lab2pix.methods.multiscale_vectors import check_recording, recorded_sections, recorded_space
from lab2pix.methods.replay import DiscriminatorRecord, layer_feature
from lab2pix.methods.semantic_gan import SemanticGAN, convert_generator, semantic_generator_settings
from lab2pix.nn.cc_fpse import CCFPSEGenerator, FPSEDiscriminator
from lab2pix.nn.discriminators import ScaleOutput
from lab2pix.nn.init import xavier_init

# --- settings ---------------------------------------------------------------------------------------------------------


class CCFPSEGeneratorConfig(SemanticGeneratorConfig):
    """Generator and image encoder."""

    num_upsamples: Literal[5, 6] = Field(
        5, description="How often the size doubles: 5 for 256x256, 6 for 256x512 (Cityscapes)."
    )
    predictor_width: int = Field(
        128, ge=1, description="Channels between the label map and the predicted kernels and attention."
    )
    input: Literal["label", "noise", "style"] = Field(
        "style",
        description="Input of the first scale: the small label map; noise; or style, which an image encoder learns to "
        "read off photos and noise stands in for (`use_vae`, as published).",
    )
    spectral_norm: bool = Field(True, description="Spectral norm on the 1x1 convolutions of shortcuts.")


class CCFPSEDiscriminatorConfig(Section):
    """Feature-pyramid discriminator."""

    width: int = Field(64, ge=1, description="Channels of the first convolution; the deepest have 8 times as many.")


class CCFPSELossConfig(StyleLossConfig):
    """Loss terms and weights."""

    feature_matching: float = Field(20.0, ge=0, description="Weight of feature matching; 0: off.")


class CCFPSEConfig(SemanticGANConfig):
    """Settings of CC-FPSE."""

    method: Literal["cc-fpse"] = Field("cc-fpse", description="CC-FPSE: paired.")
    generator: CCFPSEGeneratorConfig = CCFPSEGeneratorConfig()
    discriminator: CCFPSEDiscriminatorConfig = CCFPSEDiscriminatorConfig()
    loss: CCFPSELossConfig = CCFPSELossConfig()
    train: CheckpointingTrainConfig = CheckpointingTrainConfig()

    def check_rules(self) -> None:
        """Check the image size against generator and discriminator."""
        depth = self.generator.num_upsamples
        reason = f"the discriminator (and generator.num_upsamples={depth})"
        check_size(self, reason, squares=squares_per_image(self, depth))

    @property
    def size_rule(self) -> tuple[int, int]:
        """Divisor of the sides that generator and discriminator take, and the smallest side."""
        stride = FPSEDiscriminator.STRIDE
        return max(stride, 2**self.generator.num_upsamples), 2 * stride


# --- the method -------------------------------------------------------------------------------------------------------


class CCFPSE(SemanticGAN):
    """CC-FPSE: a generator whose convolution kernels are predicted from the label map, and a pyramid discriminator."""

    name: ClassVar[str] = "cc-fpse"
    Config = CCFPSEConfig
    systems = ("cc-fpse", "ccfpse")
    feature_matching_reduction = "layer-mean"
    config: CCFPSEConfig

    def __init__(self, config: CCFPSEConfig, label_space: LabelSpace, *, pretrained: bool = True) -> None:
        super().__init__(config, label_space, pretrained=pretrained)
        discriminator = FPSEDiscriminator(self.sampling.condition.channels, width=config.discriminator.width)
        xavier_init(discriminator, config.train.init_gain)
        self.networks = {"generator": self.build_generator(config, label_space), "discriminator": discriminator}

    @classmethod
    def build_generator(cls, config: CCFPSEConfig, label_space: LabelSpace) -> nn.Module:
        """Return the generator, with its image encoder in style mode."""
        generator = CCFPSEGenerator(
            cls.build_sampling(config, label_space).condition.channels,
            semantic_generator_settings(config, config.generator.predictor_width),
        )
        generator.set_grad_checkpointing(config.train.gradient_checkpointing)
        xavier_init(generator, config.train.init_gain)
        return generator

    def discriminate(self, condition: Tensor, image: Tensor) -> list[ScaleOutput]:
        """Run the discriminator on images and embedded label maps."""
        return [self.networks["discriminator"](image, condition.to(image.dtype))]

    # --- the authors' code ------------------------------------------------------------------------------------------

    @classmethod
    def checkpoint_formats(cls) -> Mapping[str, CheckpointFormat]:
        """Return the format of the authors' generators."""
        return {"cc-fpse": CheckpointFormat(_matches, _convert)}

    @classmethod
    def check_vectors(cls, vectors: Vectors, *, fast: bool = False) -> Iterator[Row]:
        """Compare outputs, losses, gradients and the weights after one and two steps with a vector file."""
        method = cls(_recorded_config(vectors), recorded_space(vectors))
        rules = {
            "generator": generator_rules(method.config.generator.num_upsamples),
            "discriminator": _DISCRIMINATOR_RULES,
        }
        return check_recording(method, vectors, rules, _record_pyramid, fast=fast, unused=_UNUSED)


# --- the authors' code: names and settings ----------------------------------------------------------------------------

_UNUSED = r"\.conv_[02]\.norm_layer\.|\.norm_0\."
"""Names of batch norms that the authors' blocks hold but never use."""
_LABEL_WEIGHTS = (
    r"^fc\.weight$|^labelenc1\.0\.0\.weight|\.gen_(se_)?weights[12]\.0\.weight$|\.norm_s\.mlp_shared\.0\.weight$"
)
"""Names of weights that are applied to the label map, and of the first linear layer, which has other dimensions."""


def _numbered(template: str, start: int) -> Callable[[re.Match[str]], str]:
    """Return a replacement that counts layers from `start`, as the authors' names do."""
    return lambda match: template.format(start + int(match[1]))


def generator_rules(num_upsamples: int) -> Rules:
    """Return the rules from our names of the generator, with its image encoder, to the authors'."""
    return [
        *spade_weights.generator_rules(num_upsamples),
        *IMAGE_ENCODER_RULES,
        (r"^label_pyramid\.down\.(\d+)\.", _numbered("labelenc{}.0.", 1)),
        (r"^label_pyramid\.lateral\.(\d+)\.", _numbered("labellat{}.0.", 1)),
        (r"^label_pyramid\.up\.(\d+)\.", _numbered("labeldec{}.0.", 1)),
        (r"\.kernels_([12])\.", r".gen_weights\1."),
        (r"\.attention_([12])\.", r".gen_se_weights\1."),
        (r"\.conv_2\.", ".conv_3."),
    ]


_DISCRIMINATOR_RULES: Rules = [
    *SPECTRAL_NORM,
    (r"^down\.(\d+)\.0\.", _numbered("enc{}.0.0.", 1)),
    (r"^lateral\.(\d+)\.0\.", _numbered("lat{}.0.0.", 2)),
    (r"^final\.(\d+)\.0\.", _numbered("final{}.0.0.", 2)),
    (r"^realism\.", "tf."),
    (r"^semantics\.", "seg."),
]


def _recorded_config(vectors: Vectors) -> CCFPSEConfig:
    """Return the settings of a recording."""
    recorded = vectors.values["config"]
    sections = recorded_sections(vectors)
    sections["generator"] |= {
        "num_upsamples": 6 if recorded.get("dataset_mode") == "cityscapes" else 5,
        "predictor_width": recorded.get("modulation_hidden", 128),
    }
    sections["discriminator"] = {"width": recorded["ndf"]}
    return CCFPSEConfig.model_validate(sections)


def _record_pyramid(of_fake: Sequence[ScaleOutput], of_real: Sequence[ScaleOutput]) -> DiscriminatorRecord:
    """Return predictions `D.pred2.fake`, ..., numbered by the halvings of their size, and features."""
    [fake], [real] = of_fake, of_real
    record = DiscriminatorRecord()
    for kind, output in (("fake", fake), ("real", real)):
        for halvings, prediction in enumerate(output.predictions, start=2):
            record.outputs[f"D.pred{halvings}.{kind}"] = prediction.detach()
    record.features["D"] = [layer_feature(*pair) for pair in zip(fake.features, real.features, strict=True)]
    return record


def _matches(state: Mapping[str, Tensor]) -> bool:
    """Return whether a state dict is of a generator of CC-FPSE."""
    return {"fc.weight", "labelenc1.0.0.weight_orig", "head_0.gen_weights1.0.weight"} <= state.keys()


def _convert(path: Path, state: dict[str, Tensor], options: ConversionOptions) -> Converted:
    """Convert a generator and, in style mode, the image encoder in the file next to it."""
    state = {name: weight for name, weight in state.items() if not re.search(_UNUSED, name)}
    width, channels = state["labelenc1.0.0.weight_orig"].shape[:2]
    fit = fit_label_space(path, channels, options, edges_possible=True)
    fit.pad_unknown_channel(state, _LABEL_WEIGHTS)
    fit.move_unknown_last(state, _LABEL_WEIGHTS)
    known = 6 if "labelenc7.0.0.weight_orig" in state else 5
    num_upsamples, size = choose_geometry(state["fc.weight"], width, known, fit, options)
    settings = {
        "width": width,
        "num_upsamples": num_upsamples,
        "predictor_width": state["head_0.gen_weights1.0.weight"].shape[0],
        "spectral_norm": "up_0.conv_s.weight_orig" in state,
    }
    rules = generator_rules(num_upsamples)
    return convert_generator(CCFPSE, path, state, fit.data(size, options), fit.space, settings, rules)
