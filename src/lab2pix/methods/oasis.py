"""OASIS: paired label-to-image synthesis with a segmentation-based discriminator (Schönfeld et al., ICLR 2021)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.interop.keymap import Rules
from lab2pix.interop.part_vectors import PartLosses, PartResults, check_parts
from lab2pix.interop.vectors import Row, Vectors
from lab2pix.labels.space import LabelSpace
from lab2pix.methods.base import Losses, StepContext, require_images
from lab2pix.methods.multiscale_gan import PerceptualConfig, PerceptualGAN, PerceptualLossConfig
from lab2pix.methods.segmentation_gan import (
    GENERATOR_RULES,
    U_NET_RULES,
    Part,
    SegmentationGAN,
    SegmentationGANConfig,
    SegmentationGeneratorConfig,
    SegmentationLossConfig,
    SegmenterConfig,
    count_blocks,
    fake_loss,
    infer_u_net,
    labelmix_loss,
    labelmix_mask,
)
from lab2pix.methods.segmentation_vectors import Recording, method_of_recording, replay
from lab2pix.nn.init import init_weights
from lab2pix.nn.oasis import OASISDiscriminator, OASISGenerator


class OASISGeneratorConfig(SegmentationGeneratorConfig):
    """Generator."""

    modulation_hidden: int = Field(128, ge=1, description="Channels between the label map and scale and shift.")


class OASISLossConfig(SegmentationLossConfig, PerceptualLossConfig):
    """Loss terms and weights."""

    labelmix: float = Field(
        10.0, ge=0, description="Weight of the consistency of logits under LabelMix; 0: off. Cityscapes: 5."
    )
    perceptual: float = Field(0.0, ge=0, description="Weight of the perceptual loss; 0: off, as published.")


class OASISConfig(SegmentationGANConfig):
    """Settings of OASIS."""

    method: Literal["oasis"] = Field("oasis", description="OASIS: paired.")
    generator: OASISGeneratorConfig = OASISGeneratorConfig()
    discriminator: SegmenterConfig = SegmenterConfig()
    loss: OASISLossConfig = OASISLossConfig()
    backbone: PerceptualConfig = PerceptualConfig()

    @property
    def size_rule(self) -> tuple[int, int]:
        """Divisor of the sides that generator and discriminator take, and the smallest side."""
        return 2 ** max(self.generator.num_upsamples, len(self.discriminator.widths)), 1


class OASIS(SegmentationGAN, PerceptualGAN):
    """OASIS: the discriminator segments images, real ones into their label map and generated ones as fake.

    Generator phase: generate, and be segmented into the label map. Discriminator phase: generate again with new noise;
    segment generated and real images, and mixtures of them (LabelMix) as the mixture of both results.
    """

    name: ClassVar[str] = "oasis"
    Config = OASISConfig
    generator_class: ClassVar[type[nn.Module]] = OASISGenerator
    discriminator_class: ClassVar[type[nn.Module]] = OASISDiscriminator
    weight_rules: ClassVar[Mapping[str, Rules]] = {"generator": GENERATOR_RULES, "discriminator": U_NET_RULES}
    config: Any

    def __init__(self, config: OASISConfig, label_space: LabelSpace, *, pretrained: bool = True) -> None:
        super().__init__(config, label_space, pretrained=pretrained)
        discriminator = self.discriminator_class(label_space.num_channels, **config.discriminator.model_dump())
        init_weights(discriminator, "xavier", config.train.init_gain)
        self.networks = {"generator": self.build_generator(config, label_space), "discriminator": discriminator}

    @classmethod
    def new_generator(cls, config: Any, channels: int) -> nn.Module:
        """Return the generator with PyTorch's initial weights."""
        return cls.generator_class(channels, **config.generator.model_dump())

    # --- training ---------------------------------------------------------------------------------------------------

    @property
    def parts(self) -> Sequence[Part]:
        """The generator's part, then the discriminator's."""
        return (
            Part("generator", "generator", self.generator_losses),
            Part("discriminator", "discriminator", self.discriminator_losses),
        )

    def generator_losses(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Return `segmentation` and, with its weight, `perceptual`."""
        with context.autocast():
            fake = self.draw(batch, noise)
            of_fake = self.networks["discriminator"](fake)
            terms = {"segmentation": self.label_loss(_logits(of_fake), batch.label)}
            terms |= self.generator_score_terms(of_fake, batch)
            if self.perceptual is not None:
                difference = self.perceptual(fake, self.perceptual_target(batch))
                terms["perceptual"] = self.config.loss.perceptual * difference
        return terms

    def generator_score_terms(self, of_fake: Any, batch: Batch) -> Losses:
        """Return further terms of what the discriminator says of generated images; OASIS has none."""
        return {}

    def discriminator_score_terms(self, of_fake: Any, of_real: Any) -> Losses:
        """Return further terms of what the discriminator says of generated and real images; OASIS has none."""
        return {}

    def discriminator_losses(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Return `fake`, `real` and, with its weight, `labelmix`, on images generated with new noise."""
        fake, real = self.draw_again(batch, noise, context), require_images(batch)
        discriminator = self.networks["discriminator"]
        with context.autocast():
            of_fake, of_real = discriminator(fake), discriminator(real)
            terms = {"fake": fake_loss(_logits(of_fake)), "real": self.label_loss(_logits(of_real), batch.label)}
            terms |= self.discriminator_score_terms(of_fake, of_real)
            if self.config.loss.labelmix > 0:
                mask = labelmix_mask(batch.label, context.random.shared_uniform(self.label_space.num_channels))
                of_mixed = discriminator(torch.where(mask, real, fake.to(real.dtype)))
                difference = labelmix_loss(mask, _logits(of_real), _logits(of_fake), _logits(of_mixed))
                terms["labelmix"] = self.config.loss.labelmix * difference
        return terms

    # --- other programs ---------------------------------------------------------------------------------------------

    @classmethod
    def is_generator(cls, state: Mapping[str, Tensor]) -> bool:
        """Return whether a state dict is of a generator of the authors."""
        return {"fc.weight", "body.0.norm_0.mlp_shared.0.weight", "conv_img.weight"} <= state.keys()

    @classmethod
    def infer_generator(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the settings of a released generator, without `noise_dim`."""
        return {
            "width": state["conv_img.weight"].shape[1],
            "num_upsamples": count_blocks(state, "body") - 1,
            "modulation_hidden": len(state["body.0.norm_0.mlp_shared.0.bias"]),
        }

    @classmethod
    def vector_sections(cls, vectors: Vectors) -> dict[str, Any]:
        """Return the settings of networks, losses and optimizer of a vector file."""
        recorded = vectors.values["config"]
        noise_dim = 0 if recorded["no_3dnoise"] else recorded["z_dim"]
        return {
            "generator": {**cls.infer_generator(vectors.part("G.")), "noise_dim": noise_dim},
            "discriminator": infer_u_net(vectors.part("D.")),
            "loss": {"labelmix": 0 if recorded["no_labelmix"] else recorded["lambda_labelmix"]},
            "optimizer": {
                "generator_lr": recorded["lr_g"],
                "discriminator_lr": recorded["lr_d"],
                "betas": (recorded["beta1"], recorded["beta2"]),
            },
        }

    @classmethod
    def vector_results(cls, vectors: Vectors, *, fast: bool = False) -> PartResults:
        """Make a step on a vector file, and return the results before, in and after it."""
        method, batch = method_of_recording(cls, _RECORDING, vectors, cls.vector_sections(vectors), fast=fast)
        return replay(method, batch, _RECORDING, vectors)

    @classmethod
    def check_vectors(cls, vectors: Vectors, *, fast: bool = False) -> Iterator[Row]:
        """Compare outputs, losses, gradients and the weights after one step, within the tolerances in the file."""
        return check_parts(vectors, cls.vector_results(vectors, fast=fast))


def _logits(output: Any) -> Tensor:
    """Return the logits of a discriminator, which DP-GAN's returns with scores and features."""
    logits: Tensor = output if isinstance(output, Tensor) else output.logits
    return logits


_TERMS = {"segmentation": "G_adv", "alignment": "align", "scores": "ms_no_gradient"}
_DISCRIMINATOR_TERMS = {
    **{"fake": "D_fake", "real": "D_real", "labelmix": "labelmix"},
    **{"scores_fake": "ms_fake_no_gradient", "scores_real": "ms_real_no_gradient"},
}


def _recorded_losses(losses: Mapping[str, Mapping[str, float]]) -> PartLosses:
    """Return the terms of OASIS or DP-GAN under their names in vector files."""
    halves = (("G_half", "generator", _TERMS), ("D_half", "discriminator", _DISCRIMINATOR_TERMS))
    return {
        half: {**{names[term]: value for term, value in losses[phase].items()}, "total": sum(losses[phase].values())}
        for half, phase, names in halves
    }


_RECORDING = Recording(
    prefixes={"generator": "G", "discriminator": "D"},
    parts={"generator": ("G_half", ("fake", "real")), "discriminator": ("D_half", ("fake", "real", "mixed"))},
    losses=_recorded_losses,
)
