"""What the methods share: discriminators with borrowed eyes, and the adversarial game over scales and levels (3.2)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lab2pix.batch import Batch
from lab2pix.config.schema import Config
from lab2pix.labels.space import LabelSpace
from lab2pix.losses import ADVERSARIAL_TERMS, adversarial_loss, foreground_mask, level_weights, sharpness_loss
from lab2pix.methods.base import PRECISIONS, Losses, Method, StepContext
from lab2pix.methods.features import FeatureExtractors
from lab2pix.nn.discriminators import MultiScaleDiscriminator, PatchDiscriminator, ScaleOutput
from lab2pix.nn.fast import accelerate, to_low_precision
from lab2pix.nn.generators import GeneratorSettings
from lab2pix.nn.init import xavier_init

__all__ = [
    "Carry",
    "HierarchicalGAN",
    "build_discriminator",
    "frozen_parameters",
    "generator_settings",
    "init_weights",
    "require_images",
]


def generator_settings(config: Config) -> GeneratorSettings:
    """Return the settings that the generators of both methods share."""
    settings = config.generator
    stride = 2**settings.doublings
    return GeneratorSettings(
        width=settings.width,
        num_upsamples=settings.doublings,
        start_size=(config.data.size[0] // stride, config.data.size[1] // stride),
        modulation=settings.modulation,
        modulation_hidden=settings.modulation_hidden,
        global_width=settings.global_encoder.width,
        global_max_width=settings.global_encoder.max_width,
        input=settings.start,
        noise_dim=settings.noise_dim,
        spectral_norm=settings.spectral_norm,
    )


def build_discriminator(config: Config, channels: int, backbone_channels: Sequence[int]) -> MultiScaleDiscriminator:
    """Return one discriminator per scale, largest image first: D3, D2 and, with three scales, D1.

    Args:
        config: the run.
        channels: width of what is judged: the image, or label map and image.
        backbone_channels: widths of the perceptual branch's features, by level.
    """
    settings = config.discriminator
    widths = {"width": settings.width, "max_width": settings.max_width}
    if settings.kind == "hierarchical":
        return MultiScaleDiscriminator.hierarchical(channels, backbone_channels, scales=settings.scales, **widths)
    return MultiScaleDiscriminator([PatchDiscriminator(channels, **widths) for _ in range(settings.scales)])


def init_weights(network: nn.Module, config: Config, released: Callable[[nn.Module], None]) -> None:
    """Draw a network's first weights as the released program does, or as `train.init_gain` says."""
    if config.train.init_gain is None:
        released(network)
    else:
        xavier_init(network, config.train.init_gain)


@dataclass(frozen=True)
class Carry:
    """What the generator's pass hands to the discriminators': no graph hangs on any of it.

    Attributes:
        conditions: label maps by scale, `[N, C, H/2^s, W/2^s]`; None where discriminators see images only.
        generated, real: images by scale, `[N, 3, H/2^s, W/2^s]`.
        generated_features: what the backbone sees in the generated images, by scale.
        real_features: what it sees in the real ones; None where nobody has looked yet.
        mask: foreground weights `[N, 1, H, W]`, or None where all pixels weigh alike.
    """

    conditions: list[Tensor] | None
    generated: list[Tensor]
    real: list[Tensor]
    generated_features: list[list[Tensor]]
    real_features: list[list[Tensor]] | None
    mask: Tensor | None


@contextmanager
def frozen_parameters(network: nn.Module) -> Iterator[None]:
    """Let gradients pass through a network without filling its own, and compute each normalized weight once."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        with parametrize.cached():
            yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def require_images(batch: Batch) -> Tensor:
    """Return the photos of a batch that must have some."""
    if batch.image is None:
        raise ValueError("training needs photos beside the label maps")
    return batch.image


class HierarchicalGAN(Method):
    """A generator against one discriminator per scale, which look through the eyes of a frozen backbone.

    Args:
        config: the run.
        label_space: what the class ids mean.
        channels: width of what the discriminators judge.
        initialise: draws the discriminators' first weights where `train.init_gain` leaves it to the method.
        masks_real: whether real and blurred images are weighed by the foreground mask too (V2), not only generated
            ones (V1, whose real images have no label map; Eq. 13).
        pretrained: false leaves the backbones at random weights.
    """

    def __init__(
        self,
        config: Config,
        label_space: LabelSpace,
        *,
        channels: int,
        initialize: Callable[[nn.Module], None],
        masks_real: bool,
        pretrained: bool = True,
    ) -> None:
        super().__init__(config, label_space, pretrained=pretrained)
        # Ids that the label space lacks shall be an error now, not at the first batch.
        label_space.foreground(torch.zeros(1, 1, 1, dtype=torch.int64), config.loss.background_ids)
        hierarchical = config.discriminator.kind == "hierarchical"
        self.feature_extractors = FeatureExtractors(config, levels=3 if hierarchical else 0, pretrained=pretrained)
        self.discriminator: nn.Module = build_discriminator(
            config, channels, self.feature_extractors.discriminator_channels
        )
        init_weights(self.discriminator, config, initialize)
        self.scales = config.discriminator.scales
        self.masks_real = masks_real
        self.weights = level_weights(
            [max(1, self._num_feature_levels(scale)) for scale in range(self.scales)], config.loss.adversarial_reduction
        )
        self.generator_term, self.real_term, self.fake_term = ADVERSARIAL_TERMS[config.loss.adversarial]
        # Pixels without a class cannot be read back.
        self.ignored = label_space.num_classes if label_space.unknown_value is not None else None

    @property
    def compile_targets(self) -> Sequence[nn.Module]:
        """The generator, and the discriminator of each scale."""
        assert isinstance(self.discriminator, MultiScaleDiscriminator)
        return [self.generator, *self.discriminator.networks]

    def to(self, device: torch.device, memory_format: torch.memory_format = torch.preserve_format) -> None:
        """Move players and frozen backbones to a device; backbones get the type of the run's passes."""
        for module in (*self.networks.values(), self.feature_extractors):
            module.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
        if self.config.train.precision != "fp32":
            to_low_precision(self.feature_extractors, PRECISIONS[self.config.train.precision])
        accelerate(self.feature_extractors, device)

    @abstractmethod
    def blurred_images(self, real: Sequence[Tensor]) -> list[Tensor]:
        """Return the blurred photos by scale (Eq. 16, 30), given the sharp ones."""

    def discriminator_backward(self, discriminator: nn.Module, carry: Carry, engine: StepContext) -> Losses:
        """Judge generated, real and blurred images in one pass (Eq. 11-13, 16; for V2 Eq. 25-27, 30).

        Returns:
            `real`, `fake` and, with λ2 > 0, `sharpness`: the terms as they enter the sum.
        """
        images = [carry.generated, carry.real]
        if self.config.loss.sharpness > 0:
            images.append(self.blurred_images(carry.real))
        features = [carry.generated_features, *([] if carry.real_features is None else [carry.real_features])]
        features += self._extract_features_batched(images[len(features) :], engine)
        with engine.autocast():
            inputs = [
                torch.cat([self._input(carry, scale, group[scale]) for group in images]) for scale in range(self.scales)
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
            losses = self._discriminator_terms(groups, carry.mask, self._sharpness(engine))
        engine.scale(torch.stack(list(losses.values())).sum()).backward()  # type: ignore[no-untyped-call]
        return {name: value.detach() for name, value in losses.items()}

    def _discriminator_terms(self, groups: list[list[list[Tensor]]], mask: Tensor | None, sharpness: float) -> Losses:
        """Return the weighted terms of real and fake images, and of sharpness (Eq. 11-13, 16; for V2 Eq. 25-27, 30)."""
        loss = self.config.loss
        share = 0.5 if loss.discriminator_halved else 1.0
        if loss.sharpness_normalized:
            share /= 1 + sharpness
        masks = mask if self.masks_real else None
        terms = {
            "real": share * adversarial_loss(groups[1], self.real_term, self.weights, masks),
            "fake": share * adversarial_loss(groups[0], self.fake_term, self.weights, mask),
        }
        if loss.sharpness > 0:
            both = (self.real_term, self.fake_term)
            terms["sharpness"] = share * sharpness * sharpness_loss(groups[1], groups[2], both, self.weights, masks)
        return terms

    # --- parts ----------------------------------------------------------------------------------------------------

    def _sharpness(self, engine: StepContext) -> float:
        """Return λ2 at this step."""
        loss = self.config.loss
        return loss.sharpness * (engine.progress if loss.sharpness_schedule == "rising" else 1.0)

    def _extract_features(self, images: Sequence[Tensor], engine: StepContext) -> list[list[Tensor]]:
        """Return what the perceptual branches see in images by scale, without a graph."""
        with torch.no_grad(), engine.autocast():
            return [
                self.feature_extractors(image, levels=self._num_feature_levels(scale)).discriminator
                for scale, image in enumerate(images)
            ]

    def _extract_features_batched(
        self, groups: Sequence[Sequence[Tensor]], engine: StepContext
    ) -> list[list[list[Tensor]]]:
        """Return what `_extract_features` does for groups of images, looked at side by side."""
        seen = self._extract_features([torch.cat(images) for images in zip(*groups, strict=True)], engine)
        return [
            [[feature.chunk(len(groups))[place] for feature in features] for features in seen]
            for place in range(len(groups))
        ]

    def _num_feature_levels(self, scale: int) -> int:
        """Return how many levels of the backbone a scale's discriminator looks through; 0 where there is none."""
        return 3 - scale if self.config.discriminator.kind == "hierarchical" and scale < self.scales else 0

    @staticmethod
    def _input(carry: Carry, scale: int, image: Tensor) -> Tensor:
        return image if carry.conditions is None else torch.cat([carry.conditions[scale], image], 1)

    def _discriminate(self, scale: int, judged: Tensor, features: list[Tensor]) -> ScaleOutput:
        """Let one scale's discriminator see an image, with its label map before it in V2 (Eq. 8, 22)."""
        networks = self.discriminator.networks
        output: ScaleOutput = networks[scale](judged, features)  # type: ignore[index,operator]
        return output

    def _mask(self, batch: Batch) -> Tensor | None:
        """Return the foreground weights of Eq. 9, or None where the rate makes them all one."""
        loss = self.config.loss
        if loss.foreground_rate == 1:
            return None
        mask = foreground_mask(self.label_space.foreground(batch.label, loss.background_ids), loss.foreground_rate)
        return mask if loss.foreground_per_image else mask.mean(0, keepdim=True)
