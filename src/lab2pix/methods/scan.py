"""SCAN: CycleGAN in two stages, coarse to fine (ECCV 2018, arXiv 1807.08536); our reading.

The authors published no code. What is chosen here where the paper is silent is in the documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.config.schema import Section
from lab2pix.methods.backprop import backward, frozen
from lab2pix.methods.base import Losses, OptimizerSpec, Phase, StepContext, require_images
from lab2pix.methods.cyclegan import (
    Cycle,
    CycleGAN,
    CycleGANConfig,
    CycleGANDiscriminatorConfig,
    CycleGANGeneratorConfig,
    CycleGANLossConfig,
)
from lab2pix.methods.image_translation import build_discriminator, build_translator
from lab2pix.methods.schedules import Progress, epoch_decay
from lab2pix.nn.scan import AdaptiveFusion, StackedGenerator

_MULTIPLE = 8
"""Divisor of valid sides: the ResNet of the first stage takes multiples of 4, at half size."""

InstanceNorm = Literal["instance", "none"]


class SCANGeneratorConfig(CycleGANGeneratorConfig):
    """Both generators: in each a ResNet at half size, one at full size, and a fusion block."""

    network: Literal["resnet"] = Field("resnet", description="Residual blocks.")
    depth: int = Field(6, ge=1, description="Residual blocks of the ResNet of the first stage.")
    refine_depth: int = Field(6, ge=1, description="Residual blocks of the ResNet of the second stage.")
    fusion_width: int = Field(64, ge=1, description="Channels of the fusion block's hidden layers.")
    norm: InstanceNorm = Field("instance", description="Normalization: instance (without weights) or none.")


class SCANDiscriminatorConfig(CycleGANDiscriminatorConfig):
    """Four discriminators: one per domain and stage."""

    norm: InstanceNorm = Field("instance", description="Normalization: instance (without weights) or none.")


class SCANLossConfig(CycleGANLossConfig):
    """Loss terms and weights. A is the domain of inputs, B the domain of images."""

    identity: float | None = Field(
        0.0,
        ge=0,
        description="Weight of |G(b) - b| and |F(a) - a|, as part of the cycle's; it needs equal channels in A and B; "
        "null: 0.5 where they are, else 0.",
    )
    gradient_penalty: float = Field(
        0.0,
        ge=0,
        description="Weight of (|dD/dx| - 1)^2 at images between real and generated ones (WGAN-GP); 0: off.",
    )


class StagesConfig(Section):
    """Training of the two stages."""

    first: float = Field(0.5, gt=0, lt=1, description="Part of the run in which the first stage alone is trained.")
    freeze: bool = Field(
        True,
        description="Freeze the first stage while the second one is trained; otherwise both are updated in turn.",
    )


class SCANConfig(CycleGANConfig):
    """Settings of SCAN."""

    method: Literal["scan"] = Field("scan", description="SCAN: unpaired, in two stages.")  # type: ignore[assignment]
    generator: SCANGeneratorConfig = SCANGeneratorConfig()
    discriminator: SCANDiscriminatorConfig = SCANDiscriminatorConfig()
    loss: SCANLossConfig = SCANLossConfig()
    stages: StagesConfig = StagesConfig()

    @property
    def size_rule(self) -> tuple[int, int]:
        """Divisor of valid sides, and the smallest one; discriminators of the first stage see half of it."""
        layers = self.discriminator.layers
        return _MULTIPLE, max(_MULTIPLE, 6 * 2**layers if layers else 1)


class SCAN(CycleGAN):
    """SCAN: a CycleGAN at half size, then a second stage that refines its images at full size.

    Each stage has its discriminators and image pools. In the first part of a run the first stage is trained, in the
    second part the second stage, with the losses of both stages' composition.
    """

    name: ClassVar[str] = "scan"
    Config = SCANConfig
    released_weight = None
    pool_names: ClassVar[tuple[str, ...]] = ("coarse_a", "coarse_b", "a", "b")
    plain_networks: tuple[str, ...] = (
        *("coarse_discriminator_a", "coarse_discriminator_b"),
        *("discriminator_a", "discriminator_b"),
    )
    config: SCANConfig

    @classmethod
    def build_translator(cls, config: SCANConfig, inputs: int, outputs: int) -> nn.Module:  # type: ignore[override]
        """Return a generator of two stages."""
        settings = config.generator
        second = settings.model_copy(update={"depth": settings.refine_depth})
        return StackedGenerator(
            build_translator(settings, inputs, outputs),
            build_translator(second, inputs + outputs, outputs),
            AdaptiveFusion(inputs + 2 * outputs, width=settings.fusion_width, norm=settings.norm),
        )

    @classmethod
    def build_discriminators(cls, config: SCANConfig, channels: int) -> dict[str, nn.Module]:  # type: ignore[override]
        """Return the discriminators of both stages."""
        sides = {"discriminator_a": 3, "discriminator_b": channels}
        return {
            f"{stage}{name}": build_discriminator(config.discriminator, own)
            for stage in ("coarse_", "")
            for name, own in sides.items()
        }

    # --- optimizers and phases --------------------------------------------------------------------------------------

    def first_steps(self, progress: Progress) -> int:
        """Return the number of steps in which the first stage alone is trained."""
        return min(max(1, round(progress.total * self.config.stages.first)), max(1, progress.total - 1))

    def trains_coarse(self, progress: Progress) -> bool:
        """Return whether a step updates the first stage."""
        return not self.config.stages.freeze or not self.trains_fine(progress)

    def trains_fine(self, progress: Progress) -> bool:
        """Return whether a step updates the second stage."""
        return progress.step >= self.first_steps(progress)

    def own_progress(self, progress: Progress, *, fine: bool) -> Progress:
        """Return the progress within a stage."""
        first = self.first_steps(progress)
        if fine:
            return replace(progress, step=max(0, progress.step - first), total=max(1, progress.total - first))
        if not self.config.stages.freeze:
            return progress
        return replace(progress, step=min(progress.step, first - 1), total=first)

    @property
    def optimizers(self) -> dict[str, OptimizerSpec]:
        """Adam for the generators and for the discriminators of each stage; rates fall within each stage."""
        settings = self.config.optimizer
        decay = epoch_decay(settings.decay_fraction, reach_zero=settings.reach_zero)

        def schedule(fine: bool) -> Callable[[Progress], float]:
            return lambda progress: decay(self.own_progress(progress, fine=fine))

        generators = ("generator_a", "generator_b")
        coarse, fine = self.plain_networks[:2], self.plain_networks[2:]
        make = self.optimizer
        g, d = settings.generator_lr, settings.discriminator_lr
        return {
            "coarse_generators": replace(make(g, *generators), pattern=r"coarse\.", schedule=schedule(False)),
            "coarse_discriminators": replace(make(d, *coarse), schedule=schedule(False)),
            "generators": replace(make(g, *generators), pattern=r"(refine|fusion)\.", schedule=schedule(True)),
            "discriminators": replace(make(d, *fine), schedule=schedule(True)),
        }

    @property
    def phases(self) -> Sequence[Phase]:
        """Generators, then discriminators: those of the first stage, those of the second."""
        coarse, fine = self.trains_coarse, self.trains_fine
        return (
            Phase("coarse_generators", self.coarse_generators_backward, ("coarse_generators",), coarse),
            Phase("coarse_discriminators", self.coarse_discriminators_backward, ("coarse_discriminators",), coarse),
            Phase("generators", self.generators_backward, ("generators",), fine),
            Phase("discriminators", self.discriminators_backward, ("discriminators",), fine),
        )

    def stacked(self, name: str) -> StackedGenerator:
        """Return a generator, `generator_a` or `generator_b`."""
        network = self.networks[name]
        assert isinstance(network, StackedGenerator)
        return network

    @property
    def cycle(self) -> Cycle:
        """The complete generators, and the discriminators of full size."""
        networks = [self.networks[name] for name in ("generator_a", "generator_b", *self.plain_networks[2:])]
        return Cycle(self.pools, *networks)

    @property
    def coarse_cycle(self) -> Cycle:
        """The first stages of both generators, and the discriminators of half size."""
        generators = [self.stacked(name).coarse for name in ("generator_a", "generator_b")]
        pools = {domain: self.pools[f"coarse_{domain}"] for domain in "ab"}
        return Cycle(pools, *generators, *(self.networks[name] for name in self.plain_networks[:2]))

    def halved(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return inputs and images at half size: means of 2x2 pixels."""
        return F.avg_pool2d(self.sampling.condition(batch), 2), F.avg_pool2d(require_images(batch), 2)

    def coarse_generators_backward(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Backpropagate the losses of the first stage's generators; see `cycle_losses`."""
        losses, fakes = self.cycle_losses(self.coarse_cycle, *self.halved(batch), context)
        context.cache.update(fakes)
        return backward(losses, context.scale)

    def coarse_discriminators_backward(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Backpropagate the losses of the first stage's discriminators; see `discriminator_losses`."""
        a, b = self.halved(batch)
        return backward(self.discriminator_losses(self.coarse_cycle, {"a": a, "b": b}, context), context.scale)

    def generators_backward(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Backpropagate the losses of both stages' composition to the second stage; see `cycle_losses`."""
        both = self.stacked("generator_a"), self.stacked("generator_b")
        for network in both:
            network.stages.fill_(2)
        with frozen(*(network.coarse for network in both)):
            return super().generators_backward(batch, noise, context)

    def discriminator_losses(self, cycle: Cycle, real: Mapping[str, Tensor], context: StepContext) -> Losses:
        """Return the losses of CycleGAN's discriminators, and `penalty_a`, `penalty_b` if their weight is not 0."""
        weight = self.config.loss.gradient_penalty
        fakes = {domain: context.cache[f"fake_{domain}"] for domain in "ab"}
        losses = super().discriminator_losses(cycle, real, context)
        if weight:
            for domain, network in (("b", cycle.discriminator_a), ("a", cycle.discriminator_b)):
                share = context.random.uniform(len(real[domain]), 1, 1, 1)
                losses[f"penalty_{domain}"] = weight * gradient_penalty(network, real[domain], fakes[domain], share)
        return losses


def gradient_penalty(discriminator: nn.Module, real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """Return the gradient penalty of WGAN-GP (Gulrajani et al., 2017), a scalar, in float32.

    Args:
        discriminator: maps images to logits.
        real: photos or inputs `[N, C, H, W]`.
        fake: generated images `[N, C, H, W]`.
        share: share of the real image in each mixed one, `[N, 1, 1, 1]`.
    """
    mixed = torch.lerp(fake.float(), real.float(), share.to(real.device)).requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(mixed).mean((1, 2, 3)).sum(), mixed, create_graph=True)
    penalty: Tensor = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
    return penalty
