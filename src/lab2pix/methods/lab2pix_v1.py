"""Lab2Pix-V1: unpaired learning (4.1); with other settings, every step of the unpaired ablation (5.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.config.schema import Section
from lab2pix.errors import ConfigError
from lab2pix.labels.space import LabelSpace
from lab2pix.losses import (
    adversarial_loss,
    blurred,
    cycle_segmentation_loss,
    diversity_loss,
    image_consistency_loss,
)
from lab2pix.methods.backprop import ImageGradients
from lab2pix.methods.base import Losses, StepContext
from lab2pix.methods.gan import (
    AdamConfig,
    AdversarialLossConfig,
    DiscriminatorConfig,
    GeneratorConfig,
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
from lab2pix.nn.generators import Lab2PixV1Generator
from lab2pix.nn.icnet import ICNet
from lab2pix.nn.init import normal_init

__all__ = ["Lab2PixV1", "Lab2PixV1Config"]

# --- settings ---------------------------------------------------------------------------------------------------------


class V1GeneratorConfig(GeneratorConfig):
    """The generator (3.1)."""

    encoder: Literal["semantic", "sketch"] = Field(
        "semantic", description="The adaptive label encoder (3.1.1): for classes, or for line drawings."
    )
    progressive: bool = Field(False, description="Generate X1, X2 and X3 in one pass (Eq. 17); false: X3 alone.")
    coattention: bool = Field(False, description="Label guided spatial co-attention at the last scales (Eq. 7).")


class SegmenterConfig(Section):
    """The ICNets that segment the generated images (4.1.2)."""

    width: int = Field(32, ge=4, description="Channels of the first convolutions; the last stage has 32 times as many.")
    blocks: tuple[
        Annotated[int, Field(ge=1)],
        Annotated[int, Field(ge=1)],
        Annotated[int, Field(ge=1)],
        Annotated[int, Field(ge=1)],
    ] = Field((3, 4, 6, 3), description="Residual blocks of its four stages.")


class V1LossConfig(AdversarialLossConfig):
    """The loss terms and their weights (Eq. 20)."""

    consistency: float = Field(0.0, ge=0, description="λ3: weight of image consistency (Eq. 18); 0: off.")
    diversity: float = Field(
        0.0,
        ge=0,
        description="Not in the paper: weight of mode seeking, for which a quarter of a batch repeats the label maps "
        "of another quarter with other noise; 0: off, and noise may come to change little.",
    )
    cycle: float = Field(0.0, ge=0, description="λ4: weight of cycle segmentation (Eq. 19); 0: off.")
    cycle_warmup: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Not in the paper: first part of the run in which λ4 rises to its value from a thousandth of it; "
        "0: off.",
    )


class Lab2PixV1Config(HierarchicalGANConfig):
    """Settings of Lab2Pix-V1."""

    method: Literal["lab2pix-v1"] = Field("lab2pix-v1", description="Lab2Pix-V1: unpaired.")
    generator: V1GeneratorConfig = V1GeneratorConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    segmenter: SegmenterConfig = SegmenterConfig()
    loss: V1LossConfig = V1LossConfig()
    optimizer: AdamConfig = AdamConfig()

    def check_rules(self) -> None:
        """Check outputs, losses, encoder and data against each other, and the image size."""
        if self.loss.consistency > 0 and not self.generator.progressive:
            raise ConfigError(
                "loss.consistency compares outputs of neighboring scales, but generator.progressive is false; "
                "set loss.consistency=0 or generator.progressive=true"
            )
        if self.generator.progressive and self.discriminator.scales != 3:
            raise ConfigError(
                f"discriminator.scales is {self.discriminator.scales}, but generator.progressive makes three images, "
                "one for each discriminator; set discriminator.scales=3 or generator.progressive=false"
            )
        if self.loss.diversity > 0 and self.generator.input == "label":
            raise ConfigError(
                "loss.diversity asks noise for different images, but generator.input is 'label', which takes none; "
                "set loss.diversity=0 or generator.input=noise"
            )
        self._check_encoder()
        super().check_rules()

    def check_samples_per_pass(self, samples: int, advice: str) -> None:
        """Check that mode seeking has two images of one label map."""
        super().check_samples_per_pass(samples, advice)
        if self.loss.diversity > 0 and samples < 2:
            raise ConfigError(
                f"loss.diversity compares two images of a label map, but a forward pass holds {samples} "
                f"(train.batch_size={self.train.batch_size}, train.accumulate={self.train.accumulate}); {advice}, or "
                "set loss.diversity=0"
            )

    def _check_encoder(self) -> None:
        """Check that encoder, label space and format all mean classes, or all mean lines."""
        data, generator = self.data, self.generator
        if generator.encoder == "semantic":
            if data.layout == "sketch" or data.label_space == "sketch":
                key = "layout" if data.layout == "sketch" else "label_space"
                raise ConfigError(
                    f"data.{key} is 'sketch', but generator.encoder is 'semantic'; use a sketch preset such as "
                    "v1-edges2shoes, or set generator.encoder=sketch"
                )
            if generator.input == "label":
                raise ConfigError(
                    "generator.input is 'label', but the semantic label encoder starts from noise; set it to noise"
                )
            return
        if data.label_space != "sketch":
            raise ConfigError(
                f"generator.encoder is 'sketch', but data.label_space is '{data.label_space}'; set "
                "data.label_space=sketch"
            )
        if generator.num_upsamples != 5:
            raise ConfigError(
                f"generator.num_upsamples is {generator.num_upsamples}, but the sketch encoder halves five times; set "
                "it to 5"
            )
        if self.loss.foreground_rate != 1:
            raise ConfigError(
                f"loss.foreground_rate is {self.loss.foreground_rate:g}, but sketches have no classes to enhance; set "
                "it to 1"
            )


@dataclass(frozen=True)
class V1LossVariant(LossVariant):
    """Where the paper and the official code differ.

    Attributes:
        consistency: squared L2 norm per image, which helped where the plain norm of Eq. 18 did not, or the mean square.
        first_layers: image consistency on the first convolution of each stage, or on the second (Eq. 18).
    """

    consistency: Literal["squared", "mean-square"] = "squared"
    first_layers: bool = False


# --- the method -------------------------------------------------------------------------------------------------------

CYCLE_WARMUP_FACTOR = 1000.0
"""How many times larger λ4 is after its warm-up than at the first step."""


def downsample2x(image: Tensor) -> Tensor:
    """Halve `[N, C, H, W]` by the average of four: P_2 of Eq. 18, and how real images get their smaller forms."""
    return F.avg_pool2d(image, 2)


def num_diversity_pairs(count: int) -> int:
    """Return how many label maps of a batch are drawn twice, in place of as many others: a quarter of it."""
    return max(1, count // 4) if count > 1 else 0


def duplicate_labels(batch: Batch) -> Batch:
    """Return a batch that begins with some label maps and goes on with the same ones again, for other noise."""
    pairs = num_diversity_pairs(len(batch))
    inputs = batch[[*range(pairs), *range(pairs), *range(2 * pairs, len(batch))]]
    return replace(inputs, image=batch.image)


class Lab2PixV1(HierarchicalGAN):
    """The unpaired method of section 4.1, with its losses weighed as in Eq. 20.

    The images of a batch are any images: they teach the discriminators what is real, and nothing else.

    A step computes nothing twice: generator and segmenters run once; the adversarial and consistency gradients are
    collected at the images, scale by scale, so that no two discriminators' graphs are in memory together; the
    discriminators see generated, real and blurred images in one pass; a backbone sees each image once.
    """

    name: ClassVar[str] = "lab2pix-v1"
    Config = Lab2PixV1Config
    paired: ClassVar[bool] = False
    variants: ClassVar[Mapping[str, V1LossVariant]] = {
        "paper": V1LossVariant(),
        "official": V1LossVariant(
            foreground_per_image=False,
            normalize=False,
            normalize_discriminator=False,
            consistency="mean-square",
            first_layers=True,
        ),
    }
    config: Lab2PixV1Config
    variant: V1LossVariant

    def __init__(self, config: Lab2PixV1Config, label_space: LabelSpace, *, pretrained: bool = True) -> None:
        super().__init__(
            config,
            label_space,
            channels=3,
            losses=config.loss.consistency > 0,
            initialize=normal_init,
            masks_real=False,
            first_layers=self.variants[config.loss.variant].first_layers,
            pretrained=pretrained,
        )
        generator = self.build_generator(config, label_space)
        settings = config.segmenter
        self.segmenters = nn.ModuleList(
            ICNet(label_space.num_classes, width=settings.width, blocks=settings.blocks)
            for _ in range(self.sampling.outputs if config.loss.cycle > 0 else 0)
        )
        learners = {"segmenters": self.segmenters} if len(self.segmenters) else {}
        self.networks = {"generator": generator, **learners, **self.networks}

    @classmethod
    def build_sampling(cls, config: Lab2PixV1Config, label_space: LabelSpace) -> Sampling:
        """Return how images are sampled: from classes or lines, at one or three sizes."""
        settings = config.generator
        lines = settings.encoder == "sketch"
        return Sampling(
            Condition(label_space, "lines" if lines else "labels", edges=config.data.instance_edges and not lines),
            size_multiple=2**settings.num_upsamples,
            noise_channels=0 if settings.input == "label" else settings.noise_dim,
            outputs=3 if settings.progressive else 1,
        )

    @classmethod
    def build_generator(cls, config: Lab2PixV1Config, label_space: LabelSpace) -> nn.Module:
        """Return the generator, initialized as in the official code or as `train.init_gain` says."""
        generator = Lab2PixV1Generator(
            cls.build_sampling(config, label_space).condition.channels,
            encoder=config.generator.encoder,
            progressive=config.generator.progressive,
            coattention=config.generator.coattention,
            **generator_kwargs(config),
        )
        init_weights(generator, config, normal_init)
        return generator

    @property
    def compile_targets(self) -> Sequence[nn.Module]:
        """Each segmenter by itself."""
        targets = [target for target in super().compile_targets if target is not self.segmenters]
        return [*targets, *self.segmenters]

    def generator_backward(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Generate and segment once, collect the other losses' gradients at the images, and send all of it back.

        Returns:
            `adversarial` (Eq. 10), `consistency` (Eq. 18), `diversity` and `cycle` (Eq. 19) as they enter the sum, each
            where its weight is not 0.
        """
        loss = self.config.loss
        if loss.diversity > 0:
            batch = duplicate_labels(batch)
        with context.autocast():
            images: list[Tensor] = self.networks["generator"](self.sampling.condition(batch), noise)
            logits = [segmenter(image) for segmenter, image in zip(self.segmenters, images, strict=False)]
        gradients = ImageGradients(self._pad_pyramid([image.float() for image in images]), context.scale)
        mask = self._mask(batch)
        features: list[list[Tensor]] = []
        with frozen_parameters(self.networks["discriminator"]):
            for scale in range(self.scales):
                gradients.backward(self._scale_terms(scale, gradients.leaves, noise, mask, context, features))
        weight = self._cycle_weight(context)
        cycle = {"cycle": weight * cycle_segmentation_loss(logits, batch.label, self.ignored)} if logits else {}
        gradients.flush(cycle)
        context.cache["outputs"] = GeneratorOutputs(
            conditions=None,
            generated=[leaf.detach() for leaf in gradients.leaves],
            real=self._pad_pyramid([require_images(batch)]),
            generated_features=features,
            real_features=None,
            mask=mask,
        )
        return gradients.losses

    def _cycle_weight(self, context: StepContext) -> float:
        """Return λ4 at this step.

        While it rises, a thousandfold and evenly in its logarithm, the segmenters learn as fast as ever (Adam does not
        mind how large a loss is), but have little say in what the generator draws.
        """
        loss = self.config.loss
        if loss.cycle_warmup == 0:
            return loss.cycle
        return float(loss.cycle * CYCLE_WARMUP_FACTOR ** min(0.0, context.progress.fraction / loss.cycle_warmup - 1))

    def _pad_pyramid(self, images: list[Tensor]) -> list[Tensor]:
        """Return one image per discriminator: those at hand, and the smallest of them halved as often as need be."""
        images = images[: self.scales]
        while len(images) < self.scales:
            images.append(downsample2x(images[-1]))
        return images

    def _scale_terms(
        self,
        scale: int,
        images: list[Tensor],
        noise: Tensor | None,
        mask: Tensor | None,
        context: StepContext,
        features: list[list[Tensor]],
    ) -> Losses:
        """Return one scale's adversarial term, its difference from the scale above, and that of its diversity pairs.

        The backbone's features of the image for the discriminator are appended to `features`, without a graph.
        """
        loss = self.config.loss
        consistent = loss.consistency > 0 and scale > 0
        with context.autocast():
            own = self.feature_extractors(images[scale], levels=self._num_feature_levels(scale), consistency=consistent)
            output = self._discriminate(scale, images[scale], own.discriminator)
            terms = {
                "adversarial": adversarial_loss([output.predictions], self.generator_term, [self.weights[scale]], mask)
            }
            if consistent:
                pooled = downsample2x(images[scale - 1])
                above = self.feature_extractors(pooled, levels=0, consistency=True).consistency
                terms["consistency"] = loss.consistency * image_consistency_loss(
                    above, own.consistency, self.variant.consistency
                )
        if loss.diversity > 0 and noise is not None and (both := 2 * num_diversity_pairs(len(noise))):
            terms["diversity"] = loss.diversity / self.scales * diversity_loss(images[scale][:both], noise[:both])
        features.append([feature.detach() for feature in own.discriminator])
        return terms

    def blurred_images(self, real: Sequence[Tensor]) -> list[Tensor]:
        """Return every size of the photo blurred by itself: a smaller form of a blurred photo would be sharp again."""
        return [blurred(image, "average") for image in real]

    # --- scores ---------------------------------------------------------------------------------------------------

    @property
    def score_names(self) -> tuple[str, ...]:
        """`cycle` and `seg_error`, where there are segmenters."""
        return ("cycle", "seg_error") if len(self.segmenters) else ()

    @torch.no_grad()
    def validation_scores(self, batch: Batch, generated: Tensor) -> dict[str, Tensor]:
        """Return `cycle` (Eq. 19 at the full size) and `seg_error`, the share of pixels that S_3 reads otherwise."""
        if not len(self.segmenters):
            return {}
        logits = self.segmenters[0](generated)
        counting = batch.label != (-1 if self.ignored is None else self.ignored)
        wrong = ((logits.argmax(1) != batch.label) & counting).sum() / counting.sum().clamp(min=1)
        return {"cycle": cycle_segmentation_loss([logits], batch.label, self.ignored), "seg_error": wrong}
