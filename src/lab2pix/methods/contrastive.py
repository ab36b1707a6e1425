"""Contrastive unpaired translation, the base of CUT and DCLGAN: settings, networks, and released weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.config.rules import check_size
from lab2pix.config.schema import Beta, RunConfig, Section
from lab2pix.errors import ConfigError
from lab2pix.interop.conversion import CheckpointFormat, ConversionOptions, Converted
from lab2pix.interop.keymap import load_renamed
from lab2pix.interop.part_vectors import PartLosses, PartResults, check_parts
from lab2pix.interop.step_vectors import numbered_space, to_image
from lab2pix.interop.vectors import Row, Vectors, recorded_choice
from lab2pix.labels.space import LabelSpace
from lab2pix.losses import ADVERSARIAL_TERMS, patch_nce_loss
from lab2pix.methods.base import Losses, Method, OptimizerSpec, Phase, StepContext
from lab2pix.methods.image_translation import (
    Encoding,
    ImageTranslationTrainConfig,
    ResNetShape,
    adversarial,
    build_condition,
    infer_config,
    infer_norm,
    plain_names,
    plain_weights,
)
from lab2pix.methods.sampling import Condition, Sampling
from lab2pix.methods.schedules import epoch_decay
from lab2pix.methods.step_record import RecordedRandom, StepRecord
from lab2pix.nn.fast import accelerate
from lab2pix.nn.init import Init, init_weights
from lab2pix.nn.normalization import Norm
from lab2pix.nn.patch_projection import PatchProjection
from lab2pix.nn.patchgan import PatchGAN
from lab2pix.nn.resnet import ResNetGenerator

GanMode = Literal["lsgan", "vanilla", "hinge", "wgangp"]

# --- settings ---------------------------------------------------------------------------------------------------------


class ContrastiveGeneratorConfig(Section):
    """Generators: the ResNet of CycleGAN with anti-aliased resampling."""

    width: int = Field(64, ge=1, description="Channels at full size; the blocks have 4 times as many.")
    depth: int = Field(9, ge=1, description="Residual blocks.")
    norm: Norm = Field("instance", description="Normalization: batch, instance (without weights) or none.")
    antialias_down: bool = Field(True, description="Halve the size by a blur, not by a stride of the convolution.")
    antialias_up: bool = Field(True, description="Double the size by a blur, not by a transposed convolution.")
    encoding: Encoding = Field(
        "colors",
        description="How label maps and line drawings enter: RGB in the label space's colors, or a channel per class.",
    )


class ContrastiveDiscriminatorConfig(Section):
    """Discriminators: PatchGANs with anti-aliased resampling."""

    width: int = Field(64, ge=1, description="Channels of the first convolution.")
    layers: int = Field(3, ge=1, description="Layers between the first and the one that predicts.")
    norm: Norm = Field("instance", description="Normalization: batch, instance (without weights) or none.")
    antialias: bool = Field(True, description="Halve the size by a blur, not by a stride of the convolution.")


class ProjectionConfig(Section):
    """Projection heads and the patches whose features they compare."""

    width: int = Field(256, ge=1, description="Width of the heads and length of their vectors.")
    patches: int = Field(256, ge=1, description="Places per layer; fewer where a feature has fewer pixels.")
    layers: tuple[int, ...] = Field(
        (0, 4, 8, 12, 16), min_length=1, description="Layers of the generator whose outputs are compared; 0: the image."
    )


class ContrastiveAdamConfig(Section):
    """Adam and its learning-rate schedule."""

    generator_lr: float = Field(2e-4, gt=0, description="Learning rate of the generators.")
    discriminator_lr: float = Field(2e-4, gt=0, description="Learning rate of the discriminators.")
    projection_lr: float = Field(2e-4, gt=0, description="Learning rate of the projection heads.")
    betas: tuple[Beta, Beta] = Field((0.5, 0.999), description="Adam's decay rates of generators and discriminators.")
    projection_betas: tuple[Beta, Beta] = Field((0.5, 0.999), description="Adam's decay rates of projection heads.")
    decay_fraction: float = Field(
        0.5, ge=0, le=1, description="Last part of the epochs in which the rates fall, once per epoch; 0: constant."
    )


class ContrastiveTrainConfig(ImageTranslationTrainConfig):
    """Training duration, batch size, precision and initialization."""

    init: Init = Field("xavier", description="Initial weights: normal, xavier, kaiming or orthogonal.")


class ContrastiveConfig(RunConfig):
    """Settings common to CUT and DCLGAN."""

    takes_images: ClassVar[bool] = True

    generator: ContrastiveGeneratorConfig = ContrastiveGeneratorConfig()
    discriminator: ContrastiveDiscriminatorConfig = ContrastiveDiscriminatorConfig()
    projection: ProjectionConfig = ProjectionConfig()
    optimizer: ContrastiveAdamConfig = ContrastiveAdamConfig()
    train: ContrastiveTrainConfig = ContrastiveTrainConfig()

    def check_rules(self) -> None:
        """Check the image size, and the layers that are compared against the depth of the generator."""
        layers = self.projection.layers
        check_size(self, f"discriminator.layers={self.discriminator.layers}")
        last = 9 + 2 * self.generator.antialias_down + self.generator.depth
        if list(layers) != sorted(set(layers)) or layers[0] < 0 or layers[-1] > last:
            raise ConfigError(
                f"projection.layers is {list(layers)} but must rise from 0 or more to at most {last}, the last "
                f"residual block (generator.depth={self.generator.depth}); leave out layers, or raise generator.depth"
            )

    @property
    def size_rule(self) -> tuple[int, int]:
        """Divisor of valid sides, and the smallest one."""
        return 4, 3 * 2**self.discriminator.layers


# --- networks ---------------------------------------------------------------------------------------------------------


def condition(config: ContrastiveConfig, label_space: LabelSpace) -> Condition:
    """Return the encoder of the generator's input; colors are used for line drawings, too."""
    if config.data.input == "labels" and config.generator.encoding == "colors":
        return Condition(label_space, encoding="colors", edges=config.data.instance_edges)
    return build_condition(config, label_space)


def build_generator(settings: ContrastiveGeneratorConfig, inputs: int, outputs: int) -> ResNetGenerator:
    """Build a generator with initial weights."""
    options = settings.model_dump(exclude={"depth", "encoding"})
    return ResNetGenerator(inputs, outputs, blocks=settings.depth, **options)


def build_discriminator(settings: ContrastiveDiscriminatorConfig, channels: int) -> PatchGAN:
    """Build a discriminator of images of `channels` channels."""
    return PatchGAN(channels, **settings.model_dump())


@torch.no_grad()
def build_projection(settings: ProjectionConfig, generator: ResNetGenerator, channels: int) -> PatchProjection:
    """Build the projection heads of a generator whose inputs have `channels` channels."""
    generator.eval()
    features = generator.features(torch.zeros(1, channels, 16, 16), settings.layers)
    generator.train()
    return PatchProjection([feature.shape[1] for feature in features], settings.width)


# --- the method -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """An image, and the networks that make vectors of its patches."""

    image: Tensor
    generator: nn.Module
    projection: nn.Module


class ContrastiveMethod(Method):
    """Base class of CUT and DCLGAN.

    A subclass puts generators, projection heads and discriminators into `networks`, under names that start so.
    """

    paired: ClassVar[bool] = False
    vector_prefixes: ClassVar[Mapping[str, str]]
    """Prefix of weights in vector files, by name of the network."""
    config: Any

    @classmethod
    def build_sampling(cls, config: Any, label_space: LabelSpace) -> Sampling:
        """Return the sampling: one image per input."""
        # Residual blocks pad by reflection, which needs two pixels.
        return Sampling(condition(config, label_space), size_multiple=4, min_side=2)

    @classmethod
    def build_generator(cls, config: Any, label_space: LabelSpace) -> nn.Module:
        """Return the generator from A to B."""
        return build_generator(config.generator, condition(config, label_space).channels, 3)

    def init_networks(self) -> None:
        """Initialize all networks by `train.init`."""
        train = self.config.train
        for network in self.networks.values():
            init_weights(network, train.init, train.init_gain)

    @property
    def optimizers(self) -> dict[str, OptimizerSpec]:
        """One Adam optimizer each for all generators, projection heads and discriminators."""
        settings, schedule = self.config.optimizer, epoch_decay(self.config.optimizer.decay_fraction)
        kinds = {
            "discriminator": (settings.discriminator_lr, settings.betas),
            "generator": (settings.generator_lr, settings.betas),
            "projection": (settings.projection_lr, settings.projection_betas),
        }
        return {
            kind: OptimizerSpec(
                tuple(name for name in self.networks if name.startswith(kind)), lr, betas, schedule=schedule
            )
            for kind, (lr, betas) in kinds.items()
        }

    @property
    def phases(self) -> Sequence[Phase]:
        """The discriminator phase, then the generator phase, which trains the projection heads as well."""
        return (
            Phase("discriminator", self.discriminator_backward, ("discriminator",)),
            Phase("generator", self.generator_backward, ("generator", "projection")),
        )

    @abstractmethod
    def discriminator_backward(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Fill the gradients of the discriminators."""

    @abstractmethod
    def generator_backward(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Fill the gradients of generators and projection heads."""

    def adversarial(self, role: Literal["real", "fake"], logits: Tensor) -> Tensor:
        """Return the adversarial loss of logits; that of the generator is the one of real images."""
        return adversarial(self.config.loss.adversarial, role, logits)

    def contrast(
        self, query: View, key: View, context: StepContext, *, images: int = 1, flipped: bool = False
    ) -> Tensor:
        """Return the PatchNCE loss of each layer, `[len(projection.layers)]`.

        Args:
            query: generated image.
            key: the image that it was generated from, which gets no gradient.
            context: source of the random places.
            images: number of groups of patches that are each other's negatives; 1: the whole batch.
            flipped: whether the generated image is mirrored, so that its features are mirrored back.
        """
        settings, temperature = self.config.projection, self.config.loss.temperature
        with context.autocast():
            of_query = query.generator.features(query.image, settings.layers)  # type: ignore[operator]
            if flipped:
                of_query = [feature.flip(-1) for feature in of_query]
            with torch.no_grad():
                of_key = key.generator.features(key.image, settings.layers)  # type: ignore[operator]
                sizes = [feature.shape[-2] * feature.shape[-1] for feature in of_key]
                places = [context.random.permutation(size)[: settings.patches] for size in sizes]
                keys = key.projection(of_key, places)
            queries = query.projection(of_query, places)
        return torch.stack(
            [patch_nce_loss(*pair, images=images, temperature=temperature) for pair in zip(queries, keys, strict=True)]
        )

    # --- other programs ---------------------------------------------------------------------------------------------

    @classmethod
    def checkpoint_formats(cls) -> Mapping[str, CheckpointFormat]:
        """Return the format of the authors' generators."""

        def matches(state: Mapping[str, Tensor]) -> bool:
            names = plain_names(state)
            return any(".conv_block." in name for name in names) and any(name.endswith(".filt") for name in names)

        return {cls.name: CheckpointFormat(matches, partial(_convert, cls))}

    @classmethod
    @abstractmethod
    def vector_settings(cls, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Return the section `loss`, and others that the weights do not show, from the `config` of a vector file."""

    @classmethod
    @abstractmethod
    def vector_random(cls, vectors: Vectors) -> RecordedRandom:
        """Return the recorded random numbers of the step."""

    @classmethod
    @abstractmethod
    def vector_names(cls, method: Any, record: StepRecord) -> tuple[dict[str, Tensor], PartLosses, set[str]]:
        """Return outputs, losses and names of loose losses of a step under their names in vector files."""

    @classmethod
    def from_vectors(cls, vectors: Vectors, *, fast: bool = False) -> tuple[Any, Batch]:
        """Build the method of a vector file with the recorded weights, and its batch.

        Raises:
            CheckpointError: weights, inputs or settings do not match the method.
        """
        recorded = vectors.values["config"]
        recorded_choice(recorded, "gan_mode", ADVERSARIAL_TERMS)
        parts = {name: plain_weights(vectors.part(f"{prefix}.")) for name, prefix in cls.vector_prefixes.items()}
        generator = next(parts[name] for name in parts if name.startswith("generator"))
        discriminator = next(parts[name] for name in parts if name.startswith("discriminator"))
        settings, inputs, _ = infer_generator_settings(generator)
        heads = next(parts[name] for name in parts if name.startswith("projection"))
        config = cls.Config.model_validate(
            {
                "data": {"input": "images", "source": {"channels": inputs}},
                "generator": settings.model_dump(),
                "discriminator": read_discriminator_settings(discriminator).model_dump(),
                "projection": {
                    "width": heads["mlp_0.0.weight"].shape[0],
                    "patches": recorded["num_patches"],
                    "layers": [int(layer) for layer in recorded["nce_layers"].split(",")],
                },
                **cls.vector_settings(recorded),
            }
        )
        method = cls(config, numbered_space(0))
        for name, weights in parts.items():
            load_renamed(method.networks[name], (), weights, name)
            if fast:
                accelerate(method.networks[name], torch.device("cpu"))
        source, image = (to_image(vectors.tensors[f"in.{domain}"]) for domain in "AB")
        return method, Batch(torch.empty(len(image), 0, 0, dtype=torch.int64), image=image, source=source)

    @classmethod
    def vector_results(cls, vectors: Vectors, *, fast: bool = False) -> PartResults:
        """Run the phases on a vector file, and return the results in and after the step."""
        method, batch = cls.from_vectors(vectors, fast=fast)
        record = StepRecord(method, batch, update=True, random=cls.vector_random(vectors))
        outputs, losses, loose = cls.vector_names(method, record)
        results = PartResults(tuple(cls.vector_prefixes.values()), outputs, losses, loose)
        results.states["after_step"] = {}
        for name, prefix in cls.vector_prefixes.items():
            part = "D_half" if name.startswith("discriminator") else "G_half"
            results.gradients.setdefault(part, {})[prefix] = record.gradients[name][1]
            results.states["after_step"][prefix] = dict(method.networks[name].state_dict())
        return results

    @classmethod
    def check_vectors(cls, vectors: Vectors, *, fast: bool = False) -> Iterator[Row]:
        """Compare outputs, losses, gradients and the weights after one step, within the tolerances in the file."""
        return check_parts(vectors, cls.vector_results(vectors, fast=fast))


# --- released weights: settings are inferred from names and shapes ----------------------------------------------------


def infer_generator_settings(weights: Mapping[str, Tensor]) -> tuple[ContrastiveGeneratorConfig, int, int]:
    """Return the settings of a released generator, and its input and output channels.

    Raises:
        CheckpointError: the weights belong to another network.
    """
    shape = ResNetShape.of(weights)
    settings = ContrastiveGeneratorConfig(
        width=shape.width,
        depth=shape.blocks,
        norm=shape.norm,
        antialias_down=shape.antialias_down,
        antialias_up=shape.antialias_up,
        encoding="one-hot",
    )
    return settings, shape.inputs, shape.outputs


def read_discriminator_settings(weights: Mapping[str, Tensor]) -> ContrastiveDiscriminatorConfig:
    """Return the settings of a released discriminator."""
    convs = {name: weight for name, weight in weights.items() if weight.ndim == 4 and name.endswith(".weight")}
    antialias = any(name.endswith(".filt") for name in weights)
    return ContrastiveDiscriminatorConfig(
        width=convs["model.0.weight"].shape[0],
        layers=len(convs) - 2,
        norm=infer_norm(weights, "model.3" if antialias else "model.2"),
        antialias=antialias,
    )


def _convert(
    cls: type[ContrastiveMethod], path: Path, state: dict[str, Tensor], options: ConversionOptions
) -> Converted:
    """Convert a released generator; its inputs are images unless a label space is given."""
    weights = plain_weights(state)
    settings, inputs, outputs = infer_generator_settings(weights)
    generator = build_generator(settings, inputs, outputs)
    load_renamed(generator, (), weights, "generator")
    config, space = infer_config(cls, path, settings, (inputs, outputs), options)
    return Converted(generator.eval(), config, space)
