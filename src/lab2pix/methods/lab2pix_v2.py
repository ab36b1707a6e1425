"""Lab2Pix-V2: learning from pairs (4.2); with other settings, every rung of the paired ladder down to SPADE (5.4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.config.schema import Config
from lab2pix.labels.space import LabelSpace
from lab2pix.losses import (
    adversarial_loss,
    blurred,
    cycle_segmentation_loss,
    feature_matching_loss,
    perceptual_loss,
)
from lab2pix.methods.base import Losses, StepContext
from lab2pix.methods.features import Features
from lab2pix.methods.gan import (
    Carry,
    HierarchicalGAN,
    frozen_parameters,
    generator_settings,
    init_weights,
    require_images,
)
from lab2pix.methods.sampling import condition_channels, encode_condition
from lab2pix.nn.discriminators import downsample
from lab2pix.nn.generators import Lab2PixV2Generator
from lab2pix.nn.init import xavier_init
from lab2pix.nn.segmentation import FPNHead

__all__ = ["GeneratorStep", "GeneratorWithSegmentationHead", "Lab2PixV2", "build_v2_generator", "pyramid"]

_IMLE_GRID = 8
"""Cells a side, over which light and colour of pictures are compared where one of several is chosen."""


def build_v2_generator(config: Config, label_space: LabelSpace) -> Lab2PixV2Generator:
    """Return the generator of section 2 of the configuration, initialised as the released V2 is or `init_gain` says."""
    generator = Lab2PixV2Generator(condition_channels(config, label_space), generator_settings(config))
    generator.set_grad_checkpointing(config.train.gradient_checkpointing)
    init_weights(generator, config, xavier_init)
    return generator


def pyramid(image: Tensor, scales: int) -> list[Tensor]:
    """Return X3, X2, ... by repeated 3x3 average pooling with stride 2 (4.2.1)."""
    images = [image]
    for _ in range(scales - 1):
        images.append(downsample(images[-1]))
    return images


class GeneratorWithSegmentationHead(nn.Module):
    """The generator and what reads label maps in photos: they learn together, as one player.

    Args:
        generator: draws.
        reader: reads label maps off a backbone's features.
    """

    def __init__(self, generator: nn.Module, reader: nn.Module) -> None:
        super().__init__()
        self.generator = generator
        self.reader = reader

    def forward(
        self, condition: Tensor, noise: Tensor, features: Sequence[Tensor] = ()
    ) -> tuple[Tensor, Tensor | None]:
        """Return pictures, and what is read in the photos whose features are given (`[N, classes, h, w]` logits)."""
        return self.generator(condition, noise), self.reader(features) if features else None


@dataclass(frozen=True)
class GeneratorStep:
    """What the terms of a generator's pass have in common.

    Attributes:
        label: ids, `[N, H, W]`.
        mask: foreground weights, or None.
        engine: how passes run.
        photo: what the backbones see in the photos, where somebody has looked already.
        seen: what they see in generated and real images for the discriminators' sake, scale by scale.
    """

    label: Tensor
    mask: Tensor | None
    engine: StepContext
    photo: Features | None
    seen: list[tuple[list[Tensor], list[Tensor]]] = field(default_factory=list)


class Lab2PixV2(HierarchicalGAN):
    """The paired method of section 4.2, with its losses weighed as in Eq. 31.

    A step computes nothing twice: the generator runs once; its gradient is gathered at the image, scale by scale and
    network by network, so that no two of their graphs are in memory together; the discriminators judge generated, real
    and blurred images in one pass; a backbone sees each image once.
    """

    name: ClassVar[str] = "lab2pix-v2"

    def __init__(self, config: Config, label_space: LabelSpace, *, pretrained: bool = True) -> None:
        super().__init__(
            config,
            label_space,
            channels=condition_channels(config, label_space) + 3,
            initialize=xavier_init,
            masks_real=True,
            pretrained=pretrained,
        )
        self.generator: nn.Module = build_v2_generator(config, label_space)
        sizes = {"all": self.scales, "full": 1, "two": 2}
        self.perceptual_scales = sizes[config.loss.perceptual_scales] if config.loss.perceptual > 0 else 0
        self.drawer: GeneratorWithSegmentationHead | None = None
        if config.loss.cycle > 0:
            reader = FPNHead(self.feature_extractors.perceptual_channels, label_space.num_classes)
            # Its own name, as validation puts the averaged generator in the place of the trained one for a while.
            self.drawer = GeneratorWithSegmentationHead(self.generator, reader)

    @property
    def compile_targets(self) -> Sequence[nn.Module]:
        """The generator, the reader where there is one, and the discriminator of each scale."""
        return [*super().compile_targets, *([] if self.drawer is None else [self.drawer.reader])]

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """The generator, with its reader where there is one, and the discriminators."""
        return {
            "generator": self.generator if self.drawer is None else self.drawer,
            "discriminator": self.discriminator,
        }

    # --- the generator's half of a step ---------------------------------------------------------------------------

    def generator_backward(
        self, generator: nn.Module, batch: Batch, noise: Tensor, engine: StepContext
    ) -> tuple[Carry, Losses]:
        """Generate once, gather the losses' gradient at the image scale by scale, and send it through the generator.

        Returns:
            What the discriminators' pass needs, and `adversarial` (Eq. 24), `perceptual` (Eq. 28) and
            `feature_matching` (Eq. 29) as they enter the sum, each where its weight is not 0; with λ4 > 0 also `cycle`,
            what is misread in the picture, and `reading`, what is misread in the photo.
        """
        condition = encode_condition(self.config, self.label_space, batch)
        if self.config.loss.nearest_of > 1:
            noise = self._select_imle_noise(generator, condition, noise, require_images(batch), engine)
        sight, read = None, None
        with engine.autocast():
            if self.drawer is None:
                image = generator(condition, noise)
            else:
                with torch.no_grad():
                    sight = self.feature_extractors(
                        require_images(batch), levels=self._num_feature_levels(0), perceptual=True
                    )
                image, read = generator(condition, noise, sight.perceptual)
        scales = max(self.scales, self.perceptual_scales)
        generated = pyramid(image.float(), scales)
        leaves = [scaled.detach().requires_grad_() for scaled in generated]
        real = pyramid(require_images(batch), scales)
        conditions = pyramid(condition, self.scales)

        losses: Losses = {}
        turn = GeneratorStep(batch.label, self._mask(batch), engine, sight)
        with (
            frozen_parameters(self.discriminator),
            nullcontext() if self.drawer is None else frozen_parameters(self.drawer.reader),
        ):
            for scale in range(scales):
                judged = conditions[scale] if scale < self.scales else None
                for terms in self._generator_terms(scale, leaves[scale], real[scale], judged, turn):
                    engine.scale(torch.stack(list(terms.values())).sum()).backward()  # type: ignore[no-untyped-call]
                    for name, value in terms.items():
                        losses[name] = losses[name] + value.detach() if name in losses else value.detach()
        ends, gradients = list(generated), [leaf.grad for leaf in leaves]
        if read is not None:
            reading = cycle_segmentation_loss([read], batch.label, self.ignored)
            losses["reading"] = reading.detach()
            ends.append(engine.scale(reading))
            gradients.append(None)
        torch.autograd.backward(ends, gradients)
        carry = Carry(
            conditions=conditions,
            generated=[leaf.detach() for leaf in leaves[: self.scales]],
            real=real[: self.scales],
            generated_features=[ours for ours, _ in turn.seen],
            real_features=[theirs for _, theirs in turn.seen],
            mask=turn.mask,
        )
        return carry, losses

    @torch.no_grad()
    def _select_imle_noise(
        self, generator: nn.Module, condition: Tensor, noise: Tensor, photo: Tensor, engine: StepContext
    ) -> Tensor:
        """Return for each sample, of several noises, the one whose picture has light and colour most like the photo's.

        The losses that compare with the photo ask every noise for the same picture. Asking only the noise that comes
        nearest leaves the others free for what the label map does not say: implicit maximum likelihood estimation (Li
        et al., 2020), not in the paper.

        Args:
            generator: as it is called in training.
            condition: `[N, C, H, W]`.
            noise: `[N, noise_dim]`, the first of them.
            photo: `[N, 3, H, W]` in [-1, 1].
            engine: how passes run.
        """
        cells = min(_IMLE_GRID, *photo.shape[-2:])
        target = F.adaptive_avg_pool2d(photo, cells)
        noises = torch.cat([noise, *(torch.randn_like(noise) for _ in range(1, self.config.loss.nearest_of))])
        with engine.autocast():
            drawn = generator(condition, noises)  # what depends on the label map alone is computed once
        images = drawn if self.drawer is None else drawn[0]
        cells_of = torch.unflatten(F.adaptive_avg_pool2d(images.float(), cells), 0, (-1, len(noise)))
        nearest = (cells_of - target).abs().mean((2, 3, 4)).argmin(0)
        return torch.unflatten(noises, 0, (-1, len(noise)))[nearest, torch.arange(len(noise), device=noise.device)]

    def _generator_terms(
        self, scale: int, generated: Tensor, real: Tensor, condition: Tensor | None, turn: GeneratorStep
    ) -> Iterator[Losses]:
        """Yield one scale's terms of the generator's sum, in groups that share no graph.

        Whoever sends each group backward before asking for the next holds one group's graph at a time. What the
        backbone sees in both images for the discriminator's sake is appended to `turn.seen`, without a graph. A scale
        without a condition has no discriminator, and the perceptual loss alone.
        """
        engine, levels = turn.engine, self._num_feature_levels(scale)
        with_perceptual = scale < self.perceptual_scales
        together = self.feature_extractors.shared and levels > 0
        photo = turn.photo if scale == 0 else None
        if with_perceptual and not together:
            with engine.autocast():
                yours, true = self._extract_pair(generated, real, levels=0, perceptual=True, photo=photo)
                terms = self._reconstruction_losses(scale, yours, true, turn)
            yield terms
            del yours, true, terms
        if condition is None:
            return
        with engine.autocast():
            ours, theirs = self._extract_pair(
                generated, real, levels=levels, perceptual=with_perceptual and together, photo=photo
            )
            terms = self._discriminator_losses(
                scale, generated, real, condition, turn, ours.discriminator, theirs.discriminator
            )
            if with_perceptual and together:
                terms |= self._reconstruction_losses(scale, ours, theirs, turn)
        turn.seen.append(([feature.detach() for feature in ours.discriminator], theirs.discriminator))
        del ours, theirs
        yield terms

    def _extract_pair(
        self, generated: Tensor, real: Tensor, *, levels: int, perceptual: bool, photo: Features | None = None
    ) -> tuple[Features, Features]:
        """Return what the backbones see in the generated image, with a graph, and in the real one, without."""
        ours = self.feature_extractors(generated, levels=levels, perceptual=perceptual)
        if photo is not None:
            return ours, photo
        with torch.no_grad():
            theirs = self.feature_extractors(real, levels=levels, perceptual=perceptual)
        return ours, theirs

    def _reconstruction_losses(self, scale: int, ours: Features, theirs: Features, turn: GeneratorStep) -> Losses:
        """Return the terms that need no discriminator: perceptual (Eq. 28) and, at the full size, what is misread."""
        loss = self.config.loss
        terms = {"perceptual": loss.perceptual * perceptual_loss(ours.perceptual, theirs.perceptual)}
        if scale == 0 and self.drawer is not None:
            logits = self.drawer.reader(ours.perceptual)
            terms["cycle"] = loss.cycle * cycle_segmentation_loss([logits], turn.label, self.ignored)
        return terms

    def _discriminator_losses(
        self,
        scale: int,
        generated: Tensor,
        real: Tensor,
        condition: Tensor,
        turn: GeneratorStep,
        ours: list[Tensor],
        theirs: list[Tensor],
    ) -> Losses:
        """Return the terms that come through a discriminator: adversarial (Eq. 24) and feature matching (Eq. 29)."""
        loss = self.config.loss
        judged = self._discriminate(scale, torch.cat([condition, generated], 1), ours)
        terms = {
            "adversarial": adversarial_loss([judged.predictions], self.generator_term, [self.weights[scale]], turn.mask)
        }
        if loss.feature_matching > 0:
            with torch.no_grad():
                true = self._discriminate(scale, torch.cat([condition, real], 1), theirs)
            share = 1 / self.scales if loss.feature_matching_reduction == "released" else 1.0
            distance = feature_matching_loss([judged.features], [true.features], loss.feature_matching_reduction)
            terms["feature_matching"] = loss.feature_matching * share * distance
        return terms

    def blurred_images(self, real: Sequence[Tensor]) -> list[Tensor]:
        """Return the photo halved and doubled, and its smaller forms."""
        return pyramid(blurred(real[0], self.config.loss.blur), self.scales)

    # --- scores ---------------------------------------------------------------------------------------------------

    @property
    def score_names(self) -> tuple[str, ...]:
        """`l1` and, with λ5 > 0, `perceptual`."""
        return ("l1", "perceptual") if self.config.loss.perceptual > 0 else ("l1",)

    @torch.no_grad()
    def validation_scores(self, batch: Batch, generated: Tensor) -> dict[str, Tensor]:
        """Return `l1` (mean absolute difference of pixels in [-1, 1]) and, with λ5 > 0, `perceptual` (Eq. 28, X3)."""
        real = require_images(batch)
        scores = {"l1": F.l1_loss(generated, real)}
        if self.config.loss.perceptual > 0:
            ours = self.feature_extractors(generated, levels=0, perceptual=True)
            theirs = self.feature_extractors(real, levels=0, perceptual=True)
            scores["perceptual"] = perceptual_loss(ours.perceptual, theirs.perceptual)
        return scores
