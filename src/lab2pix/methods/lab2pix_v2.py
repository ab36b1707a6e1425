"""Lab2Pix-V2: learning from pairs (4.2); with other settings, every rung of the paired ladder down to SPADE (5.4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lab2pix.batch import Batch
from lab2pix.config import Config
from lab2pix.labels import LabelSpace
from lab2pix.losses import (
    ADVERSARIAL_TERMS,
    adversarial_loss,
    blurred,
    feature_matching_loss,
    foreground_mask,
    level_weights,
    perceptual_loss,
)
from lab2pix.methods.base import Engine, Losses, Method
from lab2pix.methods.conditions import condition_channels, make_condition
from lab2pix.methods.eyes import Eyes, Sight
from lab2pix.nn.discriminators import (
    HierarchicalDiscriminator,
    MultiScaleDiscriminator,
    PatchDiscriminator,
    ScaleOutput,
    downsample,
)
from lab2pix.nn.generators import Lab2PixV2Generator
from lab2pix.nn.init import xavier_init

__all__ = ["Carry", "Lab2PixV2", "build_v2_discriminator", "build_v2_generator"]


def build_v2_generator(config: Config, label_space: LabelSpace) -> Lab2PixV2Generator:
    """Return the generator of section 2 of the configuration, initialised as the released V2 is."""
    settings = config.generator
    stride = 2**settings.doublings
    generator = Lab2PixV2Generator(
        condition_channels(config, label_space),
        width=settings.width,
        doublings=settings.doublings,
        start_size=(config.data.size[0] // stride, config.data.size[1] // stride),
        modulation=settings.modulation,
        modulation_hidden=settings.modulation_hidden,
        global_width=settings.global_encoder.width,
        global_max_width=settings.global_encoder.max_width,
        start=settings.start,
        noise_dim=settings.noise_dim,
        spectral_norm=settings.spectral_norm,
        gradient_checkpointing=config.train.gradient_checkpointing,
    )
    xavier_init(generator)
    return generator


def build_v2_discriminator(
    config: Config, label_space: LabelSpace, backbone_channels: Sequence[int]
) -> MultiScaleDiscriminator:
    """Return one discriminator per scale, largest image first: D3, D2 and, with three scales, D1."""
    channels = condition_channels(config, label_space) + 3
    settings = config.discriminator
    networks: list[nn.Module] = []
    for scale in range(settings.scales):
        if settings.kind == "hierarchical":
            levels = 3 - scale
            networks.append(
                HierarchicalDiscriminator(
                    channels,
                    backbone_channels[:levels],
                    levels=levels,
                    width=settings.width,
                    max_width=settings.max_width,
                )
            )
        else:
            networks.append(PatchDiscriminator(channels, width=settings.width, max_width=settings.max_width))
    discriminator = MultiScaleDiscriminator(networks)
    xavier_init(discriminator)
    return discriminator


@dataclass(frozen=True)
class Carry:
    """What the generator's pass hands to the discriminators': no graph hangs on any of it.

    Attributes:
        conditions: label maps by scale, `[N, C, H/2^s, W/2^s]`.
        generated, real: images by scale, `[N, 3, H/2^s, W/2^s]`.
        generated_features, real_features: what the backbone sees in them, by scale.
        mask: foreground weights `[N, 1, H, W]`, or None where all pixels weigh alike.
    """

    conditions: list[Tensor]
    generated: list[Tensor]
    real: list[Tensor]
    generated_features: list[list[Tensor]]
    real_features: list[list[Tensor]]
    mask: Tensor | None


def pyramid(image: Tensor, scales: int) -> list[Tensor]:
    """Return X3, X2, ... by repeated 3x3 average pooling with stride 2 (4.2.1)."""
    images = [image]
    for _ in range(scales - 1):
        images.append(downsample(images[-1]))
    return images


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Let gradients pass through a network without filling its own, with each normalised weight computed once."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        with parametrize.cached():
            yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


class Lab2PixV2(Method):
    """The paired method of section 4.2, with its losses weighed as in Eq. 31.

    A step computes nothing twice: the generator runs once; its gradient is gathered at the image, scale by scale and
    network by network, so that no two of their graphs are in memory together; the discriminators judge generated, real
    and blurred images in one pass; a backbone sees each image once.
    """

    name: ClassVar[str] = "lab2pix-v2"

    def __init__(self, config: Config, label_space: LabelSpace, *, pretrained: bool = True) -> None:
        super().__init__(config, label_space, pretrained=pretrained)
        # Ids that the label space lacks shall be an error now, not at the first batch.
        label_space.foreground(torch.zeros(1, 1, 1, dtype=torch.int64), config.loss.background_ids)
        hierarchical = config.discriminator.kind == "hierarchical"
        self.eyes = Eyes(config, levels=3 if hierarchical else 0, pretrained=pretrained)
        self.generator: nn.Module = build_v2_generator(config, label_space)
        self.discriminator: nn.Module = build_v2_discriminator(config, label_space, self.eyes.discriminator_channels)
        self.scales = config.discriminator.scales
        levels = [3 - scale if hierarchical else 1 for scale in range(self.scales)]
        self.weights = level_weights(levels, config.loss.adversarial_reduction)
        self.generator_term, self.real_term, self.fake_term = ADVERSARIAL_TERMS[config.loss.adversarial]

    def to(self, device: torch.device, memory_format: torch.memory_format = torch.preserve_format) -> None:
        """Move players and frozen backbones to a device."""
        for module in (self.generator, self.discriminator, self.eyes):
            module.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]

    # --- the generator's half of a step ---------------------------------------------------------------------------

    def generator_backward(
        self, generator: nn.Module, batch: Batch, noise: Tensor, engine: Engine
    ) -> tuple[Carry, Losses]:
        """Generate once, gather the losses' gradient at the image scale by scale, and send it through the generator.

        Returns:
            What the discriminators' pass needs, and `adversarial` (Eq. 24), `perceptual` (Eq. 28) and
            `feature_matching` (Eq. 29) as they enter the sum, each where its weight is not 0.
        """
        condition = make_condition(self.config, self.label_space, batch)
        with engine.autocast():
            image = generator(condition, noise)
        generated = pyramid(image.float(), self.scales)
        leaves = [scaled.detach().requires_grad_() for scaled in generated]
        real = pyramid(_images(batch), self.scales)
        conditions = pyramid(condition, self.scales)
        mask = self._mask(batch)

        losses: Losses = {}
        seen: list[tuple[list[Tensor], list[Tensor]]] = []
        with frozen(self.discriminator):
            for scale in range(self.scales):
                for terms in self._generator_terms(
                    scale, leaves[scale], real[scale], conditions[scale], mask, engine, seen
                ):
                    engine.scale(torch.stack(list(terms.values())).sum()).backward()  # type: ignore[no-untyped-call]
                    for name, value in terms.items():
                        losses[name] = losses[name] + value.detach() if name in losses else value.detach()
        torch.autograd.backward(generated, [leaf.grad for leaf in leaves])
        carry = Carry(
            conditions=conditions,
            generated=[leaf.detach() for leaf in leaves],
            real=real,
            generated_features=[ours for ours, _ in seen],
            real_features=[theirs for _, theirs in seen],
            mask=mask,
        )
        return carry, losses

    def _generator_terms(
        self,
        scale: int,
        generated: Tensor,
        real: Tensor,
        condition: Tensor,
        mask: Tensor | None,
        engine: Engine,
        seen: list[tuple[list[Tensor], list[Tensor]]],
    ) -> Iterator[Losses]:
        """Yield one scale's terms of the generator's sum, in groups that share no graph.

        Whoever sends each group backward before asking for the next holds one group's graph at a time. What the
        backbone sees in both images for the discriminator's sake is appended to `seen`, without a graph.
        """
        loss, levels = self.config.loss, self._levels(scale)
        with_perceptual = loss.perceptual > 0 and (scale == 0 or loss.perceptual_scales == "all")
        together = self.eyes.shared and levels > 0
        if with_perceptual and not together:
            with engine.autocast():
                yours, true = self._look(generated, real, levels=0, perceptual=True)
                terms = {"perceptual": loss.perceptual * perceptual_loss(yours.perceptual, true.perceptual)}
            yield terms
            del yours, true, terms
        with engine.autocast():
            ours, theirs = self._look(generated, real, levels=levels, perceptual=with_perceptual and together)
            terms = self._judgement(scale, generated, real, condition, mask, ours.discriminator, theirs.discriminator)
            if with_perceptual and together:
                terms["perceptual"] = loss.perceptual * perceptual_loss(ours.perceptual, theirs.perceptual)
        seen.append(([feature.detach() for feature in ours.discriminator], theirs.discriminator))
        del ours, theirs
        yield terms

    def _look(self, generated: Tensor, real: Tensor, *, levels: int, perceptual: bool) -> tuple[Sight, Sight]:
        """Return what the backbones see in the generated image, with a graph, and in the real one, without."""
        ours = self.eyes(generated, levels=levels, perceptual=perceptual)
        with torch.no_grad():
            theirs = self.eyes(real, levels=levels, perceptual=perceptual)
        return ours, theirs

    def _judgement(
        self,
        scale: int,
        generated: Tensor,
        real: Tensor,
        condition: Tensor,
        mask: Tensor | None,
        ours: list[Tensor],
        theirs: list[Tensor],
    ) -> Losses:
        """Return the terms that come through a discriminator: adversarial (Eq. 24) and feature matching (Eq. 29)."""
        loss = self.config.loss
        judged = self._judge(scale, generated, condition, ours)
        terms = {
            "adversarial": adversarial_loss([judged.predictions], self.generator_term, [self.weights[scale]], mask)
        }
        if loss.feature_matching > 0:
            with torch.no_grad():
                true = self._judge(scale, real, condition, theirs)
            share = 1 / self.scales if loss.feature_matching_reduction == "released" else 1.0
            distance = feature_matching_loss([judged.features], [true.features], loss.feature_matching_reduction)
            terms["feature_matching"] = loss.feature_matching * share * distance
        return terms

    # --- the discriminators' half of a step -----------------------------------------------------------------------

    def discriminator_backward(self, discriminator: nn.Module, carry: Carry, engine: Engine) -> Losses:
        """Judge generated, real and blurred images in one pass (Eq. 25-27, 30).

        Returns:
            `real`, `fake` and, with λ2 > 0, `blurred`: the terms as they enter the sum.
        """
        images, features = [carry.generated, carry.real], [carry.generated_features, carry.real_features]
        if self.config.loss.sharpness > 0:
            soft = pyramid(blurred(carry.real[0], self.config.loss.blur), self.scales)
            with torch.no_grad(), engine.autocast():
                seen = [
                    self.eyes(image, levels=self._levels(scale), perceptual=False).discriminator
                    for scale, image in enumerate(soft)
                ]
            images.append(soft)
            features.append(seen)
        with engine.autocast():
            inputs = [
                torch.cat([torch.cat([carry.conditions[scale], group[scale]], 1) for group in images])
                for scale in range(self.scales)
            ]
            together = [
                [torch.cat(parts) for parts in zip(*(group[scale] for group in features), strict=True)]
                for scale in range(self.scales)
            ]
            outputs: list[ScaleOutput] = discriminator(inputs, together)
            groups = [
                [[level.chunk(len(images))[kind] for level in output.predictions] for output in outputs]
                for kind in range(len(images))
            ]
            losses = self._discriminator_terms(groups, carry.mask)
        engine.scale(torch.stack(list(losses.values())).sum()).backward()  # type: ignore[no-untyped-call]
        return {name: value.detach() for name, value in losses.items()}

    def _discriminator_terms(self, groups: list[list[list[Tensor]]], mask: Tensor | None) -> Losses:
        """Weigh the terms of real, fake and blurred images: the real one counts once more with the blurred (Eq. 30)."""
        loss = self.config.loss
        share = 0.5 if loss.discriminator_halved else 1.0
        if loss.sharpness_normalized:
            share /= 1 + loss.sharpness
        terms = {
            "real": share * (1 + loss.sharpness) * adversarial_loss(groups[1], self.real_term, self.weights, mask),
            "fake": share * adversarial_loss(groups[0], self.fake_term, self.weights, mask),
        }
        if loss.sharpness > 0:
            terms["blurred"] = share * loss.sharpness * adversarial_loss(groups[2], self.fake_term, self.weights, mask)
        return terms

    # --- parts ----------------------------------------------------------------------------------------------------

    def _levels(self, scale: int) -> int:
        return 3 - scale if self.config.discriminator.kind == "hierarchical" else 0

    def _judge(self, scale: int, image: Tensor, condition: Tensor, features: list[Tensor]) -> ScaleOutput:
        """Let one scale's discriminator see (label map, image), as in Eq. 22."""
        networks = self.discriminator.networks
        output: ScaleOutput = networks[scale](torch.cat([condition, image], 1), features)  # type: ignore[index,operator]
        return output

    def _mask(self, batch: Batch) -> Tensor | None:
        """Return the foreground weights of Eq. 9, or None where the rate makes them all one."""
        loss = self.config.loss
        if loss.foreground_rate == 1:
            return None
        mask = foreground_mask(self.label_space.foreground(batch.label, loss.background_ids), loss.foreground_rate)
        return mask if loss.foreground_per_image else mask.mean(0, keepdim=True)

    @property
    def score_names(self) -> tuple[str, ...]:
        """`l1` and, with λ5 > 0, `perceptual`."""
        return ("l1", "perceptual") if self.config.loss.perceptual > 0 else ("l1",)

    @torch.no_grad()
    def validation_scores(self, batch: Batch, generated: Tensor) -> dict[str, Tensor]:
        """Return `l1` (mean absolute difference of pixels in [-1, 1]) and, with λ5 > 0, `perceptual` (Eq. 28, X3)."""
        real = _images(batch)
        scores = {"l1": F.l1_loss(generated, real)}
        if self.config.loss.perceptual > 0:
            ours = self.eyes(generated, levels=0, perceptual=True)
            theirs = self.eyes(real, levels=0, perceptual=True)
            scores["perceptual"] = perceptual_loss(ours.perceptual, theirs.perceptual)
        return scores


def _images(batch: Batch) -> Tensor:
    if batch.image is None:
        raise ValueError("training needs photos beside the label maps")
    return batch.image
