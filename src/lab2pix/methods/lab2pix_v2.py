"""Lab2Pix-V2: paired label-to-image synthesis (4.2), including every step of the paired ablation from SPADE (5.4)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.config.schema import DataConfig
from lab2pix.data.transforms import instance_edges
from lab2pix.errors import CheckpointError, ConfigError
from lab2pix.interop.conversion import CheckpointFormat, ConversionOptions, Converted, fit_label_space
from lab2pix.interop.keymap import SPECTRAL_NORM, Rules, load_renamed
from lab2pix.interop.spade_weights import NUM_UPSAMPLES, choose_geometry, generator_rules, infer_generator_settings
from lab2pix.interop.vectors import (
    TOLERANCE,
    Row,
    Vectors,
    check_case,
    compare,
    compare_losses,
    compare_value,
    failure,
    gradient_norm,
    one_by_one,
    recorded_choice,
)
from lab2pix.labels.space import LabelSpace
from lab2pix.losses import (
    ADVERSARIAL_TERMS,
    FeatureMatchingReduction,
    adversarial_loss,
    blur,
    cycle_segmentation_loss,
    feature_matching_loss,
    foreground_weights,
    level_weights,
    perceptual_loss,
)
from lab2pix.methods.augmentation import AugmentConfig, DiffAugment, random_offsets, shift
from lab2pix.methods.backprop import ImageGradients, backward
from lab2pix.methods.base import Losses, StepContext, require_images
from lab2pix.methods.hierarchical_gan import (
    AdversarialLossConfig,
    GeneratorOutputs,
    GlobalEncoderConfig,
    HierarchicalGAN,
    HierarchicalGANConfig,
    HierarchicalGANGeneratorConfig,
    LossVariant,
    frozen_and_cached,
    generator_settings,
    init_from_config,
)
from lab2pix.methods.sampling import Condition, Sampling
from lab2pix.methods.segmentation_discriminator import SegmentationDiscriminatorLoss
from lab2pix.methods.segmentation_gan import SegmenterConfig
from lab2pix.nn.backbones import Backbone, BackboneFeatures
from lab2pix.nn.discriminators import MultiScaleDiscriminator, ScaleOutput, downsample, num_levels, pyramid
from lab2pix.nn.fast import accelerate, fuse
from lab2pix.nn.generators import GeneratorSettings, Lab2PixV2Generator
from lab2pix.nn.init import xavier_init
from lab2pix.nn.segmentation import FPNHead

_IMLE_GRID = 8
"""Cells per side of the average-pooled images that IMLE compares."""

# --- settings -------------------------------------------------------------------------------------------------------


class V2GeneratorConfig(HierarchicalGANGeneratorConfig):
    """Generator (3.1, 4.2.1)."""

    upsample: Literal["nearest", "bilinear"] = Field(
        "nearest",
        description="Upsampling between the blocks: nearest, or, not in the paper, bilinear, which leaves less of a "
        "pattern of two pixels in images.",
    )


class V2LossConfig(AdversarialLossConfig):
    """Loss terms and weights (Eq. 31)."""

    perceptual: float = Field(10.0, ge=0, description="λ5: weight of the perceptual loss (Eq. 28); 0: off.")
    feature_matching: float = Field(10.0, ge=0, description="λ6: weight of feature matching (Eq. 29); 0: off.")
    imle_candidates: int = Field(
        1,
        ge=1,
        description="Not in the paper: images per label map in a step, of which only the one nearest to the real "
        "image is trained, so that the noise controls light and color; 1: off, and the generator may ignore noise.",
    )
    cycle: float = Field(
        0.0,
        ge=0,
        description="Not in the paper: weight of cycle segmentation by a head on the perceptual network, which is "
        "trained on real images; 0: off.",
    )
    segmentation: float = Field(
        0.0,
        ge=0,
        description="Not in the paper: weight of a segmentation discriminator's loss, as in OASIS, beside the others: "
        "a cross-entropy over the classes, balanced by their areas, and fake; 0: off.",
    )
    labelmix: float = Field(
        0.0,
        ge=0,
        description="Weight of LabelMix on the segmentation discriminator, relative to `segmentation`: consistency "
        "of its logits with those of mixed images; 0: off.",
    )


class Lab2PixV2Config(HierarchicalGANConfig):
    """Settings of Lab2Pix-V2."""

    method: Literal["lab2pix-v2"] = Field("lab2pix-v2", description="Lab2Pix-V2: paired.")
    generator: V2GeneratorConfig = V2GeneratorConfig()
    loss: V2LossConfig = V2LossConfig()
    augment: AugmentConfig = AugmentConfig()
    segmentation_discriminator: SegmenterConfig = SegmenterConfig()

    @property
    def size_rule(self) -> tuple[int, int]:
        """Divisor of valid sides, also for the segmentation discriminator, and the smallest one."""
        divisor, least = super().size_rule
        return max(divisor, 2 ** len(self.segmentation_discriminator.widths) * (self.loss.segmentation > 0)), least

    def check_rules(self) -> None:
        """Check losses, generator and image size against each other."""
        if self.loss.cycle > 0 and self.loss.perceptual == 0:
            raise ConfigError(
                "loss.cycle segments the features of the perceptual loss, but loss.perceptual is 0; set loss.cycle=0 "
                "or loss.perceptual above 0"
            )
        if self.loss.imle_candidates > 1 and self.generator.input == "label":
            raise ConfigError(
                "loss.imle_candidates needs noise, but generator.input is 'label', which uses none; set "
                "loss.imle_candidates=1 or generator.input=noise"
            )
        if self.loss.labelmix > 0 and self.loss.segmentation == 0:
            raise ConfigError(
                "loss.labelmix mixes images for the segmentation discriminator, but loss.segmentation is 0; set "
                "loss.labelmix=0 or loss.segmentation above 0"
            )
        if self.augment.shift >= min(self.data.size):
            raise ConfigError(
                f"augment.shift is {self.augment.shift}, but images of data.size={list(self.data.size)} can shift by "
                f"less than {min(self.data.size)} pixels; lower it"
            )
        super().check_rules()


@dataclass(frozen=True)
class V2LossVariant(LossVariant):
    """Differences between the paper and the official code.

    Attributes:
        perceptual_at_full_size: whether the perceptual loss applies only at full size, or at every scale (Eq. 28).
        feature_matching: mean over layers and sum over scales (Eq. 29), or sum over layers and mean over scales.
    """

    perceptual_at_full_size: bool = False
    feature_matching: FeatureMatchingReduction = "layer-mean"


# --- the method -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scale:
    """Inputs of the generator losses at one scale.

    Attributes:
        index: index of the scale, 0 for full size.
        generated, real: images `[N, 3, h, w]`, as the discriminators see them.
        condition: label map `[N, C, h, w]`, as the discriminators see it.
        real_features: features of the real image before DiffAugment, if computed already.
        unaugmented: both images before DiffAugment, for the losses against the real image; None without it.
    """

    index: int
    generated: Tensor
    real: Tensor
    condition: Tensor
    real_features: BackboneFeatures | None
    unaugmented: tuple[Tensor, Tensor] | None = None


class Lab2PixV2(HierarchicalGAN):
    """Lab2Pix-V2, the paired method (4.2), with the weighted losses of Eq. 31.

    A step computes nothing twice: the generator runs once; gradients are accumulated at the image, scale by scale and
    network by network, so that only one of their graphs is in memory; discriminators run once on generated, real and
    blurred images; backbone features are computed once per image.
    """

    name: ClassVar[str] = "lab2pix-v2"
    Config = Lab2PixV2Config
    variants: ClassVar[Mapping[str, V2LossVariant]] = {
        "paper": V2LossVariant(),
        "official": V2LossVariant(
            reduction="official",
            halved=False,
            sharpness_normalized=True,
            foreground_per_image=False,
            normalize=False,
            perceptual_at_full_size=True,
            feature_matching="scale-mean",
        ),
    }
    config: Lab2PixV2Config
    variant: V2LossVariant

    def __init__(self, config: Lab2PixV2Config, label_space: LabelSpace, *, pretrained: bool = True) -> None:
        super().__init__(
            config,
            label_space,
            channels=self.build_sampling(config, label_space).condition.channels + 3,
            loss_features=config.loss.perceptual > 0,
            default_init=xavier_init,
            mask_real=True,
            pretrained=pretrained,
        )
        generator = self.build_generator(config, label_space)
        full_size = 1 if self.variant.perceptual_at_full_size else self.scales
        self.perceptual_scales = full_size if config.loss.perceptual > 0 else 0
        self.head: nn.Module | None = None
        if config.loss.cycle > 0:
            self.head = FPNHead(self.feature_extractors.perceptual_channels, label_space.num_classes)
        learners = {} if self.head is None else {"segmentation_head": self.head}
        self.networks = {"generator": generator, **learners, **self.networks}
        self.segmentation: SegmentationDiscriminatorLoss | None = None
        if config.loss.segmentation > 0:
            loss = config.loss
            settings = config.segmentation_discriminator
            self.segmentation = SegmentationDiscriminatorLoss(settings, label_space, loss.segmentation, loss.labelmix)
            init_from_config(self.segmentation.network, config, xavier_init)
            self.networks["segmentation_discriminator"] = self.segmentation.network
            self.discriminators = ("discriminator", "segmentation_discriminator")

    @classmethod
    def build_sampling(cls, config: Lab2PixV2Config, label_space: LabelSpace) -> Sampling:
        """Return the sampling: from one-hot classes, with noise unless the generator starts from the label map."""
        settings = config.generator
        return Sampling(
            Condition(label_space, edges=config.data.instance_edges),
            size_multiple=2**settings.num_upsamples,
            noise_channels=0 if settings.input == "label" else settings.noise_dim,
        )

    @classmethod
    def build_generator(cls, config: Lab2PixV2Config, label_space: LabelSpace) -> nn.Module:
        """Build the generator, initialized as in the official code or with `train.init_gain`."""
        channels = cls.build_sampling(config, label_space).condition.channels
        settings = replace(generator_settings(config), upsample=config.generator.upsample)
        generator = Lab2PixV2Generator(channels, settings)
        generator.set_grad_checkpointing(config.train.gradient_checkpointing)
        init_from_config(generator, config, xavier_init)
        return generator

    # --- generator phase --------------------------------------------------------------------------------------------

    def generator_backward(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Generate once, accumulate the gradients of all losses at the image scale by scale, and backpropagate.

        Returns:
            Weighted terms `adversarial` (Eq. 24), `perceptual` (Eq. 28) and `feature_matching` (Eq. 29), except those
            of weight 0; with `loss.cycle` > 0 also the segmentation losses `cycle` of the generated image and
            `cycle_real` of the real one, and with `loss.segmentation` > 0 `segmentation`.
        """
        condition, real = self.sampling.condition(batch), require_images(batch)
        if self.config.loss.imle_candidates > 1:
            assert noise is not None
            noise = self._select_imle_noise(condition, noise, real, context)
        real_features, logits = None, None
        with context.autocast():
            fake = self.networks["generator"](condition, noise)
        fake = fake.float()
        augment = self.config.augment
        if augment.shift:
            offsets = random_offsets(len(batch), (augment.shift, augment.shift), context.random)
            fake, real, condition, label = (shift(x, offsets) for x in (fake, real, condition, batch.label))
            batch = replace(batch, label=label)
        if self.head is not None:
            levels = 0 if augment.discriminator else self._num_feature_levels(0)
            with context.autocast():
                with torch.no_grad():
                    real_features = self.feature_extractors(real, levels=levels, perceptual=True)
                logits = self.head(real_features.perceptual)
        view = DiffAugment.draw(augment.discriminator, len(batch), batch.size, context.random)
        seen = [fake, view(fake)] if augment.discriminator else [fake]
        gradients = ImageGradients([image for one in seen for image in pyramid(one, self.scales)], context.scale)
        generated, real_images = gradients.leaves[-self.scales :], pyramid(view(real), self.scales)
        unaugmented: list[Any] = [None] * self.scales
        if augment.discriminator:
            unaugmented = list(zip(gradients.leaves, pyramid(real, self.scales), strict=False))
        conditions = pyramid(view.move(condition), self.scales)
        mask = self._mask(replace(batch, label=view.move(batch.label)))
        features: list[tuple[list[Tensor], list[Tensor]]] = []
        with ExitStack() as stack:
            others = [] if self.head is None else [self.head]
            for network in (*(self.networks[name] for name in self.discriminators), *others):
                stack.enter_context(frozen_and_cached(network))
            for index, inputs in enumerate(zip(generated, real_images, conditions, strict=True)):
                scale = _Scale(index, *inputs, real_features if index == 0 else None, unaugmented[index])
                features.append(self._scale_backward(gradients, scale, batch.label, mask, context))
            if self.segmentation is not None:
                gradients.backward(self.segmentation.generator_losses(generated[0], view.move(batch.label), context))
        seg = {} if logits is None else {"cycle_real": cycle_segmentation_loss([logits], batch.label, self.ignored)}
        gradients.flush(seg)
        context.cache["outputs"] = GeneratorOutputs(
            conditions=conditions,
            generated=[leaf.detach() for leaf in generated],
            real=real_images,
            generated_features=[pair[0] for pair in features],
            real_features=[pair[1] for pair in features],
            mask=mask,
        )
        context.cache["label"] = view.move(batch.label)
        return gradients.losses

    def discriminator_backward(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Backpropagate the hierarchical discriminators' loss, then that of the segmentation discriminator."""
        losses = super().discriminator_backward(batch, noise, context)
        if self.segmentation is not None:
            outputs, label = context.cache["outputs"], context.cache["label"]
            terms = self.segmentation.discriminator_losses(outputs.generated[0], outputs.real[0], label, context)
            losses |= backward(terms, context.scale)
        return losses

    def class_offset(self, network: str, tensor: str) -> int:
        """Return the number of places before the first class: one for "fake" in the segmentation discriminator."""
        return int(network == "segmentation_discriminator")

    @torch.no_grad()
    def _select_imle_noise(self, condition: Tensor, noise: Tensor, real: Tensor, context: StepContext) -> Tensor:
        """Select noise by implicit maximum likelihood estimation (IMLE; Li et al., 2020); not in the paper.

        Of several candidates per sample, select the noise whose image is nearest to the real one after average pooling.
        Reconstruction losses on all noise would make the generator ignore it; with IMLE the other noise stays free to
        represent what the label map leaves open, such as light and color.

        Args:
            condition: `[N, C, H, W]`.
            noise: `[N, noise_dim]`, the first candidates.
            real: real images `[N, 3, H, W]` in [-1, 1].
            context: context of the step.

        Returns:
            `[N, noise_dim]`.
        """
        cells = min(_IMLE_GRID, *real.shape[-2:])
        target = F.adaptive_avg_pool2d(real, cells)
        more = [context.random.normal(*noise.shape) for _ in range(1, self.config.loss.imle_candidates)]
        noises = torch.cat([noise, *more])
        with context.autocast():
            # The generator computes features of the label map once for all candidates.
            images: Tensor = self.networks["generator"](condition, noises)
        pooled = torch.unflatten(F.adaptive_avg_pool2d(images.float(), cells), 0, (-1, len(noise)))
        nearest = (pooled - target).abs().mean((2, 3, 4)).argmin(0)
        return torch.unflatten(noises, 0, (-1, len(noise)))[nearest, torch.arange(len(noise), device=noise.device)]

    def _scale_backward(
        self, gradients: ImageGradients, scale: _Scale, label: Tensor, mask: Tensor | None, context: StepContext
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Backpropagate the terms of one scale to its image, those of a separate perceptual backbone first.

        Returns:
            Detached discriminator features of the generated and of the real image.
        """
        levels = self._num_feature_levels(scale.index)
        perceptual = scale.index < self.perceptual_scales
        one_pass = self.feature_extractors.shared and levels > 0 and scale.unaugmented is None
        images, known = (scale.generated, scale.real), scale.real_features
        if perceptual and not one_pass:
            with context.autocast():
                pair = self._extract_pair(*(scale.unaugmented or images), known, 0, True)
                terms = self._reconstruction_losses(scale, *pair, label)
            gradients.backward(terms)
        with context.autocast():
            known = None if scale.unaugmented else known
            generated, real = self._extract_pair(*images, known, levels, perceptual and one_pass)
            terms = self._discriminator_losses(scale, mask, generated.discriminator, real.discriminator)
            if perceptual and one_pass:
                terms |= self._reconstruction_losses(scale, generated, real, label)
        gradients.backward(terms)
        return [feature.detach() for feature in generated.discriminator], real.discriminator

    def _extract_pair(
        self, generated: Tensor, real: Tensor, known: BackboneFeatures | None, levels: int, perceptual: bool
    ) -> tuple[BackboneFeatures, BackboneFeatures]:
        """Return features of the generated image, with a graph, and of the real one (`known` if given), detached."""
        features = self.feature_extractors(generated, levels=levels, perceptual=perceptual)
        if known is not None:
            return features, known
        with torch.no_grad():
            return features, self.feature_extractors(real, levels=levels, perceptual=perceptual)

    def _reconstruction_losses(
        self, scale: _Scale, generated: BackboneFeatures, real: BackboneFeatures, label: Tensor
    ) -> Losses:
        """Return the weighted perceptual (Eq. 28) and, at full size, cycle-segmentation terms."""
        loss = self.config.loss
        terms = {"perceptual": loss.perceptual * perceptual_loss(generated.perceptual, real.perceptual)}
        if scale.index == 0 and self.head is not None:
            logits = self.head(generated.perceptual)
            terms["cycle"] = loss.cycle * cycle_segmentation_loss([logits], label, self.ignored)
        return terms

    def _discriminator_losses(
        self, scale: _Scale, mask: Tensor | None, generated: list[Tensor], real: list[Tensor]
    ) -> Losses:
        """Return the weighted adversarial (Eq. 24) and feature-matching (Eq. 29) terms."""
        loss, index = self.config.loss, scale.index
        output = self._discriminate(index, torch.cat([scale.condition, scale.generated], 1), generated)
        terms = {"adversarial": self._generator_adversarial(index, output, mask)}
        if loss.feature_matching > 0:
            with torch.no_grad():
                real_output = self._discriminate(index, torch.cat([scale.condition, scale.real], 1), real)
            reduction = self.variant.feature_matching
            factor = 1.0 if reduction == "layer-mean" else 1 / self.scales
            distance = feature_matching_loss([output.features], [real_output.features], reduction)
            terms["feature_matching"] = loss.feature_matching * factor * distance
        return terms

    def blurred_images(self, real: Sequence[Tensor]) -> list[Tensor]:
        """Blur the real image at full size, and return its pyramid."""
        return pyramid(blur(real[0]), self.scales)

    # --- scores -----------------------------------------------------------------------------------------------------

    @property
    def score_names(self) -> tuple[str, ...]:
        """`l1` and, with λ5 > 0, `perceptual`."""
        return ("l1", "perceptual") if self.config.loss.perceptual > 0 else ("l1",)

    @torch.no_grad()
    def validation_scores(self, batch: Batch, generated: Tensor) -> dict[str, Tensor]:
        """Return `l1` (mean absolute difference in [-1, 1]) and, with λ5 > 0, `perceptual` (Eq. 28 at X3)."""
        real = require_images(batch)
        scores = {"l1": F.l1_loss(generated, real)}
        if self.config.loss.perceptual > 0:
            features = (self.feature_extractors(x, levels=0, perceptual=True).perceptual for x in (generated, real))
            scores["perceptual"] = perceptual_loss(*features)
        return scores

    # --- the official code ------------------------------------------------------------------------------------------

    @classmethod
    def checkpoint_formats(cls) -> Mapping[str, CheckpointFormat]:
        """Return the format of the official generator."""

        def matches(state: Mapping[str, Tensor]) -> bool:
            names = {"fc.weight", "head_0.norm_0.mlp_shared.0.weight", "conv_img.weight"}
            return names <= state.keys() and any(name.startswith("fpencoder.") for name in state)

        return {"lab2pix-v2-official": CheckpointFormat(matches, _convert)}

    @classmethod
    def reads_vectors(cls, vectors: Vectors) -> bool:
        """Recognize the official V2 discriminators."""
        return any(name.startswith("D.discriminator_0.common.") for name in vectors.tensors)

    @classmethod
    def check_vectors(cls, vectors: Vectors, *, fast: bool = False) -> Iterator[Row]:
        """Compare networks, losses and gradient norms; with `fast`, of fused and accelerated networks."""
        case = _Vectors(vectors, fast=fast)
        return check_case(vectors, case.known_names, partial(_check_tensor, case), partial(_check_value, case))


# --- weights of the official code -----------------------------------------------------------------------------------


def _plus_one(template: str) -> Callable[[re.Match[str]], str]:
    """Return a replacement with levels counted from 1, as in the official names."""
    return lambda match: template.format(int(match[1]) + 1)


_DISCRIMINATOR_RULES: Rules = [
    *SPECTRAL_NORM,
    (r"^networks\.(\d+)\.", r"discriminator_\1."),
    (r"\.trunk\.0\.0\.", ".common.0.0."),
    (r"\.trunk\.(\d+)\.0\.", r".common.\1.0.0."),
    (r"\.perceptual\.(\d+)\.0\.", _plus_one(".pre{}.0.0.")),
    (r"\.fusion\.(\d+)\.0\.", _plus_one(".gcb{}.0.0.")),
    (r"\.heads\.(\d+)\.0\.0\.", _plus_one(".conv{}_out.0.0.")),
    (r"\.heads\.(\d+)\.1\.", _plus_one(".conv{}_out.2.")),
    # Official indices also count the activation between two convolutions.
    (r"\.(conv[35]_branch)\.(\d+)\.0\.", lambda match: f".{match[1]}.{2 * int(match[2])}.0."),
    (r"\.stages\.(\d+)\.", _plus_one(".conv{}_line.0.")),
]


def official_rules(network: nn.Module) -> Rules:
    """Return the rules from names in this package, of a generator or of discriminators, to the official ones."""
    if isinstance(network, Lab2PixV2Generator):
        return generator_rules(network.num_upsamples)
    return _DISCRIMINATOR_RULES


def _convert(path: Path, state: dict[str, Tensor], options: ConversionOptions) -> Converted:
    settings = infer_generator_settings(state)
    fit = fit_label_space(path, settings.pop("label_channels"), options, edges_possible=True)
    fit.pad_unknown_channel(state, r"^fc\.weight$|\.mlp_shared\.0\.weight$|^fpencoder\.model_down\.0\.weight")
    known = settings.pop("num_upsamples")
    num_upsamples, size = choose_geometry(state["fc.weight"], settings["width"], known, fit, options)
    encoder = GlobalEncoderConfig(width=settings.pop("global_width"), max_width=settings.pop("global_max_width"))
    config = Lab2PixV2Config(
        name="lab2pix-v2-official",
        data=DataConfig(label_space=fit.space.name, size=size, instance_edges=fit.edges),
        generator=V2GeneratorConfig(**settings, num_upsamples=num_upsamples, global_encoder=encoder),
    )
    generator = Lab2PixV2.build_generator(config, fit.space)
    load_renamed(generator, official_rules(generator), state, "official generator")
    return Converted(generator.eval(), config, fit.space)


# --- vector files ---------------------------------------------------------------------------------------------------

_EDGE_KEYS = ("in.edges", "in.edge", "in.edge_map", "in.instance_edges")
_INSTANCE_KEYS = ("in.instance", "in.instances", "in.inst", "in.instance_map", "in.inst_map")
_INPUT_KEYS = ("in.label", "in.image", "in.noise", *_EDGE_KEYS, *_INSTANCE_KEYS)


class _Vectors:
    """Networks of a V2 vector file, with settings inferred from the file, and their outputs and losses.

    Losses are those of the official code; networks are in eval mode.

    Args:
        vectors: content of the vector file.
        fast: whether to generate with a fused generator, and compute gradients with accelerated networks.

    Raises:
        CheckpointError: the file is incomplete or has weights of unknown names.
    """

    def __init__(self, vectors: Vectors, *, fast: bool = False) -> None:
        self.vectors, self.config, self.fast = vectors, vectors.values["config"], fast
        try:
            self.generator = self._generator()
            self.discriminator = self._discriminator()
            self.ids, self.condition, self.image = self._inputs()
            if fast:
                for network in (self.generator, self.discriminator):
                    accelerate(network, torch.device("cpu"))
        except KeyError as error:
            raise CheckpointError(f"the vector file lacks {error}, without which nothing can be compared") from error

    # --- content of the file ----------------------------------------------------------------------------------------

    @property
    def known_names(self) -> set[str]:
        """Names of weights and inputs that the outputs depend on; network weights are loaded strictly."""
        pattern = re.compile(
            r"G\.|D\.discriminator_\d+\.(?!backboneNet\.)|D\..*\.backboneNet\.p[345]\.|VGG19\.r[1-5]\."
        )
        return {name for name in self.vectors.tensors if name in _INPUT_KEYS or pattern.match(name)}

    def _generator(self) -> Lab2PixV2Generator:
        config, weights = self.config, self.vectors.part("G.")
        num_upsamples = recorded_choice(config, "num_upsampling_layers", NUM_UPSAMPLES)
        settings = infer_generator_settings(weights) | {"num_upsamples": num_upsamples}
        start_size = (config["height"] >> num_upsamples, config["width"] >> num_upsamples)
        channels = settings.pop("label_channels")
        generator = Lab2PixV2Generator(channels, GeneratorSettings(**settings, start_size=start_size))
        load_renamed(generator, official_rules(generator), weights, "official generator")
        return generator.eval()

    def _discriminator(self) -> MultiScaleDiscriminator:
        config, weights = self.config, self.vectors.part("D.")
        discriminator = MultiScaleDiscriminator.hierarchical(
            weights["discriminator_0.common.0.0.weight"].shape[1],
            [weights[f"discriminator_0.backboneNet.p{3 + level}.bias"].shape[0] for level in range(3)],
            scales=config["num_D"],
            width=config["ndf"],
            max_width=config["max_dim"],
        )
        own = {name: tensor for name, tensor in weights.items() if ".backboneNet." not in name}
        load_renamed(discriminator, official_rules(discriminator), own, "official discriminator")
        return discriminator.eval()

    def _inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return class ids `[N, H, W]`, the condition `[N, C, H, W]`, and the image."""
        tensors, classes = self.vectors.tensors, self.config["num_classes"]
        ids = tensors["in.label"].long()
        ids = ids[:, 0] if ids.ndim == 4 else ids
        edges = self._edges() if self.config.get("instance_edges") else None
        channels = self.generator.label_channels - (0 if edges is None else 1)
        if channels == classes + 1:  # the last one is for unknown pixels of any value
            ids = ids.clamp(max=classes)
        # num_classes can include the instance-boundary channel.
        fitting = (classes, classes + 1) if edges is None else (classes - 1, classes, classes + 1)
        if channels not in fitting or int(ids.max()) >= channels:
            raise CheckpointError(
                f"the label map holds ids up to {int(ids.max())}, config.num_classes is {classes}, and the generator "
                f"has {channels} channels for classes; these cannot all be right"
            )
        onehot = F.one_hot(ids, channels).permute(0, 3, 1, 2).float()
        condition = onehot if edges is None else torch.cat([onehot, edges], 1)
        return ids, condition, tensors["in.image"].float()

    def _edges(self) -> Tensor:
        """Return the instance-boundary channel `[N, 1, H, W]`, from the file or computed from the instance map."""
        tensors = self.vectors.tensors
        if ready := next((name for name in _EDGE_KEYS if name in tensors), None):
            edges = tensors[ready].float()
            return edges if edges.ndim == 4 else edges.unsqueeze(1)
        name = next((name for name in _INSTANCE_KEYS if name in tensors), None)
        if name is None:
            raise CheckpointError(f"config.instance_edges is true, but there is no {_INSTANCE_KEYS[0]}")
        instances = tensors[name].long()
        instances = instances[:, 0] if instances.ndim == 4 else instances
        return torch.stack([instance_edges(instance) for instance in instances])

    # --- outputs of the networks ------------------------------------------------------------------------------------

    @cached_property
    def generated(self) -> Tensor:
        """`[N, 3, H, W]`, with its graph."""
        noise = self.vectors.tensors.get("in.noise")
        with torch.enable_grad():  # cached, so the first access must build the graph
            image: Tensor = self.generator(self.condition, None if noise is None else noise.float())
        return image

    @cached_property
    def detached(self) -> Tensor:
        """`generated` without its graph, or the output of the fused generator with `fast`."""
        if not self.fast:
            return self.generated.detach()
        noise = self.vectors.tensors.get("in.noise")
        image: Tensor = fuse(self.generator)(self.condition, None if noise is None else noise.float())
        return image

    @cached_property
    def mask(self) -> Tensor:
        """Foreground weights `[N, 1, H, W]` (Eq. 9)."""
        background = torch.tensor(self.config["background_ids"], dtype=torch.long)
        return foreground_weights(~torch.isin(self.ids, background), float(self.config["foreground_T"]))

    @cached_property
    @torch.no_grad()
    def global_features(self) -> list[Tensor]:
        """Global features, largest scale first, as numbered in the file."""
        encoder = self.generator.global_encoder
        return [] if encoder is None else encoder(self.condition)[::-1]

    def discriminate(self, image: Tensor) -> list[ScaleOutput]:
        """Run every discriminator on label map and image; smaller scales are average-pooled."""
        inputs, features = [], []
        pair = torch.cat([self.condition, image], 1)
        weights = self.vectors.part("D.")
        for scale in range(self.config["num_D"]):
            pair = downsample(pair) if scale else pair
            normal = Backbone.normalize(pair[:, -3:])
            inputs.append(pair)
            features.append(
                [
                    one_by_one(normal, 8 << level, weights, f"discriminator_{scale}.backboneNet.p{3 + level}")
                    for level in range(num_levels(scale))
                ]
            )
        outputs: list[ScaleOutput] = self.discriminator(inputs, features)
        return outputs

    @cached_property
    @torch.no_grad()
    def outputs(self) -> dict[str, list[ScaleOutput]]:
        """Discriminator outputs on the generated (`fake`), the `real` and the `blurred` image."""
        images = {"fake": self.detached, "real": self.image, "blurred": blur(self.image)}
        return {name: self.discriminate(image) for name, image in images.items()}

    # --- losses -----------------------------------------------------------------------------------------------------

    def _adversarial(self, outputs: list[ScaleOutput], role: int) -> Tensor:
        if self.config["gan"] not in ADVERSARIAL_TERMS:
            raise CheckpointError(f"config.gan is {self.config['gan']!r}; known: {[*ADVERSARIAL_TERMS]}")
        weights = level_weights([len(output.predictions) for output in outputs], "official")
        # The official code multiplies [N, 1, h, w] by [N, h, w], so each sample is weighted by the mean mask.
        return adversarial_loss(
            [output.predictions for output in outputs],
            ADVERSARIAL_TERMS[self.config["gan"]][role],
            weights,
            self.mask.mean(0, keepdim=True),
        )

    def _perceptual_features(self, image: Tensor) -> list[Tensor]:
        """Return the five stand-in features of the perceptual loss, without normalization."""
        weights = self.vectors.part("VGG19.")
        return [one_by_one(image, 1 << level, weights, f"r{level + 1}") for level in range(5)]

    @cached_property
    def generator_losses(self) -> dict[str, Tensor]:
        """Generator losses by official name, with graph."""
        images = self.generated, self.image
        fake, real = self.discriminate(self.generated), self.outputs["real"]
        matching = feature_matching_loss(
            [output.features for output in fake], [output.features for output in real], "scale-mean"
        )
        return {
            "GAN": self._adversarial(fake, 0),
            "GAN_Feat": self.config["lambda_feat"] * matching,
            "VGG": self.config["lambda_vgg"] * perceptual_loss(*map(self._perceptual_features, images)),
        }

    @cached_property
    def discriminator_losses(self) -> dict[str, Tensor]:
        """Discriminator losses by official name, with graph."""
        sharpness = self.config["lambda_sharp"]
        fake = self._adversarial(self.discriminate(self.generated.detach()), 2)
        blurred = self._adversarial(self.discriminate(blur(self.image)), 2)
        real = self._adversarial(self.discriminate(self.image), 1)
        return {"D_Fake": (fake + sharpness * blurred) / (1 + sharpness), "D_real": real}


def _check_tensor(case: _Vectors, name: str, recorded: Tensor) -> Row:
    """Compare one `out.*`."""
    if name == "out.generated":
        return compare(name, case.detached, recorded)
    if name == "out.enhance_mask":
        mask = case.mask
        return compare(name, mask if recorded.ndim == mask.ndim else mask[:, 0], recorded)
    if match := re.fullmatch(r"out\.global\.(\d+)", name):
        features = case.global_features
        if int(match[1]) < len(features):
            return compare(name, features[int(match[1])], recorded)
    if match := re.fullmatch(r"out\.D(\d+)\.(fake|real|blurred)", name):
        outputs = case.outputs[match[2]]
        if int(match[1]) < len(outputs):
            levels = outputs[int(match[1])].predictions
            size = (levels[0].shape[-2], levels[0].shape[-1])
            stack = torch.cat([F.interpolate(level, size=size, mode="nearest") for level in levels], 1)
            return compare(name, stack, recorded)
    return failure(name, "cannot check: no such output is known")


def _check_shapes(case: _Vectors, name: str, scale: int, recorded: object) -> Row:
    """Compare the shapes of one discriminator's features for feature matching."""
    outputs = case.outputs["real"]
    if scale >= len(outputs):
        return failure(name, f"cannot check: there are {len(outputs)} discriminators")
    shapes = [list(feature.shape) for feature in outputs[scale].features]
    return Row(name, 0.0, TOLERANCE, True) if shapes == recorded else failure(name, f"computed are {shapes}")


def _check_value(case: _Vectors, name: str, recorded: Any) -> Iterator[Row]:
    """Compare one entry of the JSON file."""
    group, _, role = name.partition(".")
    if group in ("loss", "grad_norm") and role in ("generator", "discriminator"):
        network = case.generator if role == "generator" else case.discriminator
        losses = case.generator_losses if role == "generator" else case.discriminator_losses
        if group == "loss":
            yield from compare_losses(name, recorded, losses)
        else:  # gradient norm of the sum of the recorded terms
            terms = case.vectors.values.get(f"loss.{role}", losses)
            loss = torch.stack([value for term, value in losses.items() if term in terms]).sum()
            yield compare_value(name, gradient_norm(loss, network), recorded)
    elif match := re.fullmatch(r"D(\d+)\.features", name):
        yield _check_shapes(case, name, int(match[1]), recorded)
    else:
        yield failure(name, "cannot check: no such value is known")
