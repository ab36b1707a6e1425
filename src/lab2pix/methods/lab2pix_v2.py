"""Lab2Pix-V2: learning from pairs (4.2); with other settings, every rung of the paired ladder down to SPADE (5.4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.config import Config
from lab2pix.labels import LabelSpace
from lab2pix.losses import adversarial_loss, blurred, feature_matching_loss, perceptual_loss
from lab2pix.methods.adversarial import AdversarialMethod, Carry, draw_first_weights, frozen, generator_settings, photos
from lab2pix.methods.base import Engine, Losses
from lab2pix.methods.conditions import condition_channels, make_condition
from lab2pix.methods.eyes import Sight
from lab2pix.nn.discriminators import downsample
from lab2pix.nn.generators import Lab2PixV2Generator
from lab2pix.nn.init import xavier_init

__all__ = ["Lab2PixV2", "build_v2_generator", "pyramid"]

_CELLS = 8
"""Cells a side, over which light and colour of pictures are compared where one of several is chosen."""


def build_v2_generator(config: Config, label_space: LabelSpace) -> Lab2PixV2Generator:
    """Return the generator of section 2 of the configuration, initialised as the released V2 is or `init_gain` says."""
    generator = Lab2PixV2Generator(condition_channels(config, label_space), **generator_settings(config))
    draw_first_weights(generator, config, xavier_init)
    return generator


def pyramid(image: Tensor, scales: int) -> list[Tensor]:
    """Return X3, X2, ... by repeated 3x3 average pooling with stride 2 (4.2.1)."""
    images = [image]
    for _ in range(scales - 1):
        images.append(downsample(images[-1]))
    return images


class Lab2PixV2(AdversarialMethod):
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
            initialise=xavier_init,
            masks_real=True,
            pretrained=pretrained,
        )
        self.generator: nn.Module = build_v2_generator(config, label_space)
        sizes = {"all": self.scales, "full": 1, "two": 2}
        self.perceptual_scales = sizes[config.loss.perceptual_scales] if config.loss.perceptual > 0 else 0

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
        if self.config.loss.nearest_of > 1:
            noise = self._nearest(generator, condition, noise, photos(batch), engine)
        with engine.autocast():
            image = generator(condition, noise)
        scales = max(self.scales, self.perceptual_scales)
        generated = pyramid(image.float(), scales)
        leaves = [scaled.detach().requires_grad_() for scaled in generated]
        real = pyramid(photos(batch), scales)
        conditions = pyramid(condition, self.scales)
        mask = self._mask(batch)

        losses: Losses = {}
        seen: list[tuple[list[Tensor], list[Tensor]]] = []
        with frozen(self.discriminator):
            for scale in range(scales):
                judged = conditions[scale] if scale < self.scales else None
                for terms in self._generator_terms(scale, leaves[scale], real[scale], judged, mask, engine, seen):
                    engine.scale(torch.stack(list(terms.values())).sum()).backward()  # type: ignore[no-untyped-call]
                    for name, value in terms.items():
                        losses[name] = losses[name] + value.detach() if name in losses else value.detach()
        torch.autograd.backward(generated, [leaf.grad for leaf in leaves])
        carry = Carry(
            conditions=conditions,
            generated=[leaf.detach() for leaf in leaves[: self.scales]],
            real=real[: self.scales],
            generated_features=[ours for ours, _ in seen],
            real_features=[theirs for _, theirs in seen],
            mask=mask,
        )
        return carry, losses

    @torch.no_grad()
    def _nearest(self, generator: nn.Module, condition: Tensor, noise: Tensor, photo: Tensor, engine: Engine) -> Tensor:
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
        cells = min(_CELLS, *photo.shape[-2:])
        target = F.adaptive_avg_pool2d(photo, cells)
        noises = torch.cat([noise, *(torch.randn_like(noise) for _ in range(1, self.config.loss.nearest_of))])
        with engine.autocast():
            images = generator(condition, noises)  # what depends on the label map alone is computed once
        cells_of = torch.unflatten(F.adaptive_avg_pool2d(images.float(), cells), 0, (-1, len(noise)))
        nearest = (cells_of - target).abs().mean((2, 3, 4)).argmin(0)
        return torch.unflatten(noises, 0, (-1, len(noise)))[nearest, torch.arange(len(noise), device=noise.device)]

    def _generator_terms(
        self,
        scale: int,
        generated: Tensor,
        real: Tensor,
        condition: Tensor | None,
        mask: Tensor | None,
        engine: Engine,
        seen: list[tuple[list[Tensor], list[Tensor]]],
    ) -> Iterator[Losses]:
        """Yield one scale's terms of the generator's sum, in groups that share no graph.

        Whoever sends each group backward before asking for the next holds one group's graph at a time. What the
        backbone sees in both images for the discriminator's sake is appended to `seen`, without a graph. A scale
        without a condition has no discriminator, and the perceptual loss alone.
        """
        loss, levels = self.config.loss, self._levels(scale)
        with_perceptual = scale < self.perceptual_scales
        together = self.eyes.shared and levels > 0
        if with_perceptual and not together:
            with engine.autocast():
                yours, true = self._look(generated, real, levels=0, perceptual=True)
                terms = {"perceptual": loss.perceptual * perceptual_loss(yours.perceptual, true.perceptual)}
            yield terms
            del yours, true, terms
        if condition is None:
            return
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
        judged = self._judge(scale, torch.cat([condition, generated], 1), ours)
        terms = {
            "adversarial": adversarial_loss([judged.predictions], self.generator_term, [self.weights[scale]], mask)
        }
        if loss.feature_matching > 0:
            with torch.no_grad():
                true = self._judge(scale, torch.cat([condition, real], 1), theirs)
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
        real = photos(batch)
        scores = {"l1": F.l1_loss(generated, real)}
        if self.config.loss.perceptual > 0:
            ours = self.eyes(generated, levels=0, perceptual=True)
            theirs = self.eyes(real, levels=0, perceptual=True)
            scores["perceptual"] = perceptual_loss(ours.perceptual, theirs.perceptual)
        return scores
