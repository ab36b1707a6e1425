"""USIS: unpaired label-to-image synthesis with a segmenter and a wavelet discriminator (Eskandar et al., 2022)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.config.schema import Section
from lab2pix.interop.keymap import Rules
from lab2pix.interop.part_vectors import PartLosses, check_parts
from lab2pix.interop.vectors import Row, Vectors
from lab2pix.labels.space import LabelSpace
from lab2pix.losses import vanilla_fake, vanilla_real
from lab2pix.methods.base import Losses, StepContext, require_images
from lab2pix.methods.oasis import OASISGeneratorConfig
from lab2pix.methods.sampling import Sampling
from lab2pix.methods.schedules import Progress
from lab2pix.methods.segmentation_gan import (
    GENERATOR_RULES,
    U_NET_RULES,
    Part,
    SegmentationAdamConfig,
    SegmentationGAN,
    SegmentationGANConfig,
    SegmentationLossConfig,
    SegmenterConfig,
    count_blocks,
    infer_u_net,
)
from lab2pix.methods.segmentation_vectors import Recording, method_of_recording, replay
from lab2pix.nn.init import init_weights
from lab2pix.nn.oasis import OASISDiscriminator, OASISGenerator
from lab2pix.nn.usis import WaveletDiscriminator, WaveletGenerator

# --- settings ---------------------------------------------------------------------------------------------------------


class USISGeneratorConfig(OASISGeneratorConfig):
    """Generator."""

    network: Literal["oasis", "wavelet"] = Field(
        "oasis", description="OASIS's generator (`netG 0`), or one that draws Haar coefficients (`netG wavelet`)."
    )
    width: int = Field(16, ge=1, description="Channels at the last scale; the wavelet generator has 4 times as many.")


class USISDiscriminatorConfig(Section):
    """Discriminator of images alone, on Haar coefficients."""

    width: int = Field(512, ge=1, description="Channels of the last blocks; the first have fewer above 64 pixels.")
    depth: int = Field(
        5, ge=1, description="Blocks that halve the size after the first halving: 5 for 256x256, 6 for 256x512."
    )


class USISLossConfig(SegmentationLossConfig):
    """Loss terms and weights."""

    segmentation: float = Field(1.0, gt=0, description="Weight of the segmentation loss of the generator.")
    r1: float = Field(10.0, ge=0, description="Weight of the R1 gradient penalty of the discriminator; 0: off.")
    r1_interval: int = Field(
        4,
        ge=1,
        description="Steps within an epoch from one penalty to the next; the discriminator's loss has it as factor.",
    )


class USISAdamConfig(SegmentationAdamConfig):
    """Adam, with constant learning rates."""

    segmenter_lr: float = Field(4e-4, gt=0, description="Learning rate of the segmenter.")
    discriminator_lr: float = Field(2e-3, gt=0, description="Learning rate of the discriminator.")


class USISConfig(SegmentationGANConfig):
    """Settings of USIS."""

    method: Literal["usis"] = Field("usis", description="USIS: unpaired.")
    generator: USISGeneratorConfig = USISGeneratorConfig()
    segmenter: SegmenterConfig = SegmenterConfig()
    discriminator: USISDiscriminatorConfig = USISDiscriminatorConfig()
    loss: USISLossConfig = USISLossConfig()
    optimizer: USISAdamConfig = USISAdamConfig()

    @property
    def size_rule(self) -> tuple[int, int]:
        """Divisor of the sides that all networks take, and the smallest side."""
        halvings = (_halvings(self.generator), len(self.segmenter.widths), self.discriminator.depth + 1)
        return 2 ** max(halvings), 1


def _halvings(settings: USISGeneratorConfig) -> int:
    """Return how often the generator's first scale is halved with respect to the image."""
    return settings.num_upsamples + (settings.network == "wavelet")


# --- the method -------------------------------------------------------------------------------------------------------


class USIS(SegmentationGAN):
    """USIS: a segmenter must find the label map in generated images, which look real to a discriminator without it.

    The segmenter learns from generated images only. Each part of a step draws images with new noise.
    """

    name: ClassVar[str] = "usis"
    paired: ClassVar[bool] = False
    plain_networks: tuple[str, ...] = ("discriminator",)
    Config = USISConfig
    config: USISConfig

    def __init__(self, config: USISConfig, label_space: LabelSpace, *, pretrained: bool = True) -> None:
        super().__init__(config, label_space, pretrained=pretrained)
        segmenter = OASISDiscriminator(label_space.num_channels, **config.segmenter.model_dump())
        init_weights(segmenter, "xavier", config.train.init_gain)
        self.networks = {
            "generator": self.build_generator(config, label_space),
            "segmenter": segmenter,
            "discriminator": WaveletDiscriminator(config.padded_size, **config.discriminator.model_dump()),
        }

    @classmethod
    def build_sampling(cls, config: Any, label_space: LabelSpace) -> Sampling:
        """Return the sampling: from one-hot classes and a noise vector."""
        sampling = super().build_sampling(config, label_space)
        return replace(sampling, size_multiple=2 ** _halvings(config.generator))

    @classmethod
    def new_generator(cls, config: Any, channels: int) -> nn.Module:
        """Return the generator with PyTorch's initial weights."""
        settings = config.generator.model_dump(exclude={"network"})
        wavelet = config.generator.network == "wavelet"
        return WaveletGenerator(channels, **settings) if wavelet else OASISGenerator(channels, **settings)

    # --- training ---------------------------------------------------------------------------------------------------

    @property
    def parts(self) -> Sequence[Part]:
        """Generator, segmenter, discriminator, and in some steps the discriminator's gradient penalty."""
        return (
            Part("generator", "generator", self.generator_losses),
            Part("segmenter", "segmenter", self.segmenter_losses),
            Part("discriminator", "discriminator", self.discriminator_losses),
            Part("penalty", "discriminator", self.penalty, self._has_penalty),
        )

    def _has_penalty(self, progress: Progress) -> bool:
        return self.config.loss.r1 > 0 and progress.step_in_epoch % self.config.loss.r1_interval == 0

    def generator_losses(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Return `segmentation` and `adversarial`."""
        with context.autocast():
            fake = self.draw(batch, noise)
            segmentation = self.label_loss(self.networks["segmenter"](fake), batch.label)
            logits = self.networks["discriminator"](fake)
        return {
            "segmentation": self.config.loss.segmentation * segmentation,
            "adversarial": vanilla_real(logits.float()).mean(),
        }

    def segmenter_losses(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Return `segmentation` of new generated images."""
        fake = self.draw_again(batch, noise, context)
        with context.autocast():
            return {"segmentation": self.label_loss(self.networks["segmenter"](fake), batch.label)}

    def discriminator_losses(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Return `fake` and `real`, times the interval of the gradient penalty."""
        fake, discriminator = self.draw_again(batch, noise, context), self.networks["discriminator"]
        with context.autocast():
            of_fake, of_real = discriminator(fake), discriminator(require_images(batch))
        factor = self.config.loss.r1_interval
        return {
            "fake": factor * vanilla_fake(of_fake.float()).mean(),
            "real": factor * vanilla_real(of_real.float()).mean(),
        }

    def penalty(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Return `r1`: the squared gradient of the discriminator at real images, in float32."""
        image = require_images(batch).detach().requires_grad_()
        logits = self.networks["discriminator"](image)
        (gradient,) = torch.autograd.grad(logits.sum(), image, create_graph=True)
        return {"r1": self.config.loss.r1 * gradient.square().flatten(1).sum(1).mean()}

    # --- other programs ---------------------------------------------------------------------------------------------

    weight_rules: ClassVar[Mapping[str, Rules]] = {
        "generator": [
            (r"\.(norm_[01])\.spade\.", r".\1."),
            *GENERATOR_RULES,
            (r"^to_coefficients\.", "conv_img.conv."),
        ],
        "segmenter": U_NET_RULES,
        "discriminator": [
            (r"^inputs\.(\d+)\.", r"from_rgbs.\1.conv.0."),
            (r"^input_acts\.(\d+)\.", r"from_rgbs.\1.conv.1."),
            (r"^blocks\.(\d+)\.conv1\.", r"convs.\1.conv1.0."),
            (r"^blocks\.(\d+)\.act1\.", r"convs.\1.conv1.1."),
            (r"^blocks\.(\d+)\.conv2\.", r"convs.\1.conv2.1."),
            (r"^blocks\.(\d+)\.act2\.", r"convs.\1.conv2.2."),
            (r"^last_conv\.", "final_conv.0."),
            (r"^last_act\.", "final_conv.1."),
            (r"^hidden\.", "final_linear.0."),
            (r"^head\.", "final_linear.1."),
        ],
    }

    @classmethod
    def is_generator(cls, state: Mapping[str, Tensor]) -> bool:
        """Return whether a state dict is of a generator of the authors, either one."""
        names = {"fc.weight", "body.0.norm_0.mlp_shared.0.weight"}
        return names <= state.keys() and not {"conv_img.weight", "conv_img.conv.weight"}.isdisjoint(state)

    @classmethod
    def without_unused(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Leave out filters and, of the wavelet generator, the norms of shortcuts, which it never runs."""
        unused = [r"(^|\.)(iwt|hwt|dwt)\.", r"\.kernel$", *[r"\.norm_s\."] * ("conv_img.conv.weight" in state)]
        return {name: weight for name, weight in state.items() if not re.search("|".join(unused), name)}

    @classmethod
    def infer_generator(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the settings of a released generator, without `noise_dim`."""
        wavelet = "conv_img.conv.weight" in state
        width = state["conv_img.conv.weight"].shape[1] // 4 if wavelet else state["conv_img.weight"].shape[1]
        return {
            "network": "wavelet" if wavelet else "oasis",
            "width": width,
            "num_upsamples": count_blocks(state, "body") - 1,
            "modulation_hidden": len(state["body.0.norm_0.mlp_shared.0.bias"]),
        }

    @classmethod
    def check_vectors(cls, vectors: Vectors, *, fast: bool = False) -> Iterator[Row]:
        """Compare outputs, losses, gradients and the weights after one step, within the tolerances in the file."""
        recorded, discriminator = vectors.values["config"], vectors.part("Du.")
        sections = {
            "generator": {
                **cls.infer_generator(vectors.part("G.")),
                "noise_dim": 0 if recorded["no_3dnoise"] else recorded["z_dim"],
            },
            "segmenter": infer_u_net(vectors.part("S.")),
            "discriminator": {
                "width": len(discriminator["final_linear.0.bias"]),
                "depth": count_blocks(discriminator, "convs"),
            },
            "loss": {"segmentation": recorded["lambda_segment"], "r1_interval": recorded["reg_every"]},
            "optimizer": {
                "generator_lr": recorded["lr_g"],
                "segmenter_lr": recorded["lr_d"],
                "discriminator_lr": recorded["lr_Du"],
                "betas": (recorded["beta1"], recorded["beta2"]),
            },
        }
        names = Recording(
            prefixes={"generator": "G", "segmenter": "S", "discriminator": "Du"},
            parts={
                "generator": ("G_part", ("fake",)),
                "segmenter": ("S_part", ("fake",)),
                "discriminator": ("Du_part", ("fake", "real")),
                "penalty": ("R1_part", ("real",)),
            },
            losses=partial(_recorded_losses, recorded["reg_every"]),
        )
        method, batch = method_of_recording(cls, names, vectors, sections, fast=fast)
        return check_parts(vectors, replay(method, batch, names, vectors))


def _recorded_losses(interval: int, losses: Mapping[str, Mapping[str, float]]) -> PartLosses:
    """Return the terms of a step under their names in vector files, which have no weights except in totals."""
    generator, discriminator = losses["generator"], losses["discriminator"]
    penalty, weight = losses["penalty"]["r1"], USISLossConfig().r1
    return {
        "G_part": {
            "seg": generator["segmentation"],
            "GAN": generator["adversarial"],
            "total": sum(generator.values()),
        },
        "S_part": {"seg": losses["segmenter"]["segmentation"]},
        "Du_part": {
            **{name: value / interval for name, value in discriminator.items()},
            "total_times_reg_every": sum(discriminator.values()),
        },
        "R1_part": {"r1": penalty / weight, "total": penalty},
    }
