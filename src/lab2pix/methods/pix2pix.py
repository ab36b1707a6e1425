"""Pix2Pix: paired image-to-image translation with a conditional GAN (Isola et al., CVPR 2017)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.config.schema import Section
from lab2pix.labels.space import LabelSpace
from lab2pix.methods.backprop import backward, frozen
from lab2pix.methods.base import Losses, OptimizerSpec, Phase, StepContext, require_images
from lab2pix.methods.image_translation import (
    GanMode,
    ImageTranslationConfig,
    ImageTranslationGeneratorConfig,
    ImageTranslationMethod,
    build_condition,
    build_discriminator,
    build_translator,
    size_multiple,
)
from lab2pix.methods.sampling import Sampling
from lab2pix.methods.step_record import StepRecord


class Pix2PixGeneratorConfig(ImageTranslationGeneratorConfig):
    """Generator and sampling mode."""

    sampling: Literal["train", "eval"] = Field(
        "train",
        description="Batch norm by the statistics of the one image and dropout on, as published; or running statistics "
        "and no dropout, which an exported program needs.",
    )


class Pix2PixLossConfig(Section):
    """Loss terms and weights."""

    adversarial: GanMode = Field(
        "vanilla", description="Cross entropy, least squares (lsgan), or the mean (wgangp, without a penalty)."
    )
    l1: float = Field(100.0, ge=0, description="Weight of the L1 distance to the image of the pair.")


class Pix2PixConfig(ImageTranslationConfig):
    """Settings of Pix2Pix."""

    method: Literal["pix2pix"] = Field("pix2pix", description="Pix2Pix: paired.")
    generator: Pix2PixGeneratorConfig = Pix2PixGeneratorConfig()
    loss: Pix2PixLossConfig = Pix2PixLossConfig()


class Pix2Pix(ImageTranslationMethod):
    """Pix2Pix: a U-Net generator with an L1 loss, and a conditional PatchGAN discriminator.

    In each step the generator runs once, the discriminator is updated, then the generator is updated with the loss of
    the updated discriminator.
    """

    name: ClassVar[str] = "pix2pix"
    Config = Pix2PixConfig
    vector_prefixes: ClassVar[Mapping[str, str]] = {"generator": "G", "discriminator": "D"}
    released_weight = r"model\.model\.0\.weight"
    config: Pix2PixConfig

    def __init__(self, config: Pix2PixConfig, label_space: LabelSpace, *, pretrained: bool = True) -> None:
        super().__init__(config, label_space, pretrained=pretrained)
        self.networks = {
            "generator": self.build_generator(config, label_space),
            "discriminator": build_discriminator(config.discriminator, self.sampling.condition.channels + 3),
        }
        self.init_networks()

    @classmethod
    def build_sampling(cls, config: Pix2PixConfig, label_space: LabelSpace) -> Sampling:
        """Return the sampling; in train mode one noise value per image seeds dropout."""
        settings = config.generator
        return Sampling(
            build_condition(config, label_space),
            size_multiple=size_multiple(settings),
            noise_channels=int(settings.sampling == "train" and settings.dropout > 0),
            mode=settings.sampling,
        )

    @classmethod
    def build_generator(cls, config: Pix2PixConfig, label_space: LabelSpace) -> nn.Module:
        """Return the generator."""
        return build_translator(config.generator, build_condition(config, label_space).channels, 3)

    @property
    def optimizers(self) -> dict[str, OptimizerSpec]:
        """One Adam optimizer per network."""
        settings = self.config.optimizer
        return {
            "discriminator": self.optimizer(settings.discriminator_lr, "discriminator"),
            "generator": self.optimizer(settings.generator_lr, "generator"),
        }

    @property
    def phases(self) -> Sequence[Phase]:
        """The discriminator phase, then the generator phase."""
        return (
            Phase("discriminator", self.discriminator_backward, ("discriminator",)),
            Phase("generator", self.generator_backward, ("generator",)),
        )

    def discriminator_backward(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Generate an image, and backpropagate the discriminator loss on real and generated pairs, halved."""
        condition, image = self.sampling.condition(batch), require_images(batch)
        discriminator = self.networks["discriminator"]
        # With several micro-batches no graph is kept, to save memory; the generator phase generates again.
        with torch.set_grad_enabled(context.micro_batches == 1), context.autocast():
            fake = self.networks["generator"](condition, noise)
        if context.micro_batches == 1:
            context.cache["fake"] = fake
        with context.autocast():
            fake_logits = discriminator(torch.cat([condition, fake.detach()], 1))
            real_logits = discriminator(torch.cat([condition, image], 1))
        losses = {
            "fake": self.adversarial(fake_logits, "fake") * 0.5,
            "real": self.adversarial(real_logits, "real") * 0.5,
        }
        return backward(losses, context.scale)

    def generator_backward(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Backpropagate the adversarial loss of the updated discriminator and the L1 loss."""
        condition, image = self.sampling.condition(batch), require_images(batch)
        discriminator = self.networks["discriminator"]
        with context.autocast(), frozen(discriminator):
            fake = context.cache.pop("fake", None)
            fake = self.networks["generator"](condition, noise) if fake is None else fake
            logits = discriminator(torch.cat([condition, fake], 1))
        losses = {
            "adversarial": self.adversarial(logits, "generator"),
            "l1": self.config.loss.l1 * (fake.float() - image).abs().mean(),
        }
        return backward(losses, context.scale)

    # --- scores -----------------------------------------------------------------------------------------------------

    @property
    def score_names(self) -> tuple[str, ...]:
        """`l1`."""
        return ("l1",)

    def validation_scores(self, batch: Batch, generated: Tensor) -> dict[str, Tensor]:
        """Return `l1`, the mean absolute difference from the real image in [-1, 1]."""
        return {"l1": (generated - require_images(batch)).abs().mean()}

    # --- other programs ---------------------------------------------------------------------------------------------

    @classmethod
    def vector_settings(cls, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Return the section `loss` of a recording."""
        return {"loss": {"adversarial": recorded["gan_mode"], "l1": recorded["lambda_L1"]}}

    @classmethod
    def vector_names(cls, record: StepRecord) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Return outputs and losses under the authors' names; their D_fake and D_real are not halved."""
        [fake], [fake_logits, real_logits, _] = record.outputs["generator"], record.outputs["discriminator"]
        losses = record.losses
        d_fake, d_real = losses["discriminator.fake"], losses["discriminator.real"]
        gan, l1 = losses["generator.adversarial"], losses["generator.l1"]
        return {"fake_B": fake, "D_fake": fake_logits, "D_real": real_logits}, {
            **{"D_fake": 2 * d_fake, "D_real": 2 * d_real, "D": d_fake + d_real},
            **{"G_GAN": gan, "G_L1": l1, "G": gan + l1},
        }
