"""DP-GAN: OASIS with a label pyramid, score heads and feature alignment (Li, Cheng, Zhang; BMVC 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from lab2pix.batch import Batch
from lab2pix.errors import ConfigError
from lab2pix.interop.keymap import Rules
from lab2pix.interop.vectors import Vectors
from lab2pix.labels.space import LabelSpace
from lab2pix.losses import hinge_fake, hinge_generator, hinge_real
from lab2pix.methods.base import Losses, require_images
from lab2pix.methods.oasis import OASIS, OASISConfig, OASISLossConfig
from lab2pix.methods.segmentation_gan import (
    GENERATOR_RULES,
    U_NET_RULES,
    SegmentationAdamConfig,
    SegmentationGeneratorConfig,
    SegmenterConfig,
    count_blocks,
)
from lab2pix.nn.dp_gan import DPGANDiscriminator, DPGANGenerator, DPGANOutput


class DPGANGeneratorConfig(SegmentationGeneratorConfig):
    """Generator."""

    pyramid_first: int = Field(32, ge=1, description="Channels of the first layer of the label pyramid.")
    pyramid_width: int = Field(64, ge=1, description="Channels of its other layers.")


class DPGANDiscriminatorConfig(SegmenterConfig):
    """U-Net that segments images, with two heads that score them."""

    widths: tuple[int, ...] = Field(
        (128, 128, 256, 256, 512, 512),
        min_length=3,
        description="Channels after each halving of the size; the heads see the last one and the one two before it.",
    )
    head_width: int = Field(64, ge=1, description="Channels of the heads.")


class DPGANLossConfig(OASISLossConfig):
    """Loss terms and weights."""

    alignment: float = Field(
        1.0, ge=0, description="Weight of the alignment of the discriminator's features of generated and real images."
    )
    scores: float = Field(1.0, ge=0, description="Weight of the heads' scores.")
    variant: Literal["official", "paper"] = Field(
        "official",
        description="`official`: the heads' losses have no gradient, as in the authors' code, so that the heads never "
        "learn; `paper`: they have one.",
    )


class DPGANAdamConfig(SegmentationAdamConfig):
    """Adam, with constant learning rates."""

    generator_lr: float = Field(4e-4, gt=0, description="Learning rate of the generator.")


class DPGANConfig(OASISConfig):
    """Settings of DP-GAN."""

    method: Literal["dp-gan"] = Field("dp-gan", description="DP-GAN: paired.")  # type: ignore[assignment]
    generator: DPGANGeneratorConfig = DPGANGeneratorConfig()  # type: ignore[assignment]
    discriminator: DPGANDiscriminatorConfig = DPGANDiscriminatorConfig()
    loss: DPGANLossConfig = DPGANLossConfig()
    optimizer: DPGANAdamConfig = DPGANAdamConfig()

    def check_samples_per_pass(self, samples: int, advice: str) -> None:
        """Check that batch norm in pyramid and heads, whose maps can be one pixel, has more than one sample."""
        if samples < 2:
            raise ConfigError(
                f"a forward pass holds {samples} sample, but batch norm in DP-GAN's heads needs 2 or more; {advice}"
            )


class DPGAN(OASIS):
    """DP-GAN: OASIS's step with two more terms, aligned features and scores of the whole image."""

    name: ClassVar[str] = "dp-gan"
    Config = DPGANConfig
    generator_class = DPGANGenerator
    discriminator_class = DPGANDiscriminator
    weight_rules: ClassVar[Mapping[str, Rules]] = {
        "generator": [*GENERATOR_RULES, (r"^pyramid\.", "seg_pyrmid.")],
        "discriminator": [*U_NET_RULES, (r"^heads\.", "dis.")],
    }

    def __init__(self, config: DPGANConfig, label_space: LabelSpace, *, pretrained: bool = True) -> None:
        super().__init__(config, label_space, pretrained=pretrained)
        discriminator = self.networks["discriminator"]
        assert isinstance(discriminator, DPGANDiscriminator)
        self.learn_scores = config.loss.variant == "paper" and config.loss.scores > 0
        discriminator.heads.requires_grad_(self.learn_scores)

    def generator_score_terms(self, of_fake: DPGANOutput, batch: Batch) -> Losses:
        """Return `alignment`, the mean squared difference summed over five features, and `scores`, unless 0."""
        loss, terms = self.config.loss, {"scores": self._mean(of_fake.scores, hinge_generator)}
        if loss.alignment > 0:
            of_real = self.networks["discriminator"](require_images(batch))
            pairs = zip(of_fake.features, of_real.features, strict=True)
            terms["alignment"] = (
                loss.alignment * torch.stack([F.mse_loss(a.float(), b.float()) for a, b in pairs]).sum()
            )
        return terms

    def discriminator_score_terms(self, of_fake: DPGANOutput, of_real: DPGANOutput) -> Losses:
        """Return the hinge losses `scores_fake` and `scores_real`."""
        return {
            "scores_fake": self._mean(of_fake.scores, hinge_fake),
            "scores_real": self._mean(of_real.scores, hinge_real),
        }

    def _mean(self, scores: list[Tensor], term: Any) -> Tensor:
        """Return the weighted mean over the heads of a loss, without its graph unless the heads learn."""
        mean: Tensor = self.config.loss.scores * torch.stack([term(score.float()).mean() for score in scores]).mean()
        return mean if self.learn_scores else mean.detach()

    # --- other programs ---------------------------------------------------------------------------------------------

    @classmethod
    def is_generator(cls, state: Mapping[str, Tensor]) -> bool:
        """Return whether a state dict is of a generator of the authors."""
        return {"fc.weight", "seg_pyrmid.0.0.weight", "conv_img.weight"} <= state.keys()

    @classmethod
    def infer_generator(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the settings of a released generator, without `noise_dim`."""
        return {
            "width": state["conv_img.weight"].shape[1],
            "num_upsamples": count_blocks(state, "body") - 1,
            "pyramid_first": len(state["seg_pyrmid.0.0.bias"]),
            "pyramid_width": len(state["seg_pyrmid.1.0.bias"]),
        }

    @classmethod
    def vector_sections(cls, vectors: Vectors) -> dict[str, Any]:
        """Return the settings of networks, losses and optimizer of a vector file."""
        sections = super().vector_sections(vectors)
        sections["discriminator"]["head_width"] = len(vectors.tensors["D.dis.0.0.bias"])
        return sections
