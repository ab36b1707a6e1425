"""PatchGAN base of Pix2Pix and CycleGAN: settings, networks, released weights, and replay of a recorded step."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.config.rules import nearest_size
from lab2pix.config.schema import Beta, DataConfig, RunConfig, Section, SourceConfig, TrainConfig
from lab2pix.errors import CheckpointError, ConfigError
from lab2pix.interop.conversion import CheckpointFormat, ConversionOptions, Converted
from lab2pix.interop.step_vectors import StepAnswers, check_step, input_classes, without_dropout
from lab2pix.interop.vectors import Row, Vectors
from lab2pix.methods.base import Method, OptimizerSpec
from lab2pix.methods.schedules import epoch_decay
from lab2pix.methods.translation import (
    StepRecord,
    adversarial,
    check_adversarial,
    check_encoding,
    fill,
    infer_inputs,
    numbered_space,
    plain_names,
)
from lab2pix.nn.fast import accelerate
from lab2pix.nn.init import Init, init_weights
from lab2pix.nn.norm import Norm
from lab2pix.nn.patchgan import PatchGAN, PixelGAN
from lab2pix.nn.resnet import ResNetGenerator
from lab2pix.nn.unet import UNetGenerator

__all__ = [
    "DiscriminatorConfig",
    "GeneratorConfig",
    "PatchAdversarialMethod",
    "PatchGANConfig",
    "ResNetShape",
    "build_discriminator",
    "build_translator",
    "infer_norm",
    "plain_weights",
    "read_discriminator",
    "read_generator",
]

# --- settings ---------------------------------------------------------------------------------------------------------

GanMode = Literal["vanilla", "lsgan", "wgangp"]


class GeneratorConfig(Section):
    """Generator: the U-Net of Pix2Pix or the ResNet of CycleGAN, for either method."""

    network: Literal["unet", "resnet"] = Field("unet", description="U-Net with skip connections, or residual blocks.")
    width: int = Field(64, ge=1, description="Channels at full size; the U-Net has at most 8 times as many.")
    depth: int = Field(
        8,
        ge=1,
        description="Halvings of the U-Net, of which both sides are multiples (8 for 256x256, 7 for 128x128, 6 for "
        "64x64), or residual blocks of the ResNet (9 for 256x256, 6 for 128x128).",
    )
    norm: Norm = Field("batch", description="Normalization: batch, instance (without weights) or none.")
    dropout: float = Field(0.5, ge=0, lt=1, description="Probability of dropout; 0: off.")
    encoding: Literal["one-hot", "colors"] = Field(
        "one-hot",
        description="How label maps enter: a channel per class, or RGB in the label space's colors, as published.",
    )


class DiscriminatorConfig(Section):
    """Discriminator: a PatchGAN, or a PixelGAN if `layers` is 0."""

    width: int = Field(64, ge=1, description="Channels of the first convolution.")
    layers: int = Field(
        3,
        ge=0,
        description="Layers between the first and the one that predicts: 3 judges patches of 70x70 pixels, 0 pixels.",
    )
    norm: Norm = Field("batch", description="Normalization: batch, instance (without weights) or none.")


class AdamConfig(Section):
    """Adam and its learning-rate schedule."""

    generator_lr: float = Field(2e-4, gt=0, description="Learning rate of the generators.")
    discriminator_lr: float = Field(2e-4, gt=0, description="Learning rate of the discriminators.")
    betas: tuple[Beta, Beta] = Field((0.5, 0.999), description="Adam's two decay rates.")
    decay_fraction: float = Field(
        0.5, ge=0, le=1, description="Last part of the epochs in which the rates fall, once per epoch; 0: constant."
    )
    reach_zero: bool = Field(
        False, description="Fall an epoch earlier, so that the last epoch trains at 0: the authors' code up to 2023."
    )


class PatchGANTrainConfig(TrainConfig):
    """Training duration, batch size, precision and initialization."""

    init: Init = Field("normal", description="Initial weights: normal, xavier, kaiming or orthogonal.")
    init_gain: float = Field(0.02, gt=0, description="Its deviation (normal) or gain (xavier, orthogonal).")


class PatchGANConfig(RunConfig):
    """Settings common to Pix2Pix and CycleGAN."""

    takes_images: ClassVar[bool] = True

    generator: GeneratorConfig = GeneratorConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    optimizer: AdamConfig = AdamConfig()
    train: PatchGANTrainConfig = PatchGANTrainConfig()

    def check_rules(self) -> None:
        """Check the image size against the depth of the networks, and the encoding against the input."""
        settings, size = self.generator, self.data.size
        if settings.network == "unet" and settings.depth < 2:
            raise ConfigError("generator.depth is 1, but a U-Net has at least 2 levels; set it to 2 or more")
        multiple = size_multiple(settings)
        least = max(multiple, 3 * 2**self.discriminator.layers if self.discriminator.layers else 1)
        near = nearest_size(size, multiple, least)
        if near != size:
            raise ConfigError(
                f"data.size is {list(size)} but both sides must be multiples of {multiple} and at least {least} "
                f"(generator.depth={settings.depth}, discriminator.layers={self.discriminator.layers}); the nearest "
                f"valid size is {list(near)}"
            )
        check_encoding(self)


def size_multiple(settings: GeneratorConfig) -> int:
    """Return the divisor of valid heights and widths."""
    return 2**settings.depth if settings.network == "unet" else 4


# --- networks ---------------------------------------------------------------------------------------------------------


def build_translator(settings: GeneratorConfig, inputs: int, outputs: int) -> nn.Module:
    """Build a generator from `inputs` to `outputs` channels."""
    if settings.network == "unet":
        return UNetGenerator(
            inputs,
            outputs,
            width=settings.width,
            levels=settings.depth,
            norm=settings.norm,
            dropout=settings.dropout,
        )
    return ResNetGenerator(
        inputs,
        outputs,
        width=settings.width,
        blocks=settings.depth,
        norm=settings.norm,
        dropout=settings.dropout or None,
    )


def build_discriminator(settings: DiscriminatorConfig, channels: int) -> nn.Module:
    """Build a discriminator with `channels` input channels."""
    if settings.layers == 0:
        return PixelGAN(channels, width=settings.width, norm=settings.norm)
    return PatchGAN(channels, width=settings.width, layers=settings.layers, norm=settings.norm)


# --- the method -------------------------------------------------------------------------------------------------------


class PatchAdversarialMethod(Method):
    """Base class of Pix2Pix and CycleGAN."""

    vector_prefixes: ClassVar[Mapping[str, str]]
    """Prefix of weights in vector files, by name of the network."""
    config: Any

    def init_weights(self) -> None:
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
    def from_vectors(cls, vectors: Vectors, *, fast: bool = False) -> tuple[PatchAdversarialMethod, Batch]:
        """Build the method of a vector file with the recorded weights and without dropout, and its batch.

        Args:
            vectors: content of the vector file.
            fast: whether to accelerate the networks, as in training.

        Raises:
            CheckpointError: weights, inputs or settings do not match the method.
        """
        recorded = vectors.values["config"]
        check_adversarial(recorded["gan_mode"])
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
                "optimizer": AdamConfig(generator_lr=lr, discriminator_lr=lr, betas=betas),
                **cls.vector_settings(recorded),
            }
        )
        method = cls(config, numbered_space(classes))
        method.networks = networks
        return method, batch

    @classmethod
    def vector_answers(cls, vectors: Vectors, *, fast: bool = False) -> StepAnswers:
        """Run the phases of the method on a vector file, and return the results before, in and after a step."""
        answers = StepAnswers(tuple(cls.vector_prefixes.values()))

        def keep(group: str, record: StepRecord) -> dict[str, float]:
            outputs, losses = cls.vector_names(record)
            answers.outputs |= {f"{group}{name}": tensor for name, tensor in outputs.items()}
            return losses

        for when in ("initial", "step"):
            method, batch = cls.from_vectors(vectors, fast=fast)
            record = StepRecord(method, batch, update=when == "step", names=released_names)
            answers.values[f"loss.{when}"] = keep("" if when == "initial" else "step.", record)
            totals: dict[str, float] = {}
            by_tensor: dict[str, float] = {}
            for name, prefix in cls.vector_prefixes.items():
                totals[prefix], norms = record.gradients[name]
                by_tensor |= {f"{prefix}.{weight}": norm for weight, norm in norms.items()}
            answers.values |= {f"grad_norm.{when}": totals, f"grad_norm_by_tensor.{when}": by_tensor}
        for name, prefix in cls.vector_prefixes.items():
            names, state = released_names(method.networks[name]), method.networks[name].state_dict()
            answers.state |= {f"{prefix}.{names[weight]}": tensor.clone() for weight, tensor in state.items()}
        for group, one in (("after.eval.", method), ("eval.", cls.from_vectors(vectors, fast=fast)[0])):
            for network in one.networks.values():
                network.eval()
            keep(group, StepRecord(one, batch, update=False, names=released_names))
        return answers

    @classmethod
    def check_vectors(cls, vectors: Vectors, *, fast: bool = False) -> Iterator[Row]:
        """Compare outputs, losses, gradients and the weights after one step, within the tolerances in the file."""
        return check_step(vectors, cls.vector_answers(vectors, fast=fast))

    @classmethod
    def checkpoint_format(cls, marker: str) -> CheckpointFormat:
        """Return the format of the authors' generators, recognized by the name of a weight."""

        def matches(state: Mapping[str, Tensor]) -> bool:
            return any(re.fullmatch(marker, name) for name in plain_names(state))

        def convert(path: Path, state: dict[str, Tensor], options: ConversionOptions) -> Converted:
            return _convert(cls, path, state, options)

        return CheckpointFormat(matches, convert)


# --- released weights: settings are inferred from names and shapes ----------------------------------------------------

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def read_generator(weights: Mapping[str, Tensor]) -> tuple[nn.Module, GeneratorConfig]:
    """Build the generator of a released state dict, load it, and return it with its settings.

    Raises:
        CheckpointError: the weights belong to another network.
    """
    weights = plain_weights(weights)
    settings, inputs, outputs = _generator_settings(weights)
    return _filled(build_translator(settings, inputs, outputs), weights), settings


def read_discriminator(weights: Mapping[str, Tensor]) -> tuple[nn.Module, DiscriminatorConfig]:
    """Build the discriminator of a released state dict, load it, and return it with its settings.

    Raises:
        CheckpointError: the weights belong to another network.
    """
    weights = plain_weights(weights)
    if first := _shape(weights, "net.0"):
        settings = DiscriminatorConfig(width=first[0], layers=0, norm=infer_norm(weights, "net.2"))
    elif first := _shape(weights, "model.0"):
        layers = sum(weight.ndim == 4 for name, weight in weights.items() if name.endswith(".weight")) - 2
        settings = DiscriminatorConfig(width=first[0], layers=layers, norm=infer_norm(weights, "model.2"))
    else:
        raise CheckpointError("the weights are not those of a PatchGAN, which has a convolution 'model.0' or 'net.0'")
    return _filled(build_discriminator(settings, first[1]), weights), settings


def released_names(network: nn.Module) -> dict[str, str]:
    """Return the mapping from our name of every weight to the authors', whose U-Net levels are nested."""
    if not isinstance(network, UNetGenerator):
        return {name: name for name in network.state_dict()}
    layers: dict[str, str] = {}
    prefix, innermost = "model.model", len(network.down) - 1
    for level in range(len(network.down)):
        down, up = int(level > 0), 5 if 0 < level < innermost else 3
        layers |= {f"down.{level}.conv": f"{prefix}.{down}", f"down.{level}.norm": f"{prefix}.{down + 1}"}
        layers |= {f"up.{level}.conv": f"{prefix}.{up}", f"up.{level}.norm": f"{prefix}.{up + 1}"}
        prefix += ".3.model" if level else ".1.model"
    split = ((name, *name.rpartition(".")) for name in network.state_dict())
    return {name: f"{layers[layer]}.{parameter}" for name, layer, _, parameter in split}


def plain_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove prefixes of wrapper modules, and statistics of norms without weights."""
    plain = plain_names(weights)
    if any(_is_norm_weight(name, weight) for name, weight in plain.items()):
        return plain
    return {name: weight for name, weight in plain.items() if not name.endswith(_STATISTICS)}


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


def _generator_settings(weights: Mapping[str, Tensor]) -> tuple[GeneratorConfig, int, int]:
    """Infer the settings of a generator, and its input and output channels."""
    return (_unet_settings if "model.model.0.weight" in weights else _resnet_settings)(weights)


def _unet_settings(weights: Mapping[str, Tensor]) -> tuple[GeneratorConfig, int, int]:
    width, inputs = _shape(weights, "model.model.0")[:2]
    last = _shape(weights, "model.model.3")
    levels, inner = 1, "model.model.1.model"
    while f"{inner}.1.weight" in weights:
        levels, inner = levels + 1, f"{inner}.3.model"
    if not last or levels < 2:
        raise CheckpointError("the U-Net's weights are incomplete: 'model.model.3' or the levels within are missing")
    return GeneratorConfig(width=width, depth=levels, norm=infer_norm(weights, "model.model.0")), inputs, last[1]


def _resnet_settings(weights: Mapping[str, Tensor]) -> tuple[GeneratorConfig, int, int]:
    shape = ResNetShape.of(weights)
    if shape.antialias_down or shape.antialias_up:
        raise CheckpointError("the weights are those of an anti-aliased ResNet generator, as CUT's, not CycleGAN's")
    settings = GeneratorConfig(
        network="resnet", width=shape.width, depth=shape.blocks, norm=shape.norm, dropout=0.5 if shape.dropout else 0
    )
    return settings, shape.inputs, shape.outputs


@dataclass(frozen=True)
class ResNetShape:
    """Widths and layers of a released ResNet generator, as its weights show them."""

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
        """Read the shape off a state dict.

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


def _filled(network: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    ours = {theirs: name for name, theirs in released_names(network).items()}
    return fill(network, {ours.get(name, name): weight for name, weight in weights.items()})


def _convert(
    cls: type[PatchAdversarialMethod], path: Path, state: dict[str, Tensor], options: ConversionOptions
) -> Converted:
    """Convert a released generator; its inputs are source images unless a label space is given."""
    generator, settings = read_generator(state)
    _, inputs, outputs = _generator_settings(plain_weights(state))
    if outputs != 3:
        raise CheckpointError(f"{path} draws images of {outputs} channels, but images here are RGB; take another one")
    side = 256 if settings.network == "resnet" else size_multiple(settings)
    space, data, encoding = infer_inputs(path, inputs, options, side)
    settings = settings.model_copy(update={"encoding": encoding})
    config = cls.Config.model_validate({"name": cls.name, "data": data, "generator": settings.model_dump()})
    cls.build_sampling(config, space).check_size(*config.data.size)
    return Converted(generator.eval(), config, space)
