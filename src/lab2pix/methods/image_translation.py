"""Image-to-image translation: the base of Pix2Pix and CycleGAN (SCAN, SPAP), and parts for other methods.

A vector file has inputs, weights and results of one training step, recorded from the authors' code.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.config.rules import check_size
from lab2pix.config.schema import Beta, DataConfig, RunConfig, Section, SourceConfig, TrainConfig
from lab2pix.errors import CheckpointError, ConfigError
from lab2pix.interop.conversion import CheckpointFormat, ConversionOptions, Converted, fit_label_space
from lab2pix.interop.keymap import Rules, load_renamed, rename, weight_names
from lab2pix.interop.step_vectors import StepResults, check_step, input_classes, numbered_space, without_dropout
from lab2pix.interop.vectors import Row, Vectors, recorded_choice
from lab2pix.labels.space import LabelSpace
from lab2pix.losses import ADVERSARIAL_TERMS, AdversarialTerm
from lab2pix.methods.base import Method, OptimizerSpec
from lab2pix.methods.sampling import Condition
from lab2pix.methods.schedules import epoch_decay
from lab2pix.methods.step_record import StepRecord
from lab2pix.nn.fast import accelerate
from lab2pix.nn.init import Init, init_weights
from lab2pix.nn.normalization import Norm
from lab2pix.nn.patchgan import PatchGAN, PixelGAN
from lab2pix.nn.resnet import ResNetGenerator
from lab2pix.nn.unet import UNetGenerator

# --- settings ---------------------------------------------------------------------------------------------------------

GanMode = Literal["vanilla", "lsgan", "wgangp"]
Encoding = Literal["one-hot", "colors"]


class ImageTranslationGeneratorConfig(Section):
    """Generator: the U-Net of Pix2Pix or the ResNet of CycleGAN, for either method."""

    network: Literal["unet", "resnet"] = Field("unet", description="U-Net with skip connections, or residual blocks.")
    width: int = Field(64, ge=1, description="Channels at full size; the U-Net has at most 8 times as many.")
    depth: int = Field(
        8,
        ge=1,
        description="Downsamplings of the U-Net; sides are multiples of 2^depth (8 for 256x256, 7 for 128x128, 6 for "
        "64x64), or residual blocks of the ResNet (9 for 256x256, 6 for 128x128).",
    )
    norm: Norm = Field("batch", description="Normalization: batch, instance (without weights) or none.")
    dropout: float = Field(0.5, ge=0, lt=1, description="Probability of dropout; 0: off.")
    encoding: Encoding = Field(
        "one-hot",
        description="Encoding of label maps: one channel per class, or RGB in the label space's colors, as published.",
    )


class ImageTranslationDiscriminatorConfig(Section):
    """Discriminator: a PatchGAN, or a PixelGAN if `layers` is 0."""

    width: int = Field(64, ge=1, description="Channels of the first convolution.")
    layers: int = Field(
        3,
        ge=0,
        description="Layers between the first and the one that predicts: 3: patches of 70x70 pixels, 0: single pixels.",
    )
    norm: Norm = Field("batch", description="Normalization: batch, instance (without weights) or none.")


class ImageTranslationAdamConfig(Section):
    """Adam and its learning-rate schedule."""

    generator_lr: float = Field(2e-4, gt=0, description="Learning rate of the generators.")
    discriminator_lr: float = Field(2e-4, gt=0, description="Learning rate of the discriminators.")
    betas: tuple[Beta, Beta] = Field((0.5, 0.999), description="Adam's two decay rates.")
    decay_fraction: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Final fraction of the epochs in which learning rates decay per epoch; 0: constant.",
    )
    reach_zero: bool = Field(
        False,
        description="Decay an epoch earlier, to a learning rate of 0 in the last epoch: the authors' code up to 2023.",
    )


class ImageTranslationTrainConfig(TrainConfig):
    """Training duration, batch size, precision and initialization."""

    init: Init = Field("normal", description="Initial weights: normal, xavier, kaiming or orthogonal.")
    init_gain: float = Field(0.02, gt=0, description="Standard deviation (normal) or gain (xavier, orthogonal).")


class ImageTranslationConfig(RunConfig):
    """Settings of image-to-image translation methods."""

    takes_images: ClassVar[bool] = True

    generator: ImageTranslationGeneratorConfig = ImageTranslationGeneratorConfig()
    discriminator: ImageTranslationDiscriminatorConfig = ImageTranslationDiscriminatorConfig()
    optimizer: ImageTranslationAdamConfig = ImageTranslationAdamConfig()
    train: ImageTranslationTrainConfig = ImageTranslationTrainConfig()

    def check_rules(self) -> None:
        """Check the image size against the depth of the networks, and the encoding against the input."""
        settings = self.generator
        if settings.network == "unet" and settings.depth < 2:
            raise ConfigError("generator.depth is 1, but a U-Net has at least 2 levels; set it to 2 or more")
        reason = f"generator.depth={settings.depth} with discriminator.layers={self.discriminator.layers}"
        check_size(self, reason)
        check_encoding(self)

    @property
    def size_rule(self) -> tuple[int, int]:
        """Divisor of valid sides, and the smallest one."""
        multiple, layers = size_multiple(self.generator), self.discriminator.layers
        return multiple, max(multiple, 3 * 2**layers if layers else 1)


def identity_weight(weight: float | None, channels: int, default: float) -> float:
    """Return the weight of an identity loss, which compares images generated from B with B.

    Args:
        weight: `loss.identity`.
        channels: channels of the inputs; images have 3.
        default: weight for None, if the channels are equal; otherwise 0.

    Raises:
        ConfigError: a weight is set, but the channels differ.
    """
    if weight and channels != 3:
        raise ConfigError(
            f"loss.identity is {weight:g}, but inputs have {channels} channels and images 3, which it cannot compare; "
            "set loss.identity=0 or generator.encoding=colors"
        )
    return weight if weight is not None else default * (channels == 3)


def size_multiple(settings: ImageTranslationGeneratorConfig) -> int:
    """Return the divisor of valid heights and widths."""
    return 2**settings.depth if settings.network == "unet" else 4


# --- inputs and losses, for these and other methods -------------------------------------------------------------------


class _HasEncoding(Protocol):
    @property
    def encoding(self) -> Encoding: ...


class _HasInputs(Protocol):
    @property
    def data(self) -> DataConfig: ...

    @property
    def generator(self) -> _HasEncoding: ...


def build_condition(config: _HasInputs, label_space: LabelSpace) -> Condition:
    """Return the encoder of the generator's input: source images, line drawings or label maps."""
    if config.data.input == "images":
        return Condition(label_space, "images", channels_of_images=config.data.source.channels)
    if label_space.name == "sketch":
        return Condition(label_space, "lines")
    return Condition(label_space, encoding=config.generator.encoding, edges=config.data.instance_edges)


def check_encoding(config: _HasInputs) -> None:
    """Check that the encoding `colors` is used for label maps only.

    Raises:
        ConfigError: the inputs are images or line drawings.
    """
    data = config.data
    if config.generator.encoding == "colors" and (data.input == "images" or data.label_space == "sketch"):
        raise ConfigError(
            "generator.encoding is 'colors', an encoding of label maps, but the run generates from "
            f"{'images' if data.input == 'images' else 'line drawings'}; set generator.encoding=one-hot"
        )


def adversarial(kind: str, role: Literal["generator", "real", "fake"], logits: Tensor) -> Tensor:
    """Return an adversarial loss, averaged over logits.

    Args:
        kind: form of the loss, a name in `ADVERSARIAL_TERMS`.
        role: loss of the generator, or of a discriminator on real or on fake images.
        logits: of any shape.
    """
    term: AdversarialTerm = getattr(ADVERSARIAL_TERMS[kind], role)
    return term(logits.float()).mean()


# --- networks ---------------------------------------------------------------------------------------------------------


def build_translator(settings: ImageTranslationGeneratorConfig, inputs: int, outputs: int) -> nn.Module:
    """Build a generator from `inputs` to `outputs` channels."""
    width, norm = settings.width, settings.norm
    if settings.network == "unet":
        return UNetGenerator(inputs, outputs, width=width, levels=settings.depth, norm=norm, dropout=settings.dropout)
    return ResNetGenerator(
        inputs, outputs, width=width, blocks=settings.depth, norm=norm, dropout=settings.dropout or None
    )


def build_discriminator(settings: ImageTranslationDiscriminatorConfig, channels: int) -> nn.Module:
    """Build a discriminator with `channels` input channels."""
    if settings.layers == 0:
        return PixelGAN(channels, width=settings.width, norm=settings.norm)
    return PatchGAN(channels, width=settings.width, layers=settings.layers, norm=settings.norm)


# --- the method -------------------------------------------------------------------------------------------------------


class ImageTranslationMethod(Method):
    """Image-to-image translation with a U-Net or ResNet generator and PatchGAN discriminators."""

    vector_prefixes: ClassVar[Mapping[str, str]]
    """Prefix of weights in vector files, by name of the network."""
    released_weight: ClassVar[str | None]
    """Pattern for the name of a weight that only the authors' generators have; None: they published none."""
    config: Any

    def init_networks(self) -> None:
        """Initialize all networks by `train.init`."""
        train = self.config.train
        for network in self.networks.values():
            init_weights(network, train.init, train.init_gain)

    def optimizer(self, lr: float, *networks: str) -> OptimizerSpec:
        """Return an Adam optimizer for networks, with the schedule of `optimizer.decay_fraction`."""
        settings = self.config.optimizer
        schedule = epoch_decay(settings.decay_fraction, reach_zero=settings.reach_zero)
        return OptimizerSpec(networks, lr=lr, betas=settings.betas, schedule=schedule)

    def adversarial(self, logits: Tensor, role: Literal["generator", "real", "fake"]) -> Tensor:
        """Return the adversarial loss of the generator, or of a discriminator on real or fake images, over logits."""
        return adversarial(self.config.loss.adversarial, role, logits)

    # --- other programs ---------------------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def vector_settings(cls, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Return sections of `Config`, other than networks and learning rates, from the `config` of a vector file."""

    @classmethod
    @abstractmethod
    def vector_names(cls, record: StepRecord) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Return outputs and losses of a step under their names in vector files."""

    @classmethod
    def from_vectors(cls, vectors: Vectors, *, fast: bool = False) -> tuple[ImageTranslationMethod, Batch]:
        """Build the method of a vector file with the recorded weights and without dropout, and its batch.

        Args:
            vectors: content of the vector file.
            fast: whether to accelerate the networks, as in training.

        Raises:
            CheckpointError: weights, inputs or settings do not match the method.
        """
        recorded = vectors.values["config"]
        recorded_choice(recorded, "gan_mode", ADVERSARIAL_TERMS)
        networks: dict[str, nn.Module] = {}
        settings: dict[str, Section] = {}
        for name, prefix in cls.vector_prefixes.items():
            kind = "generator" if prefix.startswith("G") else "discriminator"
            read = read_generator if kind == "generator" else read_discriminator
            network, settings[kind] = read(vectors.part(f"{prefix}."))
            networks[name] = without_dropout(accelerate(network, torch.device("cpu")) if fast else network)
        classes, batch = input_classes(vectors, recorded["input_nc"])
        source = SourceConfig(channels=recorded["input_nc"])
        lr, betas = recorded["lr"], (recorded["beta1"], recorded["beta2"])
        config = cls.Config.model_validate(
            {
                "data": DataConfig(input="labels" if classes else "images", source=source),
                "generator": settings["generator"].model_dump(),
                "discriminator": settings["discriminator"].model_dump(),
                "optimizer": ImageTranslationAdamConfig(generator_lr=lr, discriminator_lr=lr, betas=betas),
                **cls.vector_settings(recorded),
            }
        )
        method = cls(config, numbered_space(classes))
        method.networks = networks
        return method, batch

    @classmethod
    def vector_results(cls, vectors: Vectors, *, fast: bool = False) -> StepResults:
        """Run the phases of the method on a vector file, and return the results before, in and after a step."""
        results = StepResults(tuple(cls.vector_prefixes.values()))

        def add_outputs(group: str, record: StepRecord) -> dict[str, float]:
            outputs, losses = cls.vector_names(record)
            results.outputs |= {f"{group}{name}": tensor for name, tensor in outputs.items()}
            return losses

        for when in ("initial", "step"):
            method, batch = cls.from_vectors(vectors, fast=fast)
            record = StepRecord(method, batch, update=when == "step", names=released_names)
            results.values[f"loss.{when}"] = add_outputs("" if when == "initial" else "step.", record)
            norms = {prefix: record.gradients[name] for name, prefix in cls.vector_prefixes.items()}
            results.add_gradients(when, norms)
        for name, prefix in cls.vector_prefixes.items():
            state = rename(method.networks[name], released_rules(method.networks[name]))
            results.state |= {f"{prefix}.{weight}": tensor for weight, tensor in state.items()}
        for group, evaluated in (("after.eval.", method), ("eval.", cls.from_vectors(vectors, fast=fast)[0])):
            for network in evaluated.networks.values():
                network.eval()
            add_outputs(group, StepRecord(evaluated, batch, update=False, names=released_names))
        return results

    @classmethod
    def check_vectors(cls, vectors: Vectors, *, fast: bool = False) -> Iterator[Row]:
        """Compare outputs, losses, gradients and the weights after one step, within the tolerances in the file."""
        return check_step(vectors, cls.vector_results(vectors, fast=fast))

    @classmethod
    def checkpoint_formats(cls) -> Mapping[str, CheckpointFormat]:
        """Return the format of the authors' generators, if they published some."""
        marker = cls.released_weight
        if marker is None:
            return {}

        def matches(state: Mapping[str, Tensor]) -> bool:
            names = plain_names(state)
            # The local enhancers of Pix2PixHD contain a generator of these names.
            return any(re.fullmatch(marker, name) for name in names) and "model1_1.1.weight" not in names

        return {cls.name: CheckpointFormat(matches, partial(_convert, cls))}


# --- released weights: settings are inferred from names and shapes ----------------------------------------------------

_WRAPPERS = re.compile(r"(^|(?<=\.))((module|_orig_mod)\.)+")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Names of the buffers of a norm with running statistics."""


def read_generator(weights: Mapping[str, Tensor]) -> tuple[nn.Module, ImageTranslationGeneratorConfig]:
    """Build the generator of a released state dict, load it, and return it with its settings.

    Raises:
        CheckpointError: the weights belong to another network.
    """
    weights = plain_weights(weights)
    settings, inputs, outputs = _infer_generator_settings(weights)
    network = build_translator(settings, inputs, outputs)
    load_renamed(network, released_rules(network), weights, "generator")
    return network, settings


def read_discriminator(weights: Mapping[str, Tensor]) -> tuple[nn.Module, ImageTranslationDiscriminatorConfig]:
    """Build the discriminator of a released state dict, load it, and return it with its settings.

    Raises:
        CheckpointError: the weights belong to another network.
    """
    weights = plain_weights(weights)
    if first := _shape(weights, "net.0"):
        settings = ImageTranslationDiscriminatorConfig(width=first[0], layers=0, norm=infer_norm(weights, "net.2"))
    elif first := _shape(weights, "model.0"):
        layers = sum(weight.ndim == 4 for name, weight in weights.items() if name.endswith(".weight")) - 2
        settings = ImageTranslationDiscriminatorConfig(
            width=first[0], layers=layers, norm=infer_norm(weights, "model.2")
        )
    else:
        raise CheckpointError("the weights are not those of a PatchGAN, which has a convolution 'model.0' or 'net.0'")
    network = build_discriminator(settings, first[1])
    load_renamed(network, (), weights, "discriminator")
    return network, settings


def released_rules(network: nn.Module) -> Rules:
    """Return the rules from our names of weights to the authors', who nest the levels of a U-Net."""
    if not isinstance(network, UNetGenerator):
        return ()
    innermost = len(network.down) - 1

    def nested(match: re.Match[str]) -> str:
        level, norm = int(match[2]), match[3] == "norm"
        prefix = "model.model" + ".1.model" * (level > 0) + ".3.model" * (level - 1)
        place = int(level > 0) if match[1] == "down" else 5 if 0 < level < innermost else 3
        return f"{prefix}.{place + norm}."

    return [(r"^(down|up)\.(\d+)\.(conv|norm)\.", nested)]


def released_names(network: nn.Module) -> dict[str, str]:
    """Return the name in the authors' code of every weight."""
    return weight_names(network, released_rules(network))


def plain_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict without the prefixes of wrapper modules."""
    return {_WRAPPERS.sub("", name): weight for name, weight in weights.items()}


def plain_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove prefixes of wrapper modules, and statistics of norms without weights."""
    plain = plain_names(weights)
    if any(_is_norm_weight(name, weight) for name, weight in plain.items()):
        return plain
    return {name: weight for name, weight in plain.items() if not name.endswith(STATISTICS)}


def _is_norm_weight(name: str, weight: Tensor) -> bool:
    return weight.ndim == 1 and name.endswith(".weight")


def _shape(weights: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    """Return the shape of a convolution's weight, or an empty tuple if it does not exist."""
    return tuple(weights[f"{name}.weight"].shape) if f"{name}.weight" in weights else ()


def infer_norm(weights: Mapping[str, Tensor], normed: str) -> Norm:
    """Infer the normalization after the convolution `normed`."""
    if any(_is_norm_weight(name, weight) for name, weight in weights.items()):
        return "batch"
    return "instance" if f"{normed}.bias" in weights else "none"


def _infer_generator_settings(weights: Mapping[str, Tensor]) -> tuple[ImageTranslationGeneratorConfig, int, int]:
    """Infer the settings of a generator, and its input and output channels."""
    return (_unet_settings if "model.model.0.weight" in weights else _resnet_settings)(weights)


def _unet_settings(weights: Mapping[str, Tensor]) -> tuple[ImageTranslationGeneratorConfig, int, int]:
    width, inputs = _shape(weights, "model.model.0")[:2]
    last = _shape(weights, "model.model.3")
    levels, inner = 1, "model.model.1.model"
    while f"{inner}.1.weight" in weights:
        levels, inner = levels + 1, f"{inner}.3.model"
    if not last or levels < 2:
        raise CheckpointError("the U-Net's weights are incomplete: 'model.model.3' or the levels within are missing")
    return (
        ImageTranslationGeneratorConfig(width=width, depth=levels, norm=infer_norm(weights, "model.model.0")),
        inputs,
        last[1],
    )


def _resnet_settings(weights: Mapping[str, Tensor]) -> tuple[ImageTranslationGeneratorConfig, int, int]:
    shape = ResNetShape.of(weights)
    if shape.antialias_down or shape.antialias_up:
        raise CheckpointError("the weights are those of an anti-aliased ResNet generator, as CUT's, not CycleGAN's")
    settings = ImageTranslationGeneratorConfig(
        network="resnet", width=shape.width, depth=shape.blocks, norm=shape.norm, dropout=0.5 if shape.dropout else 0
    )
    return settings, shape.inputs, shape.outputs


@dataclass(frozen=True)
class ResNetShape:
    """Widths and layers of a released ResNet generator, inferred from its weights."""

    inputs: int
    outputs: int
    width: int
    blocks: int
    norm: Norm
    dropout: bool
    antialias_down: bool
    antialias_up: bool

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> ResNetShape:
        """Infer the shape from a state dict.

        Raises:
            CheckpointError: the weights belong to another network.
        """
        blocks = sorted({int(name.split(".")[1]) for name in weights if ".conv_block." in name})
        convs = [int(name.split(".")[1]) for name in weights if re.fullmatch(r"model\.\d+\.weight", name)]
        filters = {weight.shape[-1] for name, weight in weights.items() if name.endswith(".filt")}
        first, last = _shape(weights, "model.1"), _shape(weights, f"model.{max(convs, default=0)}")
        if not blocks or len(first) != 4 or len(last) != 4 or last[-1] != 7:
            raise CheckpointError(
                "the weights are neither those of a U-Net ('model.model.0') nor of a ResNet generator ('model.1')"
            )
        return cls(
            inputs=first[1],
            outputs=last[0],
            width=first[0],
            blocks=len(blocks),
            norm=infer_norm(weights, "model.1"),
            dropout=len(_shape(weights, f"model.{blocks[0]}.conv_block.6")) == 4,
            antialias_down=3 in filters,
            antialias_up=4 in filters,
        )


def infer_inputs(
    path: Path, channels: int, options: ConversionOptions, side: int
) -> tuple[LabelSpace, DataConfig, Encoding]:
    """Return label space, data settings and encoding of a converted generator.

    The generator translates images unless a label space is given; then three channels are the colors of that space.

    Args:
        path: the checkpoint, for errors.
        channels: input channels of the generator.
        options: options of the conversion.
        side: height and width if the options give none.

    Raises:
        CheckpointError: the label space does not fit.
    """
    data: dict[str, Any] = {"size": options.size or (side, side)}
    if options.label_space is None:
        space = LabelSpace.load(DataConfig().label_space)
        source = SourceConfig(channels=channels)
        return space, DataConfig(input="images", source=source, label_space=space.name, **data), "one-hot"
    data["label_space"] = options.label_space
    space = LabelSpace.load(options.label_space)
    if space.name == "sketch":
        if channels != 1:
            raise CheckpointError(
                f"{path} takes images of {channels} channels, but line drawings have one; leave out --label-space, "
                "and give the drawings as images"
            )
        return space, DataConfig(**data), "one-hot"
    if channels == 3:
        return space, DataConfig(**data), "colors"
    fit = fit_label_space(path, channels, options, edges_possible=True)
    if fit.without_unknown:
        raise CheckpointError(f"{path} has no channel for unknown pixels, which '{fit.space.name}' has")
    return fit.space, DataConfig(instance_edges=fit.edges, **data), "one-hot"


def infer_config(
    cls: type[Method],
    path: Path,
    settings: Section,
    channels: tuple[int, int],
    options: ConversionOptions,
    *,
    side: int = 256,
) -> tuple[RunConfig, LabelSpace]:
    """Return the configuration and label space of a converted generator; see `infer_inputs`.

    Args:
        cls: the method.
        path: the checkpoint, for errors.
        settings: settings of the generator; `encoding` is replaced.
        channels: its input and output channels.
        options: options of the conversion.
        side: height and width if the options give none.

    Raises:
        CheckpointError: the generator makes no RGB images, or the label space does not fit.
    """
    inputs, outputs = channels
    if outputs != 3:
        raise CheckpointError(
            f"{path} generates images with {outputs} channels, but lab2pix needs RGB; use another checkpoint"
        )
    space, data, encoding = infer_inputs(path, inputs, options, side)
    generator = settings.model_dump() | {"encoding": encoding}
    config = cls.Config.model_validate({"name": cls.name, "data": data, "generator": generator})
    cls.build_sampling(config, space).check_size(*config.data.size)
    return config, space


def _convert(
    cls: type[ImageTranslationMethod], path: Path, state: dict[str, Tensor], options: ConversionOptions
) -> Converted:
    """Convert a released generator; its inputs are source images unless a label space is given."""
    generator, settings = read_generator(state)
    _, inputs, outputs = _infer_generator_settings(plain_weights(state))
    side = 256 if settings.network == "resnet" else size_multiple(settings)
    config, space = infer_config(cls, path, settings, (inputs, outputs), options, side=side)
    return Converted(generator.eval(), config, space)
