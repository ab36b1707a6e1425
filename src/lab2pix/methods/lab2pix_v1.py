"""Lab2Pix-V1: unpaired label-to-image synthesis (4.1), including every step of the unpaired ablation (5.4)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.config.schema import DataConfig, Section
from lab2pix.errors import CheckpointError, ConfigError
from lab2pix.interop.conversion import (
    CheckpointFormat,
    ConversionOptions,
    Converted,
    check_num_upsamples,
    fit_label_space,
)
from lab2pix.interop.keymap import load_renamed
from lab2pix.interop.vectors import Row, Vectors, check_case, compare, compare_value, failure, one_by_one
from lab2pix.labels.space import LabelSpace
from lab2pix.losses import (
    AdversarialTerm,
    adversarial_loss,
    blur,
    cycle_segmentation_loss,
    diversity_loss,
    foreground_weights,
    image_consistency_loss,
    level_weights,
    vanilla_fake,
    vanilla_real,
)
from lab2pix.methods.backprop import ImageGradients
from lab2pix.methods.base import Losses, StepContext, require_images
from lab2pix.methods.hierarchical_gan import (
    AdversarialLossConfig,
    GeneratorOutputs,
    HierarchicalGAN,
    HierarchicalGANAdamConfig,
    HierarchicalGANConfig,
    HierarchicalGANDiscriminatorConfig,
    HierarchicalGANGeneratorConfig,
    LossVariant,
    frozen_and_cached,
    generator_settings,
    init_from_config,
)
from lab2pix.methods.sampling import Condition, Sampling
from lab2pix.nn.generators import Lab2PixV1Generator
from lab2pix.nn.init import normal_init
from lab2pix.nn.official_v1 import OfficialNorm, OfficialV1Discriminator, OfficialV1Generator
from lab2pix.nn.segmentation import ICNet

# --- settings -------------------------------------------------------------------------------------------------------


class OfficialConfig(Section):
    """Further settings of the official code's generator."""

    norm: Literal["batch", "instance"] = "instance"
    start_size: tuple[int, int] = (2, 4)


class V1GeneratorConfig(HierarchicalGANGeneratorConfig):
    """Generator (3.1)."""

    encoder: Literal["semantic", "sketch"] = Field(
        "semantic", description="The adaptive label encoder (3.1.1): for classes, or for line drawings."
    )
    progressive: bool = Field(False, description="Generate X1, X2 and X3 in one pass (Eq. 17); false: X3 alone.")
    official: OfficialConfig | None = Field(
        None, description="Network of the official code, which is converted, not trained."
    )
    coattention: bool = Field(False, description="Label guided spatial co-attention at the last scales (Eq. 7).")


class SegmenterConfig(Section):
    """ICNet segmenters of the generated images (4.1.2)."""

    width: int = Field(32, ge=4, description="Channels of the first convolutions; the last stage has 32 times as many.")
    blocks: tuple[
        Annotated[int, Field(ge=1)],
        Annotated[int, Field(ge=1)],
        Annotated[int, Field(ge=1)],
        Annotated[int, Field(ge=1)],
    ] = Field((3, 4, 6, 3), description="Residual blocks of its four stages.")


class V1LossConfig(AdversarialLossConfig):
    """Loss terms and weights (Eq. 20)."""

    consistency: float = Field(0.0, ge=0, description="λ3: weight of image consistency (Eq. 18); 0: off.")
    diversity: float = Field(
        0.0,
        ge=0,
        description="Not in the paper: weight of mode seeking, for which a quarter of a batch repeats the label maps "
        "of another quarter with other noise; 0: off, and the generator may ignore the noise.",
    )
    cycle: float = Field(0.0, ge=0, description="λ4: weight of cycle segmentation (Eq. 19); 0: off.")
    cycle_warmup: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Not in the paper: first fraction of the run in which λ4 rises from a thousandth of its value; "
        "0: off.",
    )


class Lab2PixV1Config(HierarchicalGANConfig):
    """Settings of Lab2Pix-V1."""

    method: Literal["lab2pix-v1"] = Field("lab2pix-v1", description="Lab2Pix-V1: unpaired.")
    generator: V1GeneratorConfig = V1GeneratorConfig()
    discriminator: HierarchicalGANDiscriminatorConfig = HierarchicalGANDiscriminatorConfig()
    segmenter: SegmenterConfig = SegmenterConfig()
    loss: V1LossConfig = V1LossConfig()
    optimizer: HierarchicalGANAdamConfig = HierarchicalGANAdamConfig()

    def check_rules(self) -> None:
        """Check outputs, losses, encoder, data and image size against each other."""
        if self.generator.official is not None:
            raise ConfigError("generator.official is a converted network, which cannot be trained; omit it")
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
                "loss.diversity needs noise, but generator.input is 'label', which uses none; "
                "set loss.diversity=0 or generator.input=noise"
            )
        self._check_encoder()
        super().check_rules()

    def check_samples_per_pass(self, samples: int, advice: str) -> None:
        """Check that the diversity loss (mode seeking) has two images per label map."""
        super().check_samples_per_pass(samples, advice)
        if self.loss.diversity > 0 and samples < 2:
            raise ConfigError(
                f"loss.diversity compares two images of a label map, but a forward pass holds {samples} "
                f"(train.batch_size={self.train.batch_size}, train.accumulate={self.train.accumulate}); {advice}, or "
                "set loss.diversity=0"
            )

    def _check_encoder(self) -> None:
        """Check that encoder, label space and format agree on classes or line drawings."""
        data, generator = self.data, self.generator
        if generator.encoder == "semantic":
            if data.format == "sketch" or data.label_space == "sketch":
                key = "format" if data.format == "sketch" else "label_space"
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
    """Differences between the paper and the official code.

    Attributes:
        consistency: squared L2 norm per image (works better than the plain norm of Eq. 18), or mean square.
        first_layers: whether image consistency uses the first convolution of each stage, or the second (Eq. 18).
    """

    consistency: Literal["squared", "mean-square"] = "squared"
    first_layers: bool = False


# --- the method -----------------------------------------------------------------------------------------------------

CYCLE_WARMUP_FACTOR = 1000.0
"""Ratio of λ4 after its warm-up to λ4 at the first step."""


def downsample2x(image: Tensor) -> Tensor:
    """Downsample `[N, C, H, W]` by 2x2 average pooling: P_2 of Eq. 18, and the pyramid of real images."""
    return F.avg_pool2d(image, 2)


def num_diversity_pairs(count: int) -> int:
    """Return the number of label maps in a batch that are used twice for the diversity loss: a quarter of it."""
    return max(1, count // 4) if count > 1 else 0


def duplicate_labels(batch: Batch) -> Batch:
    """Replace the second quarter of a batch's inputs by the first, to generate them with other noise."""
    pairs = num_diversity_pairs(len(batch))
    inputs = batch[[*range(pairs), *range(pairs), *range(2 * pairs, len(batch))]]
    return replace(inputs, image=batch.image)


class Lab2PixV1(HierarchicalGAN):
    """Lab2Pix-V1, the unpaired method (4.1), with the weighted losses of Eq. 20.

    Real images in a batch are random; only the discriminators use them.

    A step computes nothing twice: generator and segmenters run once; adversarial and consistency gradients are
    accumulated at the images scale by scale, so that only one discriminator's graph is in memory; discriminators run
    once on generated, real and blurred images; backbone features are computed once per image.
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
            loss_features=config.loss.consistency > 0,
            default_init=normal_init,
            mask_real=False,
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
        """Return the sampling: from classes or line drawings, to one or three sizes."""
        settings = config.generator
        lines = settings.encoder == "sketch"
        one_pixel = settings.official is None or settings.official.norm == "batch"
        return Sampling(
            Condition(label_space, "lines" if lines else "labels", edges=config.data.instance_edges and not lines),
            size_multiple=2**settings.num_upsamples,
            min_pixels=1 if one_pixel else 2,  # instance norm is undefined for a single pixel
            noise_channels=0 if settings.input == "label" else settings.noise_dim,
            outputs=3 if settings.progressive else 1,
        )

    @classmethod
    def build_generator(cls, config: Lab2PixV1Config, label_space: LabelSpace) -> nn.Module:
        """Build the generator, initialized as in the official code or with `train.init_gain`."""
        channels, settings = cls.build_sampling(config, label_space).condition.channels, config.generator
        if (official := settings.official) is not None:
            return OfficialV1Generator(
                channels,
                task=settings.encoder,
                width=settings.width,
                hidden=settings.modulation_hidden,
                norm=official.norm,
                noise_dim=settings.noise_dim,
                start_size=official.start_size,
            )
        generator = Lab2PixV1Generator(
            channels,
            generator_settings(config),
            encoder=settings.encoder,
            progressive=settings.progressive,
            coattention=settings.coattention,
        )
        generator.set_grad_checkpointing(config.train.gradient_checkpointing)
        init_from_config(generator, config, normal_init)
        return generator

    def generator_backward(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Generate and segment once, accumulate the gradients of all losses at the images, and backpropagate.

        Returns:
            Weighted terms `adversarial` (Eq. 10), `consistency` (Eq. 18), `diversity` and `cycle` (Eq. 19), except
            those of weight 0.
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
        with frozen_and_cached(self.networks["discriminator"]):
            for scale in range(self.scales):
                terms, scale_features = self._scale_losses(scale, gradients.leaves, noise, mask, context)
                gradients.backward(terms)
                features.append(scale_features)
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
        """Return the weight λ4 of cycle segmentation, with an exponential warm-up by `CYCLE_WARMUP_FACTOR`.

        Adam is scale-invariant, so the warm-up does not slow the segmenters down; it only reduces their influence on
        the generator.
        """
        loss = self.config.loss
        if loss.cycle_warmup == 0:
            return loss.cycle
        return float(loss.cycle * CYCLE_WARMUP_FACTOR ** min(0.0, context.progress.fraction / loss.cycle_warmup - 1))

    def _pad_pyramid(self, images: list[Tensor]) -> list[Tensor]:
        """Return one image per discriminator, adding downsampled copies of the smallest if needed."""
        images = images[: self.scales]
        while len(images) < self.scales:
            images.append(downsample2x(images[-1]))
        return images

    def _scale_losses(
        self, scale: int, images: list[Tensor], noise: Tensor | None, mask: Tensor | None, context: StepContext
    ) -> tuple[Losses, list[Tensor]]:
        """Return the weighted adversarial, consistency and diversity terms of a scale, and its detached features."""
        loss = self.config.loss
        levels, consistent = self._num_feature_levels(scale), loss.consistency > 0 and scale > 0
        with context.autocast():
            features = self.feature_extractors(images[scale], levels=levels, consistency=consistent)
            output = self._discriminate(scale, images[scale], features.discriminator)
            terms = {"adversarial": self._generator_adversarial(scale, output, mask)}
            if consistent:
                pooled = self.feature_extractors(downsample2x(images[scale - 1]), levels=0, consistency=True)
                terms["consistency"] = loss.consistency * image_consistency_loss(
                    pooled.consistency, features.consistency, self.variant.consistency
                )
        if loss.diversity > 0 and noise is not None and (count := 2 * num_diversity_pairs(len(noise))):
            terms["diversity"] = loss.diversity / self.scales * diversity_loss(images[scale][:count], noise[:count])
        return terms, [feature.detach() for feature in features.discriminator]

    def blurred_images(self, real: Sequence[Tensor]) -> list[Tensor]:
        """Blur every scale of the real image separately, as downsampling a blurred image would sharpen it."""
        return [blur(image, "average") for image in real]

    # --- scores -----------------------------------------------------------------------------------------------------

    @property
    def score_names(self) -> tuple[str, ...]:
        """`cycle` and `seg_error`, if there are segmenters."""
        return ("cycle", "seg_error") if len(self.segmenters) else ()

    @torch.no_grad()
    def validation_scores(self, batch: Batch, generated: Tensor) -> dict[str, Tensor]:
        """Return `cycle` (Eq. 19 at full size) and `seg_error`, the fraction of pixels misclassified by S_3."""
        if not len(self.segmenters):
            return {}
        logits = self.segmenters[0](generated)
        valid = batch.label != (-1 if self.ignored is None else self.ignored)
        error = ((logits.argmax(1) != batch.label) & valid).sum() / valid.sum().clamp(min=1)
        return {"cycle": cycle_segmentation_loss([logits], batch.label, self.ignored), "seg_error": error}

    # --- the official code ------------------------------------------------------------------------------------------

    @classmethod
    def checkpoint_formats(cls) -> Mapping[str, CheckpointFormat]:
        """Return the format of the official generator."""

        def matches(state: Mapping[str, Tensor]) -> bool:
            return {"noise_process.weight", "out_7.0.weight"} <= state.keys()

        return {"lab2pix-v1-official": CheckpointFormat(matches, _convert)}

    @classmethod
    def reads_vectors(cls, vectors: Vectors) -> bool:
        """Recognize the official V1 generator and its largest discriminator."""
        names = vectors.tensors
        return "G.noise_process.weight" in names and any(name.startswith("D3.") for name in names)

    @classmethod
    def check_vectors(cls, vectors: Vectors, *, fast: bool = False) -> Iterator[Row]:
        """Compare the official networks and losses; `fast` has no effect."""
        case = _Vectors(vectors)
        checks = partial(_check_tensor, case), partial(_check_value, case)
        return check_case(vectors, case.known_names, *checks, settings=("background_ids",))


# --- weights of the official code -----------------------------------------------------------------------------------


def _norm(state: Mapping[str, Tensor], name: str) -> OfficialNorm:
    return "batch" if f"{name}.running_mean" in state else "instance"


def _infer_generator_settings(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Infer the keyword arguments of `OfficialV1Generator`, except `start_size`, from a state dict.

    Args:
        state: state dict under the official names.

    Raises:
        KeyError: a weight is missing.
    """
    shared = state["SPADEResBlock_3.SPADE_1.common_conv.0.weight"]
    return {
        "classes": shared.shape[1],
        "task": "sketch" if "encoder.model.0.weight" in state else "semantic",
        "width": state["out_7.0.weight"].shape[1],
        "hidden": shared.shape[0],
        "norm": _norm(state, "SPADEResBlock_3.SPADE_1.normalization"),
        "noise_dim": state["noise_process.weight"].shape[1],
    }


def _discriminator_settings(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Infer the keyword arguments of `OfficialV1Discriminator` from a state dict.

    Args:
        state: state dict under the official names.

    Raises:
        KeyError: a weight is missing.
    """
    width, max_width = state["common.0.weight"].shape[0], state["gcb1.0.weight"].shape[0]
    levels = sum(name.startswith("gcb") and name.endswith(".0.weight") for name in state)
    mains = [4 * width, *[max_width] * (levels - 1)]
    fused = [state[f"gcb{level}.0.weight"].shape[1] for level in range(1, levels + 1)]
    return {
        "backbone_channels": [total - main for total, main in zip(fused, mains, strict=True)],
        "width": width,
        "max_width": max_width,
        "norm": _norm(state, "common.1"),
    }


def _convert(path: Path, state: dict[str, Tensor], options: ConversionOptions) -> Converted:
    settings = _infer_generator_settings(state)
    sketch = settings["task"] == "sketch"
    if sketch:
        space, num_upsamples = _sketch_space(path, settings["classes"], options), 5
    else:
        fit = fit_label_space(path, settings["classes"], options, edges_possible=False)
        space, num_upsamples = fit.space, 7
        settings["classes"] = fit.pad_unknown_channel(state, r"\.(common_conv|seg_process)\.0\.weight$")
    check_num_upsamples(options, {num_upsamples})
    area = state["noise_process.weight"].shape[0] // (16 * settings["width"])
    if area == 0:
        raise ValueError("noise becomes a map of no pixels")
    if sketch:  # the start map is unused, so any shape of this area works
        settings["start_size"], size = (1, area), options.size or (256, 256)
    else:
        settings["start_size"] = _start_size(options.size, 2**num_upsamples, area)
        size = (settings["start_size"][0] * 2**num_upsamples, settings["start_size"][1] * 2**num_upsamples)
    config = Lab2PixV1Config(
        name="lab2pix-v1-official",
        data=DataConfig(label_space=space.name, size=size),
        generator=V1GeneratorConfig(
            width=settings["width"],
            num_upsamples=num_upsamples,
            encoder=settings["task"],
            progressive=True,
            coattention=True,
            modulation="spade",
            modulation_hidden=settings["hidden"],
            input="label" if sketch else "noise",
            noise_dim=settings["noise_dim"],
            spectral_norm=False,
            official=OfficialConfig(norm=settings["norm"], start_size=settings["start_size"]),
        ),
    )
    Lab2PixV1.build_sampling(config, space).check_size(*size)
    generator = Lab2PixV1.build_generator(config, space)
    load_renamed(generator, (), state, f"generator in {path}")
    return Converted(generator.eval(), config, space)


def _sketch_space(path: Path, channels: int, options: ConversionOptions) -> LabelSpace:
    space = LabelSpace.load(options.label_space or "sketch")
    if channels != 1 or space.name != "sketch":
        raise CheckpointError(
            f"{path} generates from sketches of {channels} channel(s), but label space '{space.name}' has "
            f"{space.num_classes} classes; omit --label-space, or set it to sketch"
        )
    return space


def _start_size(size: tuple[int, int] | None, stride: int, area: int) -> tuple[int, int]:
    """Return height and width of the start map: those for `size`, else twice as wide as high, else square."""
    shapes = [(side, area // side) for side in range(1, area + 1) if area % side == 0]
    if size is not None:
        shapes = [shape for shape in shapes if (shape[0] * stride, shape[1] * stride) == size]
    else:
        shapes = [shape for ratio in (2, 1) for shape in shapes if shape[1] == ratio * shape[0]]
    if shapes:
        return shapes[0]
    sizes = ", ".join(f"{side * stride}x{area // side * stride}" for side in range(1, area + 1) if area % side == 0)
    wrong = "the image size is unknown" if size is None else f"a size of {size[0]}x{size[1]} does not fit"
    raise ConfigError(f"{wrong} (height x width): this checkpoint can have {sizes}; choose one with --size")


# --- vector files ---------------------------------------------------------------------------------------------------

_SCALES = (3, 2, 1)
_TASKS = {"semantic2image": "semantic", "sketch2image": "sketch"}
_INPUTS = {"semantic": ("in.label", "in.image", "in.noise"), "sketch": ("in.sketch", "in.image", "in.noise")}


class _Vectors:
    """Networks of a V1 vector file, with settings inferred from weight shapes, and their outputs.

    Args:
        vectors: content of the vector file.

    Attributes:
        generator: generator in eval mode.
        discriminators: discriminators in the file, in eval mode, that of X3 first.

    Raises:
        CheckpointError: the file is incomplete or inconsistent, or has weights of unknown names.
    """

    def __init__(self, vectors: Vectors) -> None:
        self.vectors, self.config = vectors, vectors.values["config"]
        try:
            self.generator = self._generator()
            self.discriminators = {scale: self._discriminator(scale) for scale in _SCALES if self._part(scale)}
            self.condition, self.image = self._condition(), vectors.tensors["in.image"].float()
        except KeyError as error:
            raise CheckpointError(f"the vector file lacks {error}, without which nothing can be compared") from error

    # --- content of the file ----------------------------------------------------------------------------------------

    @property
    def known_names(self) -> set[str]:
        """Names of weights and inputs that the outputs depend on; network weights are loaded strictly."""
        pattern = re.compile(r"G\.|D[123]\.(?!backboneNet\.)|D[123]\.backboneNet\.p[345]\.|VGG19\.r[1-5]\.")
        inputs = _INPUTS[self.generator.task]
        return {name for name in self.vectors.tensors if name in inputs or pattern.match(name)}

    def _part(self, scale: int) -> dict[str, Tensor]:
        return self.vectors.part(f"D{scale}.")

    def _generator(self) -> OfficialV1Generator:
        weights = self.vectors.part("G.")
        settings, config = _infer_generator_settings(weights), self.config
        recorded = {
            "task": _TASKS.get(config["task"], config["task"]),
            "norm": config["norm"],
            "classes": config["num_classes"],
            "width": config["ngf"],
        }
        for key, value in recorded.items():
            if value != settings[key]:
                raise CheckpointError(
                    f"the JSON file says {key} {value!r}, but the generator's weights have {settings[key]!r}"
                )
        start = (int(config["height"]) >> 7, int(config["width"]) >> 7)
        if settings["task"] == "sketch":  # the start map is unused, so any shape of this area works
            start = (1, weights["noise_process.weight"].shape[0] // (16 * settings["width"]))
        generator = OfficialV1Generator(**settings, start_size=start)
        load_renamed(generator, (), weights, "generator")
        return generator.eval()

    def _discriminator(self, scale: int) -> OfficialV1Discriminator:
        weights = {name: weight for name, weight in self._part(scale).items() if not name.startswith("backboneNet.")}
        discriminator = OfficialV1Discriminator(**_discriminator_settings(weights))
        load_renamed(discriminator, (), weights, f"discriminator D{scale}")
        return discriminator.eval()

    def _condition(self) -> Tensor:
        """Return the condition `[N, classes, H, W]`: one-hot classes, or the sketch at image size."""
        tensors = self.vectors.tensors
        size = (int(self.config["height"]), int(self.config["width"]))
        if self.generator.task == "sketch":
            return F.interpolate(tensors["in.sketch"].float(), size=size, mode="nearest")
        ids, classes = self.ids, self.generator.classes
        if int(ids.max()) >= classes:
            raise CheckpointError(
                f"the label map holds ids up to {int(ids.max())}, but the generator has {classes} classes"
            )
        return F.one_hot(ids, classes).permute(0, 3, 1, 2).float()

    @property
    def ids(self) -> Tensor:
        """Class ids `[N, H, W]`."""
        label = self.vectors.tensors["in.label"].long()
        return label[:, 0] if label.ndim == 4 else label

    # --- outputs of the networks ------------------------------------------------------------------------------------

    @cached_property
    @torch.no_grad()
    def generated(self) -> list[Tensor]:
        """X3, X2, X1."""
        noise = self.vectors.tensors.get("in.noise")
        images: list[Tensor] = self.generator(self.condition, None if noise is None else noise.float())
        return images

    @cached_property
    def mask(self) -> Tensor | None:
        """Foreground weights `[N, 1, H, W]` (Eq. 9); None for sketches."""
        if self.generator.task == "sketch":
            return None
        background = torch.tensor(self.vectors.values["background_ids"], dtype=torch.long)
        return foreground_weights(~torch.isin(self.ids, background), float(self.config["foreground_T"]))

    @cached_property
    @torch.no_grad()
    def logits(self) -> dict[str, dict[int, list[Tensor]]]:
        """Discriminator logits by type of image (fake, real, blurred), scale and level.

        Smaller real images are average-pooled from the full one (2x2, 4x4); each scale is blurred separately.
        """
        fake = dict(zip(_SCALES, self.generated, strict=True))
        real = {scale: F.avg_pool2d(self.image, 2 ** (3 - scale)) for scale in _SCALES}
        blurred = {scale: blur(image, "average") for scale, image in real.items()}
        return {
            name: {scale: self._discriminate(scale, images[scale]) for scale in self.discriminators}
            for name, images in {"fake": fake, "real": real, "blurred": blurred}.items()
        }

    def _discriminate(self, scale: int, image: Tensor) -> list[Tensor]:
        network, weights = self.discriminators[scale], self._part(scale)
        features = [
            one_by_one(image, 8 << level, weights, f"backboneNet.p{3 + level}") for level in range(network.levels)
        ]
        predictions: list[Tensor] = network(image, features)
        return predictions

    # --- losses -----------------------------------------------------------------------------------------------------

    @cached_property
    def losses(self) -> dict[str, list[Tensor]]:
        """Loss terms by official name, one value per scale, X3 first (Eq. 10-13, 16, 18)."""
        return {
            "G_GAN": self._adversarial("fake", vanilla_real, self.mask),
            "D_fake": self._adversarial("fake", vanilla_fake, self.mask),
            "D_real": self._adversarial("real", vanilla_real, None),
            "D_blurred": self._adversarial("blurred", vanilla_fake, None),
            "consistency": self._consistency,
        }

    def _adversarial(self, images: str, term: AdversarialTerm, mask: Tensor | None) -> list[Tensor]:
        if mask is not None:
            # The official code multiplies [N, 1, h, w] by [N, h, w], so each sample is weighted by the mean mask.
            mask = mask.mean(0, keepdim=True)
        scales = self.logits[images].values()
        return [adversarial_loss([levels], term, level_weights([len(levels)]), mask) for levels in scales]

    @property
    @torch.no_grad()
    def _consistency(self) -> list[Tensor]:
        """Mean squared feature difference between each pooled image and the next smaller one, summed over layers."""
        weights, (full, half, quarter) = self.vectors.part("VGG19."), self.generated

        def distance(larger: Tensor, smaller: Tensor, layer: int) -> Tensor:
            pooled = F.avg_pool2d(larger, 2)
            features = [one_by_one(image, 1 << layer, weights, f"r{layer + 1}") for image in (pooled, smaller)]
            return F.mse_loss(features[0], features[1])

        pairs = ((full, half), (half, quarter))
        return [torch.stack([distance(*pair, layer) for layer in range(5)]).sum() for pair in pairs]


_BY_SCALE = "losses_by_scale_X3_X2_X1"
_SCALE_PAIRS = {"consistency": ("X3-X2", "X2-X1")}


def _check_tensor(case: _Vectors, name: str, recorded: Tensor) -> Row:
    """Compare one `out.*`."""
    if match := re.fullmatch(r"out\.X([123])", name):
        return compare(name, case.generated[3 - int(match[1])], recorded)
    if name == "out.enhance_mask" and case.mask is not None:
        return compare(name, case.mask if recorded.ndim == 4 else case.mask[:, 0], recorded)
    if match := re.fullmatch(r"out\.D([123])\.(fake|real|blurred)\.level(\d+)", name):
        levels = case.logits[match[2]].get(int(match[1]), [])
        if 1 <= int(match[3]) <= len(levels):
            return compare(name, levels[int(match[3]) - 1].sigmoid(), recorded)
    return failure(name, "cannot check: no such output is known")


def _check_value(case: _Vectors, name: str, recorded: Any) -> Iterator[Row]:
    """Compare one entry of the JSON file: a list of values per term, largest scale first."""
    if name != _BY_SCALE:
        yield failure(name, "cannot check: no such value is known")
        return
    for term, values in recorded.items():
        if term not in case.losses:
            yield failure(f"losses.{term}", f"cannot check: known terms are {', '.join(case.losses)}")
            continue
        computed = case.losses[term]
        scales = _SCALE_PAIRS.get(term) or [f"X{scale}" for scale in case.discriminators]
        if not isinstance(values, list) or len(values) != len(computed):
            yield failure(f"losses.{term}", f"recorded as {values!r}, computed are {len(computed)} values")
            continue
        for scale, recorded_value, value in zip(scales, values, computed, strict=True):
            yield compare_value(f"losses.{term}.{scale}", value.item(), recorded_value)
