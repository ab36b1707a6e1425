"""Lab2Pix-V2: paired learning (4.2); with other settings, every step of the paired ablation down to SPADE (5.4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.errors import ConfigError
from lab2pix.labels.space import LabelSpace
from lab2pix.losses import (
    adversarial_loss,
    blurred,
    cycle_segmentation_loss,
    feature_matching_loss,
    perceptual_loss,
)
from lab2pix.methods.backprop import ImageGradients
from lab2pix.methods.base import Losses, StepContext
from lab2pix.methods.features import Features
from lab2pix.methods.gan import (
    AdversarialLossConfig,
    GeneratorOutputs,
    HierarchicalGAN,
    HierarchicalGANConfig,
    LossVariant,
    frozen_parameters,
    generator_kwargs,
    init_weights,
    require_images,
)
from lab2pix.methods.sampling import Condition, Sampling
from lab2pix.nn.discriminators import downsample
from lab2pix.nn.generators import Lab2PixV2Generator
from lab2pix.nn.init import xavier_init
from lab2pix.nn.reader import FeatureReader

__all__ = ["Lab2PixV2", "Lab2PixV2Config", "pyramid"]

_IMLE_GRID = 8
"""Cells per side over which light and color of images are compared where one of several is chosen."""

# --- settings ---------------------------------------------------------------------------------------------------------


class V2LossConfig(AdversarialLossConfig):
    """The loss terms and their weights (Eq. 31)."""

    perceptual: float = Field(10.0, ge=0, description="λ5: weight of the perceptual loss (Eq. 28); 0: off.")
    feature_matching: float = Field(10.0, ge=0, description="λ6: weight of feature matching (Eq. 29); 0: off.")
    imle_candidates: int = Field(
        1,
        ge=1,
        description="Not in the paper: images generated of each label map in a step, of which the one nearest to the "
        "photo learns, so that noise comes to mean light and color; 1: off, and noise may come to change little.",
    )
    cycle: float = Field(
        0.0,
        ge=0,
        description="Not in the paper: weight of cycle segmentation with a head on the perceptual network that learns "
        "to segment the photos; 0: off.",
    )


class Lab2PixV2Config(HierarchicalGANConfig):
    """Settings of Lab2Pix-V2."""

    method: Literal["lab2pix-v2"] = Field("lab2pix-v2", description="Lab2Pix-V2: paired.")
    loss: V2LossConfig = V2LossConfig()

    def check_rules(self) -> None:
        """Check losses against each other and against the generator, and the image size."""
        if self.loss.cycle > 0 and self.loss.perceptual == 0:
            raise ConfigError(
                "loss.cycle segments the features of the perceptual loss, but loss.perceptual is 0; set loss.cycle=0 "
                "or loss.perceptual above 0"
            )
        if self.loss.imle_candidates > 1 and self.generator.input == "label":
            raise ConfigError(
                "loss.imle_candidates chooses among images of different noise, but generator.input is 'label', which "
                "takes none; set loss.imle_candidates=1 or generator.input=noise"
            )
        super().check_rules()


@dataclass(frozen=True)
class V2LossVariant(LossVariant):
    """Where the paper and the official code differ.

    Attributes:
        perceptual_at_full_size: perceptual loss at the full size only, or at every scale (Eq. 28).
        feature_matching: mean over layers and sum over scales (Eq. 29), or sum over layers and mean over scales.
    """

    perceptual_at_full_size: bool = False
    feature_matching: Literal["mean", "released"] = "mean"


# --- the method -------------------------------------------------------------------------------------------------------


def pyramid(image: Tensor, scales: int) -> list[Tensor]:
    """Return X3, X2, ... by repeated 3x3 average pooling with stride 2 (4.2.1)."""
    images = [image]
    for _ in range(scales - 1):
        images.append(downsample(images[-1]))
    return images


@dataclass(frozen=True)
class _Scale:
    """One scale of a step: images with and without gradient, and what the losses compare them by.

    Attributes:
        index: 0 for the full size.
        generated, real: `[N, 3, h, w]`.
        condition: label map `[N, C, h, w]`.
        photo: features of the real image where they have been computed.
    """

    index: int
    generated: Tensor
    real: Tensor
    condition: Tensor
    photo: Features | None


class Lab2PixV2(HierarchicalGAN):
    """The paired method of section 4.2, with its losses weighed as in Eq. 31.

    A step computes nothing twice: the generator runs once; its gradient is collected at the image, scale by scale and
    network by network, so that no two of their graphs are in memory together; the discriminators see generated, real
    and blurred images in one pass; a backbone sees each image once.
    """

    name: ClassVar[str] = "lab2pix-v2"
    Config = Lab2PixV2Config
    variants: ClassVar[Mapping[str, V2LossVariant]] = {
        "paper": V2LossVariant(),
        "official": V2LossVariant(
            reduction="released",
            halved=False,
            sharpness_normalized=True,
            foreground_per_image=False,
            normalize=False,
            perceptual_at_full_size=True,
            feature_matching="released",
        ),
    }
    config: Lab2PixV2Config
    variant: V2LossVariant

    def __init__(self, config: Lab2PixV2Config, label_space: LabelSpace, *, pretrained: bool = True) -> None:
        super().__init__(
            config,
            label_space,
            channels=self.build_sampling(config, label_space).condition.channels + 3,
            losses=config.loss.perceptual > 0,
            initialize=xavier_init,
            masks_real=True,
            pretrained=pretrained,
        )
        generator = self.build_generator(config, label_space)
        full_size = 1 if self.variant.perceptual_at_full_size else self.scales
        self.perceptual_scales = full_size if config.loss.perceptual > 0 else 0
        self.head: nn.Module | None = None
        if config.loss.cycle > 0:
            self.head = FeatureReader(self.feature_extractors.perceptual_channels, label_space.num_classes)
        learners = {} if self.head is None else {"segmentation_head": self.head}
        self.networks = {"generator": generator, **learners, **self.networks}

    @classmethod
    def build_sampling(cls, config: Lab2PixV2Config, label_space: LabelSpace) -> Sampling:
        """Return how images are sampled: from one-hot classes, with noise unless the label map is the start."""
        settings = config.generator
        return Sampling(
            Condition(label_space, edges=config.data.instance_edges),
            size_multiple=2**settings.num_upsamples,
            noise_channels=0 if settings.input == "label" else settings.noise_dim,
        )

    @classmethod
    def build_generator(cls, config: Lab2PixV2Config, label_space: LabelSpace) -> nn.Module:
        """Return the generator, initialized as in the official code or as `train.init_gain` says."""
        channels = cls.build_sampling(config, label_space).condition.channels
        generator = Lab2PixV2Generator(channels, **generator_kwargs(config))
        init_weights(generator, config, xavier_init)
        return generator

    # --- the generator's half of a step -------------------------------------------------------------------------------

    def generator_backward(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Generate once, collect the losses' gradient at the image scale by scale, and send it through the generator.

        Returns:
            `adversarial` (Eq. 24), `perceptual` (Eq. 28) and `feature_matching` (Eq. 29) as they enter the sum, each
            where its weight is not 0; with λ4 > 0 also `cycle`, the segmentation error of the generated image, and
            `seg_loss_real`, that of the photo.
        """
        condition, photo = self.sampling.condition(batch), require_images(batch)
        if self.config.loss.imle_candidates > 1:
            assert noise is not None
            noise = self._select_imle_noise(condition, noise, photo, context)
        photo_features, logits = None, None
        with context.autocast():
            image = self.networks["generator"](condition, noise)
            if self.head is not None:
                with torch.no_grad():
                    photo_features = self.feature_extractors(photo, levels=self._num_feature_levels(0), perceptual=True)
                logits = self.head(photo_features.perceptual)
        gradients = ImageGradients(pyramid(image.float(), self.scales), context.scale)
        real, conditions = pyramid(photo, self.scales), pyramid(condition, self.scales)
        mask = self._mask(batch)
        features: list[tuple[list[Tensor], list[Tensor]]] = []
        with ExitStack() as stack:
            for network in (self.networks["discriminator"], *([] if self.head is None else [self.head])):
                stack.enter_context(frozen_parameters(network))
            for index, (generated, true, label) in enumerate(zip(gradients.leaves, real, conditions, strict=True)):
                scale = _Scale(index, generated, true, label, photo_features if index == 0 else None)
                for terms in self._generator_terms(scale, batch.label, mask, context, features):
                    gradients.backward(terms)
        read = {} if logits is None else {"seg_loss_real": cycle_segmentation_loss([logits], batch.label, self.ignored)}
        gradients.flush(read)
        context.cache["outputs"] = GeneratorOutputs(
            conditions=conditions,
            generated=[leaf.detach() for leaf in gradients.leaves],
            real=real,
            generated_features=[ours for ours, _ in features],
            real_features=[theirs for _, theirs in features],
            mask=mask,
        )
        return gradients.losses

    @torch.no_grad()
    def _select_imle_noise(self, condition: Tensor, noise: Tensor, photo: Tensor, context: StepContext) -> Tensor:
        """Return for each sample, of several noises, the one whose image is nearest to the photo in light and color.

        The losses that compare with the photo ask every noise for the same image. Asking only the nearest noise leaves
        the others free for what the label map does not say: implicit maximum likelihood estimation (Li et al., 2020),
        not in the paper.

        Args:
            condition: `[N, C, H, W]`.
            noise: `[N, noise_dim]`, the first candidates.
            photo: `[N, 3, H, W]` in [-1, 1].
            context: how passes run.
        """
        cells = min(_IMLE_GRID, *photo.shape[-2:])
        target = F.adaptive_avg_pool2d(photo, cells)
        more = [context.random.normal(*noise.shape) for _ in range(1, self.config.loss.imle_candidates)]
        noises = torch.cat([noise, *more])
        with context.autocast():
            # What depends on the label map alone is computed once.
            images: Tensor = self.networks["generator"](condition, noises)
        pooled = torch.unflatten(F.adaptive_avg_pool2d(images.float(), cells), 0, (-1, len(noise)))
        nearest = (pooled - target).abs().mean((2, 3, 4)).argmin(0)
        return torch.unflatten(noises, 0, (-1, len(noise)))[nearest, torch.arange(len(noise), device=noise.device)]

    def _generator_terms(
        self,
        scale: _Scale,
        label: Tensor,
        mask: Tensor | None,
        context: StepContext,
        features: list[tuple[list[Tensor], list[Tensor]]],
    ) -> Iterator[Losses]:
        """Yield one scale's terms of the generator's sum, in groups that share no graph.

        Sending each group back before the next is computed keeps one group's graph in memory. The backbone's features
        of both images for the discriminator are appended to `features`, without a graph.
        """
        levels = self._num_feature_levels(scale.index)
        perceptual = scale.index < self.perceptual_scales
        one_pass = self.feature_extractors.shared and levels > 0
        if perceptual and not one_pass:
            with context.autocast():
                terms = self._reconstruction_losses(scale, *self._extract_pair(scale, 0, True), label)
            yield terms
            del terms
        with context.autocast():
            ours, theirs = self._extract_pair(scale, levels, perceptual and one_pass)
            terms = self._discriminator_losses(scale, mask, ours.discriminator, theirs.discriminator)
            if perceptual and one_pass:
                terms |= self._reconstruction_losses(scale, ours, theirs, label)
        features.append(([feature.detach() for feature in ours.discriminator], theirs.discriminator))
        del ours, theirs
        yield terms

    def _extract_pair(self, scale: _Scale, levels: int, perceptual: bool) -> tuple[Features, Features]:
        """Return features of the generated image, with a graph, and of the real one, without."""
        ours = self.feature_extractors(scale.generated, levels=levels, perceptual=perceptual)
        if scale.photo is not None:
            return ours, scale.photo
        with torch.no_grad():
            theirs = self.feature_extractors(scale.real, levels=levels, perceptual=perceptual)
        return ours, theirs

    def _reconstruction_losses(self, scale: _Scale, ours: Features, theirs: Features, label: Tensor) -> Losses:
        """Return the terms without a discriminator: perceptual (Eq. 28) and, at the full size, cycle segmentation."""
        loss = self.config.loss
        terms = {"perceptual": loss.perceptual * perceptual_loss(ours.perceptual, theirs.perceptual)}
        if scale.index == 0 and self.head is not None:
            logits = self.head(ours.perceptual)
            terms["cycle"] = loss.cycle * cycle_segmentation_loss([logits], label, self.ignored)
        return terms

    def _discriminator_losses(
        self, scale: _Scale, mask: Tensor | None, ours: list[Tensor], theirs: list[Tensor]
    ) -> Losses:
        """Return the terms that come through a discriminator: adversarial (Eq. 24) and feature matching (Eq. 29)."""
        loss, index = self.config.loss, scale.index
        output = self._discriminate(index, torch.cat([scale.condition, scale.generated], 1), ours)
        terms = {
            "adversarial": adversarial_loss([output.predictions], self.generator_term, [self.weights[index]], mask)
        }
        if loss.feature_matching > 0:
            with torch.no_grad():
                true = self._discriminate(index, torch.cat([scale.condition, scale.real], 1), theirs)
            reduction = self.variant.feature_matching
            share = 1.0 if reduction == "mean" else 1 / self.scales
            distance = feature_matching_loss([output.features], [true.features], reduction)
            terms["feature_matching"] = loss.feature_matching * share * distance
        return terms

    def blurred_images(self, real: Sequence[Tensor]) -> list[Tensor]:
        """Return the photo halved and doubled, and its smaller forms."""
        return pyramid(blurred(real[0]), self.scales)

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
