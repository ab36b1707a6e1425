"""Multi-scale GAN, the base of SPADE, CC-FPSE and TSIT; `PerceptualGAN` is also that of Pix2PixHD and OASIS.

Discriminators of several scales judge the image with hinge or other losses and feature matching; a frozen network adds
the perceptual loss; an image encoder, where there is one, is trained with the generator.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lab2pix.batch import Batch
from lab2pix.config.rules import check_first_scale
from lab2pix.config.schema import Beta, RunConfig, Section, TrainConfig
from lab2pix.labels.space import LabelSpace
from lab2pix.losses import (
    ADVERSARIAL_TERMS,
    AdversarialTerm,
    FeatureMatchingReduction,
    feature_matching_loss,
    kl_divergence,
    perceptual_loss,
)
from lab2pix.methods.backprop import backward, frozen
from lab2pix.methods.base import PRECISIONS, Losses, Method, OptimizerSpec, Phase, StepContext, require_images
from lab2pix.methods.features import BackboneName, load_backbone
from lab2pix.methods.schedules import late_epoch_decay
from lab2pix.nn.backbones import Backbone
from lab2pix.nn.discriminators import MultiScaleDiscriminator, PatchDiscriminator, ScaleOutput, pyramid
from lab2pix.nn.encoders import reparameterize
from lab2pix.nn.fast import accelerate, to_low_precision

__all__ = [
    "CheckpointingTrainConfig",
    "EpochAdamConfig",
    "GeneratorTrainConfig",
    "ImageLossConfig",
    "MultiScaleGAN",
    "MultiScaleGANConfig",
    "PatchDiscriminatorConfig",
    "PerceptualConfig",
    "PerceptualGAN",
    "PerceptualGANConfig",
    "PerceptualLossConfig",
    "PerceptualNetwork",
    "SemanticGANConfig",
    "SemanticGeneratorConfig",
    "StyleLossConfig",
    "adversarial_mean",
    "build_patch_discriminators",
    "discriminate",
]

Posterior = tuple[Tensor, Tensor]
"""Mean and log variance of z, `[N, noise_dim]` each, as the image encoder returns them."""

# --- settings ---------------------------------------------------------------------------------------------------------


class PatchDiscriminatorConfig(Section):
    """Multi-scale PatchGAN discriminators."""

    scales: int = Field(
        2, ge=1, description="Number of discriminators; each works at half the resolution of the one before."
    )
    width: int = Field(64, ge=1, description="Channels of the first convolution; they double with each.")
    max_width: int = Field(512, ge=1, description="The most channels a convolution has.")
    layers: int = Field(4, ge=1, description="Convolutions before the one that predicts.")


class PerceptualLossConfig(Section):
    """Loss terms and weights."""

    perceptual: float = Field(10.0, ge=0, description="Weight of the perceptual loss; 0: off.")


class ImageLossConfig(PerceptualLossConfig):
    """Loss terms and weights."""

    adversarial: Literal["hinge", "vanilla", "lsgan", "wgangp"] = Field(
        "hinge",
        description="Hinge, cross entropy (`original`), least squares (`ls`), or the mean without a penalty (`w`).",
    )
    feature_matching: float = Field(10.0, ge=0, description="Weight of feature matching; 0: off.")


class StyleLossConfig(ImageLossConfig):
    """Loss terms and weights."""

    kl_divergence: float = Field(
        0.05, ge=0, description="Weight of the divergence of encoded styles from N(0, 1), summed over the batch."
    )


class PerceptualConfig(Section):
    """Frozen network of the perceptual loss."""

    perceptual: BackboneName = Field("vgg19", description="Network of the perceptual loss.")
    normalize: bool = Field(
        False, description="Normalize images as in the network's pretraining, which the authors' code does not."
    )
    weights: dict[BackboneName, str] = Field(
        default_factory=dict, description="File with the weights, by network; else the torch hub cache or the package."
    )


class EpochAdamConfig(Section):
    """Adam and its learning-rate schedule."""

    generator_lr: float = Field(1e-4, gt=0, description="Learning rate of the generator and the image encoder.")
    discriminator_lr: float = Field(4e-4, gt=0, description="Learning rate of the discriminators.")
    betas: tuple[Beta, Beta] = Field((0.0, 0.9), description="Adam's two decay rates.")
    decay_fraction: float = Field(
        0.5, ge=0, le=1, description="Last part of the epochs in which the rates fall, once per epoch; 0: constant."
    )


class GeneratorTrainConfig(TrainConfig):
    """Training duration, batch size, precision and initialization."""

    init_gain: float = Field(0.02, gt=0, description="Gain of the initial weights, which are Xavier normal.")


class CheckpointingTrainConfig(GeneratorTrainConfig):
    """Training duration, batch size, precision and initialization."""

    gradient_checkpointing: bool = Field(False, description="Recompute the generator's blocks to save memory.")


class SemanticGeneratorConfig(Section):
    """Generator and image encoder."""

    width: int = Field(64, ge=2, description="Channels at the last scale; the first has 16 times as many.")
    num_upsamples: int = Field(5, ge=1, description="How often the size doubles.")
    input: Literal["label", "noise", "style"] = Field(
        "label",
        description="Input of the first scale: the small label map; noise; or style, which an image encoder learns to "
        "read off photos and noise stands in for (`use_vae`).",
    )
    noise_dim: int = Field(256, ge=1, description="Length of the noise or style vector z.")


class PerceptualGANConfig(RunConfig):
    """Settings common to Pix2PixHD, SPADE, CC-FPSE, TSIT and OASIS."""

    loss: PerceptualLossConfig = PerceptualLossConfig()
    backbone: PerceptualConfig = PerceptualConfig()


class MultiScaleGANConfig(PerceptualGANConfig):
    """Settings common to SPADE, CC-FPSE and TSIT."""

    loss: ImageLossConfig = ImageLossConfig()
    optimizer: EpochAdamConfig = EpochAdamConfig()
    train: GeneratorTrainConfig = GeneratorTrainConfig()


class SemanticGANConfig(MultiScaleGANConfig):
    """Settings common to the methods with an image encoder: SPADE, CC-FPSE and TSIT from label maps."""

    generator: SemanticGeneratorConfig = SemanticGeneratorConfig()
    loss: StyleLossConfig = StyleLossConfig()

    @property
    def size_rule(self) -> tuple[int, int]:
        """Divisor of the sides that the networks take, and the smallest side."""
        return 2**self.generator.num_upsamples, 1

    def check_samples_per_pass(self, samples: int, advice: str) -> None:
        """Check that batch norm at the first scale has more than one value per channel."""
        check_first_scale(self, self.generator.num_upsamples, samples, advice)


# --- discriminators and losses ----------------------------------------------------------------------------------------


def build_patch_discriminators(
    settings: PatchDiscriminatorConfig,
    channels: int,
    *,
    full_size_layer: int | None = None,
    spectral_norm: bool = True,
) -> MultiScaleDiscriminator:
    """Build one PatchGAN per scale, largest first; see `PatchDiscriminator`."""
    shape = settings.model_dump(exclude={"scales"})
    return MultiScaleDiscriminator(
        [
            PatchDiscriminator(channels, **shape, full_size_layer=full_size_layer, spectral_norm=spectral_norm)
            for _ in range(settings.scales)
        ]
    )


def discriminate(discriminator: nn.Module, x: Tensor) -> list[ScaleOutput]:
    """Run multi-scale discriminators on an input at all of their scales."""
    assert isinstance(discriminator, MultiScaleDiscriminator)
    scales = len(discriminator.networks)
    outputs: list[ScaleOutput] = discriminator(pyramid(x, scales), [()] * scales)
    return outputs


def adversarial_mean(outputs: Sequence[ScaleOutput], term: Literal["generator", "real", "fake"], form: str) -> Tensor:
    """Return the mean over all predictions, of scales and levels, of an adversarial loss (`ADVERSARIAL_TERMS`)."""
    function: AdversarialTerm = getattr(ADVERSARIAL_TERMS[form], term)
    return torch.stack([function(one.float()).mean() for output in outputs for one in output.predictions]).mean()


class PerceptualNetwork(nn.Module):
    """Frozen network of the perceptual loss.

    `lab2pix.methods.features.FeatureExtractors` is that of Lab2Pix, which also serves discriminators.

    Args:
        settings: name and weights of the network.
        pretrained: whether to load its weights; otherwise they are random.
    """

    def __init__(self, settings: PerceptualConfig, *, pretrained: bool) -> None:
        super().__init__()
        name = settings.perceptual
        self.network: Backbone = load_backbone(name, settings.weights.get(name), pretrained=pretrained)
        self.normalize = settings.normalize

    def features(self, image: Tensor) -> list[Tensor]:
        """Return five features of images `[N, 3, H, W]` in [-1, 1]."""
        image = self.network.normalize(image) if self.normalize else image
        features: list[Tensor] = self.network(image, levels=0, perceptual=True).perceptual
        return features

    def forward(self, generated: Tensor, real: Tensor) -> Tensor:
        """Return the perceptual loss (`lab2pix.losses.perceptual_loss`), with gradients of the generated images."""
        with torch.no_grad():
            target = self.features(real)
        return perceptual_loss(self.features(generated), target)


# --- the method -------------------------------------------------------------------------------------------------------


class PerceptualGAN(Method):
    """GAN with a perceptual loss by a frozen network."""

    config: PerceptualGANConfig

    def __init__(self, config: PerceptualGANConfig, label_space: LabelSpace, *, pretrained: bool = True) -> None:
        super().__init__(config, label_space, pretrained=pretrained)
        used = config.loss.perceptual > 0
        self.perceptual = PerceptualNetwork(config.backbone, pretrained=pretrained) if used else None
        self.networks: dict[str, nn.Module] = {}

    def perceptual_target(self, batch: Batch) -> Tensor:
        """Return the images that generated ones are compared with in the perceptual loss."""
        return require_images(batch)

    def to(self, device: torch.device, memory_format: torch.memory_format = torch.preserve_format) -> None:
        """Move networks and the perceptual network to a device; the latter is cast to `train.precision`."""
        super().to(device, memory_format)
        if self.perceptual is None:
            return
        self.perceptual.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
        if self.config.train.precision != "fp32":
            to_low_precision(self.perceptual, PRECISIONS[self.config.train.precision])
        accelerate(self.perceptual, device)

    def feature_networks(self) -> Mapping[str, str]:
        """Return the setting that names the network of the perceptual loss."""
        return {} if self.perceptual is None else {self.config.backbone.perceptual: "backbone.perceptual"}

    # --- scores -----------------------------------------------------------------------------------------------------

    @property
    def score_names(self) -> tuple[str, ...]:
        """`l1` and, with a perceptual loss, `perceptual`."""
        return ("l1",) if self.perceptual is None else ("l1", "perceptual")

    @torch.no_grad()
    def validation_scores(self, batch: Batch, generated: Tensor) -> dict[str, Tensor]:
        """Return `l1` (mean absolute difference in [-1, 1]) and, with a perceptual loss, `perceptual`."""
        real = self.perceptual_target(batch)
        scores = {"l1": F.l1_loss(generated, real)}
        if self.perceptual is not None:
            scores["perceptual"] = self.perceptual(generated, real)
        return scores


class MultiScaleGAN(PerceptualGAN):
    """GAN with the step of SPADE, CC-FPSE and TSIT.

    Generator phase: generate, judge, update the generator and its image encoder. Discriminator phase: generate again
    with the updated generator, in train mode and with new noise; judge generated and real images in one pass; update.
    A subclass puts "generator" and "discriminator" into `networks`; the image encoder, if any, is the generator's
    `image_encoder`.
    """

    feature_matching_reduction: ClassVar[FeatureMatchingReduction] = "scale-mean"
    """Reduction over layers and scales; see `lab2pix.losses.feature_matching_loss`."""
    config: MultiScaleGANConfig

    @property
    def optimizers(self) -> Mapping[str, OptimizerSpec]:
        """One Adam optimizer for the generator with its image encoder, and one for the discriminators."""
        settings = self.config.optimizer
        rates = {"generator": settings.generator_lr, "discriminator": settings.discriminator_lr}
        schedule = late_epoch_decay(settings.decay_fraction)
        return {name: OptimizerSpec((name,), lr, settings.betas, schedule=schedule) for name, lr in rates.items()}

    @property
    def phases(self) -> Sequence[Phase]:
        """The generator phase, then the discriminator phase."""
        return (
            Phase("generator", self.generator_backward, ("generator",)),
            Phase("discriminator", self.discriminator_backward, ("discriminator",)),
        )

    @property
    def compile_targets(self) -> Sequence[nn.Module]:
        """The generator, its image encoder, and each discriminator."""
        targets: list[nn.Module] = []
        for name, network in self.networks.items():
            encoder = getattr(network, "image_encoder", None)
            parts = network.networks if isinstance(network, MultiScaleDiscriminator) else [network]
            targets += [*parts, *([encoder] if name == "generator" and encoder is not None else [])]
        return targets

    # --- what differs between the methods ---------------------------------------------------------------------------

    @abstractmethod
    def discriminate(self, condition: Tensor, image: Tensor) -> list[ScaleOutput]:
        """Run the discriminators on images `[N, 3, H, W]` and the conditions that they belong to."""

    def draw(self, batch: Batch, condition: Tensor, noise: Tensor | None) -> tuple[Tensor, Posterior | None]:
        """Generate the training images of a batch.

        Args:
            batch: inputs and real images.
            condition: `[N, C, H, W]`.
            noise: `[N, noise_dim]`, which becomes a sample of the encoded style, or z itself without an image encoder.

        Returns:
            Images, and the posterior of z if there is an image encoder.
        """
        generator = self.networks["generator"]
        encoder = getattr(generator, "image_encoder", None)
        if encoder is None:
            return generator(condition, noise), None
        mean, log_variance = encoder(require_images(batch))
        z = reparameterize(mean.float(), log_variance.float(), noise)
        return generator(condition, z), (mean, log_variance)

    def real_images(self, batch: Batch) -> Tensor:
        """Return the images that the discriminators take for real."""
        return require_images(batch)

    # --- phases -----------------------------------------------------------------------------------------------------

    def generator_losses(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Return the weighted terms of the generator phase, with their graph.

        Terms are `kl_divergence` (with an image encoder), `adversarial`, and unless their weight is 0
        `feature_matching` and `perceptual`.
        """
        loss, condition = self.config.loss, self.sampling.condition(batch)
        terms: Losses = {}
        with context.autocast():
            fake, posterior = self.draw(batch, condition, noise)
            if posterior is not None:
                assert isinstance(loss, StyleLossConfig)
                terms["kl_divergence"] = loss.kl_divergence * kl_divergence(*posterior)
            # Two passes with one power iteration equal the authors' single pass on fake and real images, as no layer
            # of the discriminators mixes the images of a batch.
            with parametrize.cached():
                of_fake = self.discriminate(condition, fake)
                terms["adversarial"] = adversarial_mean(of_fake, "generator", loss.adversarial)
                if loss.feature_matching > 0:
                    with torch.no_grad():
                        of_real = self.discriminate(condition, self.real_images(batch))
                    terms["feature_matching"] = loss.feature_matching * feature_matching_loss(
                        [output.features for output in of_fake],
                        [output.features for output in of_real],
                        self.feature_matching_reduction,
                    )
            if self.perceptual is not None:
                terms["perceptual"] = loss.perceptual * self.perceptual(fake, self.perceptual_target(batch))
        return terms

    def generator_backward(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Backpropagate the sum of `generator_losses` to the generator and its image encoder."""
        with frozen(self.networks["discriminator"]):
            return backward(self.generator_losses(batch, noise, context), context.scale)

    def discriminator_backward(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Generate again with new noise, and backpropagate the terms `fake` and `real`."""
        condition, real = self.sampling.condition(batch), self.real_images(batch)
        with context.autocast():
            with torch.no_grad():
                fresh = None if noise is None else context.random.normal(*noise.shape)
                fake, _ = self.draw(batch, condition, fresh)
            found = self.discriminate(torch.cat([condition, condition]), torch.cat([fake, real.to(fake.dtype)]))
            of_fake, of_real = (
                [ScaleOutput([one.chunk(2)[half] for one in output.predictions], []) for output in found]
                for half in range(2)
            )
            form = self.config.loss.adversarial
            terms = {
                "fake": adversarial_mean(of_fake, "fake", form),
                "real": adversarial_mean(of_real, "real", form),
            }
        return backward(terms, context.scale)
