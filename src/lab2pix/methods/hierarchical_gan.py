"""Hierarchical GAN (3.2), the base of Lab2Pix-V1 and V2 only: settings, networks, and the discriminator phase.

Scales count down: scale 0 is the full size (X3, D3 of the paper), scale 1 half of it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lab2pix.batch import Batch
from lab2pix.config.rules import check_first_scale, check_size, squares_per_image
from lab2pix.config.schema import Beta, RunConfig, Section, TrainConfig
from lab2pix.labels.space import LabelSpace
from lab2pix.losses import (
    ADVERSARIAL_TERMS,
    adversarial_loss,
    foreground_weights,
    level_weights,
    sharpness_loss,
    wasserstein_fake,
)
from lab2pix.methods.backprop import backward, frozen
from lab2pix.methods.base import PRECISIONS, Losses, Method, OptimizerSpec, Phase, StepContext, every
from lab2pix.methods.features import BackboneConfig, FeatureExtractors
from lab2pix.methods.schedules import linear_decay
from lab2pix.nn.discriminators import MultiScaleDiscriminator, PatchDiscriminator, ScaleOutput, num_levels
from lab2pix.nn.fast import accelerate, to_low_precision
from lab2pix.nn.generators import GeneratorSettings
from lab2pix.nn.init import xavier_init

# --- settings ---------------------------------------------------------------------------------------------------------

_LAST_LEVEL_STRIDE = 32
"""Stride of the last level of each hierarchical discriminator (3.2.1)."""


class GlobalEncoderConfig(Section):
    """Global encoder of DG-Norm (Eq. 2)."""

    width: int = Field(64, ge=1, description="Channels of the first convolution; they double with each stride.")
    max_width: int = Field(512, ge=1, description="Maximum number of channels of its convolutions.")
    upsample: Literal["nearest", "bilinear"] = Field(
        "nearest",
        description="Upsampling of the global feature: nearest before the convolution of each scale, or, not in the "
        "paper, bilinear after it, which leaves no edges of blocks in images.",
    )


class HierarchicalGANGeneratorConfig(Section):
    """Generator (3.1, 4.2.1)."""

    width: int = Field(64, ge=2, description="Channels at the last scale; 16 times as many at the first.")
    num_upsamples: Literal[5, 6, 7] = Field(
        5, description="Number of 2x upsamplings; V2: 5 for 256x256, 6 for 256x512, 7 for 512x1024; V1: 7 (sketch 5)."
    )
    modulation: Literal["dg-norm", "spade"] = Field("dg-norm", description="DG-Norm, or SPADE without global feature.")
    modulation_hidden: int = Field(128, ge=1, description="Channels between the label map and scale and shift.")
    global_encoder: GlobalEncoderConfig = GlobalEncoderConfig()
    input: Literal["noise", "label"] = Field(
        "noise",
        description="Input of the first generator scale: noise (Eq. 21), or the small label map (official code).",
    )
    noise_dim: int = Field(128, ge=1, description="Dimension of the noise vector z.")
    spectral_norm: bool = Field(True, description="Spectral norm on the convolutions of the blocks.")


class HierarchicalGANDiscriminatorConfig(Section):
    """Discriminators (3.2.1)."""

    kind: Literal["hierarchical", "patch"] = Field(
        "hierarchical", description="Hierarchical perceptual discriminators, or SPADE's PatchGANs."
    )
    scales: Literal[1, 2, 3] = Field(
        2, description="Number of discriminators, each at half the resolution of the one before."
    )
    width: int = Field(64, ge=1, description="Channels of the first convolution.")
    max_width: int = Field(512, ge=4, description="Channels of the levels (hierarchical) or the most (patch).")


class AdversarialLossConfig(Section):
    """Loss terms of both methods and their weights (Eq. 20, 31)."""

    variant: Literal["paper", "official"] = Field(
        "paper",
        description="Reduction of the terms and normalization of images as in the paper, or as in the official code.",
    )
    adversarial: Literal["hinge", "vanilla"] = Field("hinge", description="Form of the adversarial loss.")
    foreground_rate: float = Field(
        5.0, ge=1, description="T: weight of a foreground pixel relative to background (Eq. 9); 1: off."
    )
    background_ids: tuple[int, ...] | None = Field(
        None, description="Class ids that are background; null: as in the label space."
    )
    sharpness: float = Field(1.0, ge=0, description="λ2: weight of blurred photos as fakes (Eq. 16, 30); 0: off.")
    sharpness_schedule: Literal["constant", "rising"] = Field(
        "constant", description="λ2 constant, or linear from 0 to λ2 over the run (V1, 5.2)."
    )
    r1: float = Field(
        0.0,
        ge=0,
        description="Not in the paper: weight γ of the R1 penalty (Mescheder et al., 2018) on the discriminators, "
        "which are then not accelerated; 0: off.",
    )
    r1_interval: int = Field(
        16,
        ge=1,
        description="Updates of the discriminators between R1 penalties, each with this many times the weight.",
    )


class HierarchicalGANAdamConfig(Section):
    """Adam and its learning-rate schedule (5.2)."""

    generator_lr: float = Field(2e-4, gt=0, description="Learning rate of the generator.")
    discriminator_lr: float = Field(2e-4, gt=0, description="Learning rate of the discriminators.")
    discriminator_interval: int = Field(
        1, ge=1, description="Not in the paper: steps between updates of the discriminators."
    )
    betas: tuple[Beta, Beta] = Field((0.0, 0.9), description="Adam's two decay rates.")
    decay_fraction: float = Field(
        0.5, ge=0, le=1, description="Final fraction of the run in which learning rates decay to 0."
    )


class GANTrainConfig(TrainConfig):
    """Training duration, batch size, precision and initialization."""

    gradient_checkpointing: bool = Field(False, description="Recompute the generator's blocks to save memory.")
    init_gain: float | None = Field(
        None,
        gt=0,
        description="Gain of the Xavier-normal initialization; 1 preserves the variance of signals; null: as in the "
        "official code, normal with deviation 0.02 in V1, Xavier normal with gain 0.02 in V2.",
    )


class HierarchicalGANConfig(RunConfig):
    """Settings common to Lab2Pix-V1 and V2."""

    generator: HierarchicalGANGeneratorConfig = HierarchicalGANGeneratorConfig()
    discriminator: HierarchicalGANDiscriminatorConfig = HierarchicalGANDiscriminatorConfig()
    backbone: BackboneConfig = BackboneConfig()
    loss: AdversarialLossConfig = AdversarialLossConfig()
    optimizer: HierarchicalGANAdamConfig = HierarchicalGANAdamConfig()
    train: GANTrainConfig = GANTrainConfig()

    def check_rules(self) -> None:
        """Check the image size against generator and discriminators."""
        hierarchical = self.discriminator.kind == "hierarchical"
        generator = f"generator.num_upsamples={self.generator.num_upsamples}"
        reason = f"{generator} with hierarchical discriminators" if hierarchical else generator
        check_size(self, reason, squares=squares_per_image(self, self.generator.num_upsamples))

    @property
    def size_rule(self) -> tuple[int, int]:
        """Divisor of valid sides, and the smallest one: the deepest level must normalize more than one pixel."""
        least = 2 * _LAST_LEVEL_STRIDE if self.discriminator.kind == "hierarchical" else 1
        return 2**self.generator.num_upsamples, least

    def check_samples_per_pass(self, samples: int, advice: str) -> None:
        """Check that batch norm at the first scale has more than one value per channel."""
        check_first_scale(self, self.generator.num_upsamples, samples, advice)


@dataclass(frozen=True)
class LossVariant:
    """Differences between the paper and the official code.

    Attributes:
        reduction: reduction of the adversarial loss: weighted mean over levels and sum over scales (Eq. 24), or a
            running sum.
        halved: whether D's real plus fake term is halved (Eq. 25, 30).
        sharpness_normalized: whether D's terms are divided by 1 + λ2.
        foreground_per_image: whether each image has its own foreground weights (Eq. 14), or the mean of the batch.
        normalize: whether images are normalized for the perceptual and the consistency loss.
        normalize_discriminator: whether images are normalized for the perceptual branch.
    """

    reduction: Literal["mean", "official"] = "mean"
    halved: bool = True
    sharpness_normalized: bool = False
    foreground_per_image: bool = True
    normalize: bool = True
    normalize_discriminator: bool = True


# --- networks ---------------------------------------------------------------------------------------------------------


def generator_settings(config: HierarchicalGANConfig) -> GeneratorSettings:
    """Return the settings common to the generators of both methods."""
    settings = config.generator
    stride = 2**settings.num_upsamples
    return GeneratorSettings(
        width=settings.width,
        num_upsamples=settings.num_upsamples,
        start_size=(config.padded_size[0] // stride, config.padded_size[1] // stride),
        modulation=settings.modulation,
        modulation_hidden=settings.modulation_hidden,
        global_width=settings.global_encoder.width,
        global_max_width=settings.global_encoder.max_width,
        global_upsample=settings.global_encoder.upsample,
        input=settings.input,
        noise_dim=settings.noise_dim,
        spectral_norm=settings.spectral_norm,
    )


def _build_discriminator(
    settings: HierarchicalGANDiscriminatorConfig, channels: int, backbone_channels: Sequence[int]
) -> MultiScaleDiscriminator:
    """Build one discriminator per scale, largest first: D3, D2 and, with three scales, D1."""
    width, max_width = settings.width, settings.max_width
    if settings.kind == "hierarchical":
        return MultiScaleDiscriminator.hierarchical(
            channels, backbone_channels, scales=settings.scales, width=width, max_width=max_width
        )
    return MultiScaleDiscriminator(
        [PatchDiscriminator(channels, width=width, max_width=max_width) for _ in range(settings.scales)]
    )


def init_from_config(network: nn.Module, config: HierarchicalGANConfig, default: Callable[[nn.Module], None]) -> None:
    """Initialize weights with Xavier and the gain `train.init_gain`, or as `default` does if it is null."""
    if config.train.init_gain is None:
        default(network)
    else:
        xavier_init(network, config.train.init_gain)


@contextmanager
def frozen_and_cached(network: nn.Module) -> Iterator[None]:
    """Freeze a network within the context, and cache its parametrized (spectrally normalized) weights."""
    with frozen(network), parametrize.cached():
        yield


# --- the method -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GeneratorOutputs:
    """Detached results of the generator phase for the discriminator phase.

    Attributes:
        conditions: label maps by scale, `[N, C, H/2^s, W/2^s]`; None for unconditional discriminators.
        generated, real: images by scale, `[N, 3, H/2^s, W/2^s]`.
        generated_features: backbone features of the generated images, by scale.
        real_features: backbone features of the real images, by scale; None if not computed yet.
        mask: foreground weights `[N, 1, H, W]`; None for uniform weights.
    """

    conditions: list[Tensor] | None
    generated: list[Tensor]
    real: list[Tensor]
    generated_features: list[list[Tensor]]
    real_features: list[list[Tensor]] | None
    mask: Tensor | None


class HierarchicalGAN(Method):
    """GAN with one discriminator per scale on images and features of a frozen backbone.

    A subclass puts "generator", and networks trained with it, before "discriminator" in `networks`; its generator phase
    stores `GeneratorOutputs` in the cache of the context.

    Args:
        config: configuration of the run.
        label_space: label space of the class ids.
        channels: input channels of the discriminators.
        loss_features: whether a loss uses backbone features.
        default_init: initializes the discriminators if `train.init_gain` is null.
        mask_real: whether the foreground mask also applies to real and blurred images (V2), or only to generated
            ones (V1, whose real images have no label map; Eq. 13).
        first_layers: whether image consistency uses the first convolution of each stage.
        pretrained: whether to load pretrained backbones; otherwise their weights are random.
    """

    variants: ClassVar[Mapping[str, LossVariant]]
    discriminators: tuple[str, ...] = ("discriminator",)
    """Networks that learn in the discriminator phase."""
    config: HierarchicalGANConfig

    def __init__(
        self,
        config: HierarchicalGANConfig,
        label_space: LabelSpace,
        *,
        channels: int,
        loss_features: bool,
        default_init: Callable[[nn.Module], None],
        mask_real: bool,
        first_layers: bool = False,
        pretrained: bool = True,
    ) -> None:
        super().__init__(config, label_space, pretrained=pretrained)
        # Fail now, not at the first batch, if a background id is not in the label space.
        label_space.foreground(torch.zeros(1, 1, 1, dtype=torch.int64), config.loss.background_ids)
        self.variant = self.variants[config.loss.variant]
        self.feature_extractors = FeatureExtractors(
            config.backbone,
            levels=num_levels(0) if config.discriminator.kind == "hierarchical" else 0,
            loss_features=loss_features,
            normalize_discriminator=self.variant.normalize_discriminator,
            normalize=self.variant.normalize,
            first_layers=first_layers,
            pretrained=pretrained,
        )
        discriminator = _build_discriminator(
            config.discriminator, channels, self.feature_extractors.discriminator_channels
        )
        init_from_config(discriminator, config, default_init)
        if config.loss.r1 > 0:
            self.plain_networks = ("discriminator",)
        self.networks: dict[str, nn.Module] = {"discriminator": discriminator}
        self.scales = config.discriminator.scales
        self.mask_real = mask_real
        self.level_weights = level_weights(
            [max(1, self._num_feature_levels(scale)) for scale in range(self.scales)], self.variant.reduction
        )
        self.generator_term, self.real_term, self.fake_term = ADVERSARIAL_TERMS[config.loss.adversarial]
        # Unknown pixels are ignored by the segmentation losses.
        self.ignored = label_space.num_classes if label_space.unknown_value is not None else None

    @property
    def optimizers(self) -> Mapping[str, OptimizerSpec]:
        """One Adam optimizer for the generator and networks trained with it, and one for the discriminators."""
        settings = self.config.optimizer
        schedule = linear_decay(settings.decay_fraction)
        learners = tuple(name for name in self.networks if name not in self.discriminators)
        return {
            "generator": OptimizerSpec(learners, settings.generator_lr, settings.betas, schedule=schedule),
            "discriminator": OptimizerSpec(
                self.discriminators, settings.discriminator_lr, settings.betas, schedule=schedule
            ),
        }

    @property
    def phases(self) -> Sequence[Phase]:
        """The generator phase, then the discriminator phase."""
        when = every(self.config.optimizer.discriminator_interval)
        return [
            Phase("generator", self.generator_backward, ("generator",)),
            Phase("discriminator", self.discriminator_backward, ("discriminator",), when),
        ]

    @property
    def compile_targets(self) -> Sequence[nn.Module]:
        """The generator (its blocks with gradient checkpointing), and each segmenter and discriminator."""
        targets: list[nn.Module] = []
        for name, network in self.networks.items():
            if name in self.plain_networks:
                continue
            parts: Any = network
            if name == "generator" and self.config.train.gradient_checkpointing:
                parts = network.blocks
            elif name == "discriminator":
                parts = network.networks
            targets.extend(parts if isinstance(parts, nn.ModuleList) else [network])
        return targets

    def to(self, device: torch.device, memory_format: torch.memory_format = torch.preserve_format) -> None:
        """Move networks and backbones to a device; backbones are cast to `train.precision`."""
        super().to(device, memory_format)
        self.feature_extractors.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
        if self.config.train.precision != "fp32":
            to_low_precision(self.feature_extractors, PRECISIONS[self.config.train.precision])
        accelerate(self.feature_extractors, device)

    def feature_networks(self) -> Mapping[str, str]:
        """Return the settings that name each backbone in use."""
        settings, networks = self.config.backbone, self.feature_extractors
        used = {
            "backbone.discriminator": settings.discriminator if networks.discriminator_channels else None,
            "backbone.perceptual": settings.perceptual if networks.perceptual_channels else None,
        }
        return {
            name: " and ".join(setting for setting, of in used.items() if of == name)
            for name in used.values()
            if name is not None
        }

    @abstractmethod
    def generator_backward(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Fill the gradients of the generator and of networks trained with it."""

    @abstractmethod
    def blurred_images(self, real: Sequence[Tensor]) -> list[Tensor]:
        """Return blurred images by scale (Eq. 16, 30), given the real ones."""

    def discriminator_backward(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Backpropagate the loss on generated, real and blurred images (Eq. 11-13, 16; V2: Eq. 25-27, 30).

        Returns:
            Weighted terms `real`, `fake` and, with λ2 > 0, `sharpness`; `r1` in the updates that have the penalty.
        """
        outputs: GeneratorOutputs = context.cache["outputs"]
        pyramids = [outputs.generated, outputs.real]
        if self.config.loss.sharpness > 0:
            pyramids.append(self.blurred_images(outputs.real))
        features = [outputs.generated_features, *([] if outputs.real_features is None else [outputs.real_features])]
        features += self._extract_features(pyramids[len(features) :], context)
        with context.autocast():
            # One pass per scale, on the images of all pyramids.
            inputs = [
                torch.cat([self._input(outputs, scale, images[scale]) for images in pyramids])
                for scale in range(self.scales)
            ]
            inputs_features = [
                [torch.cat(level) for level in zip(*(scales[scale] for scales in features), strict=True)]
                for scale in range(self.scales)
            ]
            scale_outputs: list[ScaleOutput] = self.networks["discriminator"](inputs, inputs_features)
            predictions = [
                [[level.chunk(len(pyramids))[index] for level in output.predictions] for output in scale_outputs]
                for index in range(len(pyramids))
            ]
            losses = self._discriminator_terms(predictions, outputs.mask, self._sharpness(context))
        loss = self.config.loss
        updates = (context.progress.step + 1) // self.config.optimizer.discriminator_interval
        if loss.r1 > 0 and updates % loss.r1_interval == 0:
            losses["r1"] = 0.5 * loss.r1 * loss.r1_interval * self._r1_penalty(outputs, features[1])
        return backward(losses, context.scale)

    def _r1_penalty(self, outputs: GeneratorOutputs, features: Sequence[Sequence[Tensor]]) -> Tensor:
        """Return the R1 penalty (Mescheder et al., 2018), in float32: a squared gradient norm, mean over the batch.

        The gradient is that of the mean prediction (with the weights of levels) for a real image, with respect to the
        image and to its backbone features, which count as inputs; there is none through the frozen backbone.

        Args:
            outputs: label maps and real images.
            features: backbone features of the real images, by scale.
        """
        images = [image.detach().requires_grad_() for image in outputs.real]
        leaves = [[feature.detach().float().requires_grad_() for feature in scale] for scale in features]
        inputs = [self._input(outputs, scale, images[scale]) for scale in range(self.scales)]
        predictions = [output.predictions for output in self.networks["discriminator"](inputs, leaves)]
        total = adversarial_loss(predictions, wasserstein_fake, self.level_weights) * len(images[0])
        wanted = [*images, *(feature for scale in leaves for feature in scale)]
        gradients = torch.autograd.grad(total, wanted, create_graph=True)
        return torch.stack([gradient.square().sum() for gradient in gradients]).sum() / len(images[0])

    def _discriminator_terms(
        self, predictions: Sequence[list[list[Tensor]]], mask: Tensor | None, sharpness: float
    ) -> Losses:
        """Return the weighted real, fake and sharpness terms (Eq. 11-13, 16; V2: Eq. 25-27, 30).

        Args:
            predictions: for generated, real and, with λ2 > 0, blurred images: per scale, per level, `[N, 1, h, w]`.
            mask: foreground weights; None for uniform weights.
            sharpness: scheduled weight λ2.
        """
        generated, real, *blurred = predictions
        factor = 0.5 if self.variant.halved else 1.0
        if self.variant.sharpness_normalized:
            factor /= 1 + sharpness
        real_mask = mask if self.mask_real else None
        terms = {
            "real": factor * adversarial_loss(real, self.real_term, self.level_weights, real_mask),
            "fake": factor * adversarial_loss(generated, self.fake_term, self.level_weights, mask),
        }
        if blurred:
            both = (self.real_term, self.fake_term)
            loss = sharpness_loss(real, blurred[0], both, self.level_weights, real_mask)
            terms["sharpness"] = factor * sharpness * loss
        return terms

    def _sharpness(self, context: StepContext) -> float:
        """Return the scheduled weight λ2 of the sharpness loss."""
        loss = self.config.loss
        return loss.sharpness * (context.progress.fraction if loss.sharpness_schedule == "rising" else 1.0)

    def _extract_features(self, pyramids: Sequence[Sequence[Tensor]], context: StepContext) -> list[list[list[Tensor]]]:
        """Return detached features for the perceptual branches, by pyramid and scale, in one pass per scale."""
        with torch.no_grad(), context.autocast():
            by_scale = [
                self.feature_extractors(torch.cat(images), levels=self._num_feature_levels(scale)).discriminator
                for scale, images in enumerate(zip(*pyramids, strict=True))
            ]
        return [
            [[feature.chunk(len(pyramids))[index] for feature in features] for features in by_scale]
            for index in range(len(pyramids))
        ]

    def _num_feature_levels(self, scale: int) -> int:
        """Return the number of backbone features for the discriminator of a scale; 0 if it uses none."""
        return num_levels(scale) if self.config.discriminator.kind == "hierarchical" and scale < self.scales else 0

    @staticmethod
    def _input(outputs: GeneratorOutputs, scale: int, image: Tensor) -> Tensor:
        return image if outputs.conditions is None else torch.cat([outputs.conditions[scale], image], 1)

    def _discriminate(self, scale: int, x: Tensor, features: list[Tensor]) -> ScaleOutput:
        """Run the discriminator of one scale on an image, in V2 on label map and image (Eq. 8, 22)."""
        discriminators = self.networks["discriminator"]
        assert isinstance(discriminators, MultiScaleDiscriminator)
        output: ScaleOutput = discriminators.networks[scale](x, features)
        return output

    def _generator_adversarial(self, scale: int, output: ScaleOutput, mask: Tensor | None) -> Tensor:
        """Return the adversarial loss of the generator at one scale (Eq. 10, 24)."""
        return adversarial_loss([output.predictions], self.generator_term, [self.level_weights[scale]], mask)

    def _mask(self, batch: Batch) -> Tensor | None:
        """Return the foreground weights of Eq. 9, or None if the rate is 1."""
        loss = self.config.loss
        if loss.foreground_rate == 1:
            return None
        mask = foreground_weights(self.label_space.foreground(batch.label, loss.background_ids), loss.foreground_rate)
        return mask if self.variant.foreground_per_image else mask.mean(0, keepdim=True)
