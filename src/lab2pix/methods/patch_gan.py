"""PatchGAN base of Pix2Pix and CycleGAN: settings, networks, released weights, and replay of a recorded step."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.config.rules import nearest_size
from lab2pix.config.schema import Beta, DataConfig, RunConfig, Section, SourceConfig, TrainConfig
from lab2pix.errors import CheckpointError, ConfigError
from lab2pix.interop.conversion import CheckpointFormat, ConversionOptions, Converted, fit_label_space
from lab2pix.interop.step_vectors import (
    StepAnswers,
    check_step,
    gradient_norms,
    input_classes,
    numbered_space,
    without_dropout,
)
from lab2pix.interop.vectors import Row, Vectors
from lab2pix.labels.space import LabelSpace
from lab2pix.losses import ADVERSARIAL_TERMS
from lab2pix.methods.base import Losses, Method, OptimizerSpec, StepContext
from lab2pix.methods.sampling import Condition
from lab2pix.methods.schedules import epoch_decay
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
    "PatchGANTrainConfig",
    "StepRecord",
    "build_discriminator",
    "build_translator",
    "plain_weights",
    "read_discriminator",
    "read_generator",
    "require_images",
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
        if settings.encoding == "colors" and (self.data.input == "images" or self.data.label_space == "sketch"):
            raise ConfigError(
                "generator.encoding is 'colors', which is how label maps enter, but the run generates from "
                f"{'images' if self.data.input == 'images' else 'line drawings'}; set generator.encoding=one-hot"
            )


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


def require_images(batch: Batch) -> Tensor:
    """Return the images of a batch that must have some."""
    if batch.image is None:
        raise ValueError("training needs images")
    return batch.image


# --- the method -------------------------------------------------------------------------------------------------------


class PatchAdversarialMethod(Method):
    """Base class of Pix2Pix and CycleGAN."""

    vector_prefixes: ClassVar[Mapping[str, str]]
    """Prefix of weights in vector files, by name of the network."""
    config: Any

    @staticmethod
    def build_condition(config: PatchGANConfig, label_space: LabelSpace) -> Condition:
        """Return the encoder of the generator's input: source images, line drawings or label maps."""
        if config.data.input == "images":
            return Condition(label_space, "images", channels_of_images=config.data.source.channels)
        if label_space.name == "sketch":
            return Condition(label_space, "lines")
        return Condition(label_space, encoding=config.generator.encoding, edges=config.data.instance_edges)

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
        terms = dict(zip(("generator", "real", "fake"), ADVERSARIAL_TERMS[self.config.loss.adversarial], strict=True))
        return terms[role](logits.float()).mean()

    @staticmethod
    def backward(losses: Losses, context: StepContext) -> Losses:
        """Backpropagate the sum of terms and return the detached terms."""
        context.scale(torch.stack(list(losses.values())).sum()).backward()  # type: ignore[no-untyped-call]
        return {name: value.detach() for name, value in losses.items()}

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
        if recorded["gan_mode"] not in ADVERSARIAL_TERMS:
            raise CheckpointError(f"config.gan_mode is {recorded['gan_mode']!r}; known: {[*ADVERSARIAL_TERMS]}")
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
            record = StepRecord(method, batch, update=when == "step")
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
            keep(group, StepRecord(one, batch, update=False))
        return answers

    @classmethod
    def check_vectors(cls, vectors: Vectors, *, fast: bool = False) -> Iterator[Row]:
        """Compare outputs, losses, gradients and the weights after one step, within the tolerances in the file."""
        return check_step(vectors, cls.vector_answers(vectors, fast=fast))

    @classmethod
    def checkpoint_format(cls, marker: str) -> CheckpointFormat:
        """Return the format of the authors' generators, recognized by the name of a weight."""

        def matches(state: Mapping[str, Tensor]) -> bool:
            names = [_OWN_PREFIX.sub("", name) for name in state]
            # The local enhancers of Pix2PixHD contain a generator of these names.
            return any(re.fullmatch(marker, name) for name in names) and "model1_1.1.weight" not in names

        def convert(path: Path, state: dict[str, Tensor], options: ConversionOptions) -> Converted:
            return _convert(cls, path, state, options)

        return CheckpointFormat(matches, convert)


class StepRecord:
    """Record of one training step: outputs, losses and gradient norms.

    Args:
        method: the method; its weights change if `update` is set.
        batch: inputs and images.
        update: whether the optimizers of each phase step after it, as in training.

    Attributes:
        outputs: outputs of each network, in the order of its forward passes.
        losses: values by `PHASE.TERM`.
        gradients: per network the global gradient norm, and the norm of each weight by the authors' name.
    """

    def __init__(self, method: Method, batch: Batch, *, update: bool) -> None:
        self.outputs: dict[str, list[Tensor]] = {name: [] for name in method.networks}
        self.losses: dict[str, float] = {}
        self.gradients: dict[str, tuple[float, dict[str, float]]] = {}
        hooks = [network.register_forward_hook(self._hook(name)) for name, network in method.networks.items()]
        specs = method.optimizers
        context = StepContext()
        for phase in method.phases:
            terms = phase.backward(batch, None, context)
            self.losses |= {f"{phase.name}.{name}": value.item() for name, value in terms.items()}
            for spec in (specs[name] for name in phase.optimizers):
                networks = {name: method.networks[name] for name in spec.networks}
                for name, network in networks.items():
                    self.gradients[name] = gradient_norms(network, released_names(network))
                if update:
                    weights = [weight for network in networks.values() for weight in network.parameters()]
                    torch.optim.Adam(weights, lr=spec.lr, betas=spec.betas).step()
            for network in method.networks.values():
                network.zero_grad()
        for hook in hooks:
            hook.remove()

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda module, inputs, output: self.outputs[name].append(output.detach())


# --- released weights: settings are inferred from names and shapes ----------------------------------------------------

Network = TypeVar("Network", bound=nn.Module)

_OWN_PREFIX = re.compile(r"^((module|_orig_mod)\.)+")
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
        settings = DiscriminatorConfig(width=first[0], layers=0, norm=_norm(weights, "net.2"))
    elif first := _shape(weights, "model.0"):
        layers = sum(weight.ndim == 4 for weight in weights.values()) - 2
        settings = DiscriminatorConfig(width=first[0], layers=layers, norm=_norm(weights, "model.2"))
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
    plain = {_OWN_PREFIX.sub("", name): weight for name, weight in weights.items()}
    if any(_is_norm_weight(name, weight) for name, weight in plain.items()):
        return plain
    return {name: weight for name, weight in plain.items() if not name.endswith(_STATISTICS)}


def _is_norm_weight(name: str, weight: Tensor) -> bool:
    return weight.ndim == 1 and name.endswith(".weight")


def _shape(weights: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    """Return the shape of a convolution's weight, or an empty tuple if it does not exist."""
    return tuple(weights[f"{name}.weight"].shape) if f"{name}.weight" in weights else ()


def _norm(weights: Mapping[str, Tensor], normed: str) -> Norm:
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
    return GeneratorConfig(width=width, depth=levels, norm=_norm(weights, "model.model.0")), inputs, last[1]


def _resnet_settings(weights: Mapping[str, Tensor]) -> tuple[GeneratorConfig, int, int]:
    blocks = len({name.split(".")[1] for name in weights if ".conv_block." in name})
    first, last = _shape(weights, "model.1"), _shape(weights, f"model.{17 + blocks}")
    if not first or not last:
        raise CheckpointError(
            "the weights are neither those of a U-Net ('model.model.0') nor of a ResNet generator ('model.1')"
        )
    settings = GeneratorConfig(
        network="resnet",
        width=first[0],
        depth=blocks,
        norm=_norm(weights, "model.1"),
        dropout=0.5 if len(_shape(weights, "model.10.conv_block.6")) == 4 else 0,
    )
    return settings, first[1], last[0]


def _filled(network: Network, weights: Mapping[str, Tensor]) -> Network:
    ours = {theirs: name for name, theirs in released_names(network).items()}
    try:
        network.load_state_dict({ours.get(name, name): weight for name, weight in weights.items()})
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise CheckpointError(f"the released weights do not fit {type(network).__name__}: {first}") from error
    return network


def _convert(
    cls: type[PatchAdversarialMethod], path: Path, state: dict[str, Tensor], options: ConversionOptions
) -> Converted:
    """Convert a released generator; its inputs are source images unless a label space is given."""
    generator, settings = read_generator(state)
    _, inputs, outputs = _generator_settings(plain_weights(state))
    if outputs != 3:
        raise CheckpointError(f"{path} draws images of {outputs} channels, but images here are RGB; take another one")
    side = 256 if settings.network == "resnet" else size_multiple(settings)
    data: dict[str, Any] = {"size": options.size or (side, side)}
    if options.label_space is None:
        space = LabelSpace.load(DataConfig().label_space)
        data |= {"input": "images", "source": SourceConfig(channels=inputs)}
    elif inputs == 3:
        space = LabelSpace.load(options.label_space)
        settings = settings.model_copy(update={"encoding": "colors"})
    else:
        fit = fit_label_space(path, inputs, options, edges_possible=True)
        if fit.without_unknown:
            raise CheckpointError(f"{path} has no channel for unknown pixels, which '{fit.space.name}' has")
        space, data["instance_edges"] = fit.space, fit.edges
    data["label_space"] = options.label_space or space.name
    config = cls.Config.model_validate(
        {"name": cls.name, "data": DataConfig(**data), "generator": settings.model_dump()}
    )
    cls.build_sampling(config, space).check_size(*config.data.size)
    return Converted(generator.eval(), config, space)
