"""MUNIT: unpaired translation with separate codes for content and style (Huang et al., ECCV 2018)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.config.rules import check_size
from lab2pix.config.schema import Beta, DataConfig, RunConfig, Section, SourceConfig
from lab2pix.errors import ConfigError, WeightsError
from lab2pix.interop.conversion import CheckpointFormat, ConversionOptions, Converted
from lab2pix.interop.keymap import load_renamed
from lab2pix.interop.step_vectors import StepResults, check_step, input_classes, numbered_space
from lab2pix.interop.vectors import Row, Vectors, recorded_choice
from lab2pix.labels.space import LabelSpace
from lab2pix.losses import l1_distance
from lab2pix.methods.backprop import backward, frozen
from lab2pix.methods.base import Averaging, Losses, Method, OptimizerSpec, Phase, StepContext, require_images
from lab2pix.methods.image_translation import (
    STATISTICS,
    Encoding,
    adversarial,
    build_condition,
    check_encoding,
    infer_config,
    plain_names,
)
from lab2pix.methods.sampling import Sampling
from lab2pix.methods.schedules import step_decay
from lab2pix.methods.step_record import RecordedRandom, StepRecord
from lab2pix.nn.caffe_vgg import CaffeVGG16
from lab2pix.nn.fast import accelerate
from lab2pix.nn.init import init_weights
from lab2pix.nn.munit import MUNITDiscriminator, MUNITGenerator, MUNITSettings, Norm, Padding
from lab2pix.utils.pretrained import WeightsFile, read_weights

# --- settings ---------------------------------------------------------------------------------------------------------

LayerActivation = Literal["relu", "leaky-relu"]


class MUNITGeneratorConfig(Section):
    """Generators of both domains: encoders of style and content, MLP and decoder."""

    width: int = Field(64, ge=2, description="Channels at full size; doubled by each downsampling.")
    num_downsamples: int = Field(
        2, ge=1, description="Downsamplings of the content encoder; sides are multiples of 2^num_downsamples."
    )
    blocks: int = Field(4, ge=1, description="Residual blocks of the content encoder, and of the decoder.")
    style_downsamples: int = Field(4, ge=1, description="Downsamplings of the style encoder.")
    style_dim: int = Field(8, ge=1, description="Length of the style code.")
    mlp_width: int = Field(256, ge=1, description="Width of the MLP between style code and decoder.")
    activation: LayerActivation = Field("relu", description="Activation: ReLU, or LeakyReLU of slope 0.2.")
    padding: Padding = Field("reflect", description="Padding of convolutions: reflect, replicate or zero.")
    encoding: Encoding = Field(
        "one-hot",
        description="How label maps enter: a channel per class, or RGB in the label space's colors, as published.",
    )


class MUNITDiscriminatorConfig(Section):
    """Discriminators of both domains."""

    width: int = Field(64, ge=1, description="Channels of the first convolution; they double with each layer.")
    layers: int = Field(4, ge=1, description="Convolutions of stride 2.")
    scales: int = Field(
        3, ge=1, description="Number of discriminators; each works at half the resolution of the one before."
    )
    norm: Norm = Field("none", description="Normalization from the second layer on: none, instance, batch or layer.")
    activation: LayerActivation = Field("leaky-relu", description="Activation: LeakyReLU of slope 0.2, or ReLU.")
    padding: Padding = Field("reflect", description="Padding of convolutions: reflect, replicate or zero.")


class MUNITLossConfig(Section):
    """Loss terms and weights. A is the domain of inputs, B the domain of images."""

    adversarial: Literal["lsgan", "vanilla"] = Field("lsgan", description="Least squares, or cross entropy (vanilla).")
    adversarial_weight: float = Field(1.0, ge=0, description="Weight of the adversarial terms.")
    image: float = Field(10.0, ge=0, description="Weight of |decode(encode(x)) - x| within a domain.")
    style: float = Field(1.0, ge=0, description="Weight of the L1 distance of a drawn style to that of its image.")
    content: float = Field(1.0, ge=0, description="Weight of the L1 distance of contents before and after translation.")
    cycle: float = Field(0.0, ge=0, description="Weight of the L1 distance after translation there and back; 0: off.")
    perceptual: float = Field(
        0.0,
        ge=0,
        description="Weight of the distance of VGG16 features before and after translation, for RGB on both sides; "
        "0: off.",
    )
    perceptual_weights: str | None = Field(
        None, description="File of VGG16's Caffe weights; null: the torch hub cache, or the internet."
    )


class MUNITAdamConfig(Section):
    """Adam and its learning-rate schedule."""

    generator_lr: float = Field(1e-4, gt=0, description="Learning rate of the generators.")
    discriminator_lr: float = Field(1e-4, gt=0, description="Learning rate of the discriminators.")
    betas: tuple[Beta, Beta] = Field((0.5, 0.999), description="Adam's two decay rates.")
    weight_decay: float = Field(1e-4, ge=0, description="L2 penalty, as part of the gradient.")
    decay_every: int = Field(100_000, ge=1, description="Steps after which the rates fall.")
    decay_factor: float = Field(0.5, gt=0, le=1, description="Factor by which they fall.")


class MUNITConfig(RunConfig):
    """Settings of MUNIT."""

    takes_images: ClassVar[bool] = True

    method: Literal["munit"] = Field("munit", description="MUNIT: unpaired, with style codes.")
    generator: MUNITGeneratorConfig = MUNITGeneratorConfig()
    discriminator: MUNITDiscriminatorConfig = MUNITDiscriminatorConfig()
    loss: MUNITLossConfig = MUNITLossConfig()
    optimizer: MUNITAdamConfig = MUNITAdamConfig()

    def check_rules(self) -> None:
        """Check the image size against the depth of the networks, and the encoding against the input."""
        generator, discriminator = self.generator, self.discriminator
        reason = (
            f"generator.num_downsamples={generator.num_downsamples} with discriminator.layers={discriminator.layers} "
            f"and discriminator.scales={discriminator.scales}"
        )
        check_size(self, reason)
        check_encoding(self)

    @property
    def size_rule(self) -> tuple[int, int]:
        """Divisor of valid sides, and the smallest one."""
        generator, discriminator = self.generator, self.discriminator
        multiple = 2**generator.num_downsamples
        # Reflection needs two pixels before the last convolution, and instance norm two after it.
        downsamples = discriminator.scales + discriminator.layers - 1 + (discriminator.norm == "instance")
        return multiple, max(2**downsamples, 2 * multiple, 2**generator.style_downsamples)


# --- networks ---------------------------------------------------------------------------------------------------------

_VGG16 = WeightsFile(
    "vgg16-caffe",
    "vgg16-00b39a1b.pth",
    "00b39a1b",
    url="https://web.eecs.umich.edu/~justincj/models/vgg16-00b39a1b.pth",
    setting="loss.perceptual_weights",
)


def generator_settings(config: MUNITGeneratorConfig) -> MUNITSettings:
    """Return the settings of the generators."""
    return MUNITSettings(**config.model_dump(exclude={"encoding"}))


def build_discriminator(config: MUNITDiscriminatorConfig, channels: int) -> MUNITDiscriminator:
    """Build a discriminator with initial weights."""
    return MUNITDiscriminator(channels, **config.model_dump())


def load_perceptual(weights: str | None, *, pretrained: bool) -> CaffeVGG16:
    """Return the network of the perceptual loss.

    Raises:
        WeightsError: the weights are missing and cannot be downloaded, have the wrong hash, or do not fit.
    """
    network = CaffeVGG16()
    if not pretrained:
        return network
    file = _VGG16.find(weights)
    try:
        network.load_weights(read_weights(file))
    except Exception as error:  # unpickling a damaged file can raise anything
        raise WeightsError(f"{file} holds no weights of {_VGG16.name}; put {_VGG16.file} in its place") from error
    return network


# --- the method -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Translation:
    """Codes and images of one pass; `a` and `b` name domains.

    Attributes:
        content_a, content_b: content codes of the images, `[N, C, h, w]`.
        style_a, style_b: style codes of the images, `[N, style_dim]`.
        same_a, same_b: images decoded from their own codes.
        fake_a, fake_b: images decoded from the content of the other domain and a drawn style.
        content_b_again, style_a_again: codes of `fake_a`.
        content_a_again, style_b_again: codes of `fake_b`.
    """

    content_a: Tensor
    content_b: Tensor
    style_a: Tensor
    style_b: Tensor
    same_a: Tensor
    same_b: Tensor
    fake_a: Tensor
    fake_b: Tensor
    content_b_again: Tensor
    style_a_again: Tensor
    content_a_again: Tensor
    style_b_again: Tensor


class MUNIT(Method):
    """MUNIT: an image is a content code, common to both domains, and a style code of its domain.

    A is the domain of inputs (label maps, line drawings or source images), B the domain of images. To translate, the
    decoder of a domain combines the content of an image with a random style or with that of another image. Each step
    updates both discriminators on images of styles of their own, then both generators.
    """

    name: ClassVar[str] = "munit"
    Config = MUNITConfig
    paired: ClassVar[bool] = False
    averaged: ClassVar[Mapping[str, Averaging]] = {"generator_a": Averaging(), "generator_b": Averaging()}
    config: MUNITConfig

    def __init__(self, config: MUNITConfig, label_space: LabelSpace, *, pretrained: bool = True) -> None:
        super().__init__(config, label_space, pretrained=pretrained)
        channels = self.sampling.condition.channels
        if config.loss.perceptual and channels != 3:
            raise ConfigError(
                f"loss.perceptual is {config.loss.perceptual:g}, but inputs have {channels} channels, and its VGG16 "
                "takes RGB; set loss.perceptual=0 or generator.encoding=colors"
            )
        settings = generator_settings(config.generator)
        self.networks: dict[str, nn.Module] = {
            "generator_a": MUNITGenerator.build(channels, channels, settings),
            "generator_b": MUNITGenerator.build(3, 3, settings),
            "discriminator_a": build_discriminator(config.discriminator, channels),
            "discriminator_b": build_discriminator(config.discriminator, 3),
        }
        for name, network in self.networks.items():
            init_weights(network, "kaiming" if name.startswith("generator") else "normal")
        self.perceptual = (
            load_perceptual(config.loss.perceptual_weights, pretrained=pretrained) if config.loss.perceptual else None
        )

    @classmethod
    def build_sampling(cls, config: MUNITConfig, label_space: LabelSpace) -> Sampling:
        """Return the sampling: the noise is the style code, unless a style image is given."""
        return Sampling(
            build_condition(config, label_space),
            size_multiple=2**config.generator.num_downsamples,
            min_side=2,  # for reflection and instance norm of the content code
            noise_channels=config.generator.style_dim,
            style="optional",
        )

    @classmethod
    def build_generator(cls, config: MUNITConfig, label_space: LabelSpace) -> nn.Module:
        """Return the translator from A to B."""
        channels = build_condition(config, label_space).channels
        return MUNITGenerator.build(channels, 3, generator_settings(config.generator))

    def sampling_generator(self, networks: Mapping[str, nn.Module]) -> nn.Module:
        """Return the content encoder of A with style encoder, MLP and decoder of B."""
        return MUNITGenerator.translator(*_both(networks))

    @property
    def optimizers(self) -> dict[str, OptimizerSpec]:
        """One Adam optimizer for both discriminators, and one for both generators."""
        settings = self.config.optimizer
        schedule = step_decay(settings.decay_every, settings.decay_factor)
        return {
            f"{kind}s": OptimizerSpec(
                (f"{kind}_a", f"{kind}_b"), lr, settings.betas, settings.weight_decay, schedule=schedule
            )
            for kind, lr in (("discriminator", settings.discriminator_lr), ("generator", settings.generator_lr))
        }

    @property
    def phases(self) -> Sequence[Phase]:
        """The discriminator phase, then the generator phase."""
        return (
            Phase("discriminators", self.discriminators_backward, ("discriminators",)),
            Phase("generators", self.generators_backward, ("generators",)),
        )

    @property
    def compile_targets(self) -> Sequence[nn.Module]:
        """The parts of the generators, and the discriminators."""
        parts = [part for generator in _both(self.networks) for part in generator.children()]
        return [*parts, self.networks["discriminator_a"], self.networks["discriminator_b"]]

    def to(self, device: torch.device, memory_format: torch.memory_format = torch.preserve_format) -> None:
        """Move networks, and the network of the perceptual loss, to a device."""
        super().to(device, memory_format)
        if self.perceptual is not None:
            self.perceptual.to(device)

    def discriminators_backward(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Backpropagate the loss on real images and on translations to random styles, summed over scales."""
        loss, generators = self.config.loss, dict(zip("ab", _both(self.networks), strict=True))
        real = {"a": self.sampling.condition(batch), "b": require_images(batch)}
        styles = {domain: self._draw_style(batch, context) for domain in "ab"}
        # With several micro-batches no graph is kept, to save memory; the generator phase encodes again.
        with torch.set_grad_enabled(context.micro_batches == 1), context.autocast():
            contents = {domain: generators[domain].enc_content(real[domain]) for domain in "ab"}
        if context.micro_batches == 1:
            context.cache["contents"] = contents
        losses: Losses = {}
        for domain, other in ("ab", "ba"):
            discriminator = self.networks[f"discriminator_{domain}"]
            with context.autocast():
                with torch.no_grad():
                    fake = generators[domain].decode(contents[other], styles[domain])
                fake_logits, real_logits = discriminator(fake), discriminator(real[domain])
            losses[f"fake_{domain}"] = loss.adversarial_weight * self._adversarial("fake", fake_logits)
            losses[f"real_{domain}"] = loss.adversarial_weight * self._adversarial("real", real_logits)
        return backward(losses, context.scale)

    def generators_backward(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Backpropagate all terms of both generators; the noise of the batch is the style of domain B.

        Returns:
            Weighted terms with the domain of the translated or reconstructed image as suffix: `adversarial`, `image`,
            `style`; `content` of that domain; and `cycle` and `perceptual`, if their weight is not 0.
        """
        a, b = self.sampling.condition(batch), require_images(batch)
        discriminator_a, discriminator_b = self.networks["discriminator_a"], self.networks["discriminator_b"]
        style_a, style_b = (
            self._draw_style(batch, context),
            self._draw_style(batch, context) if noise is None else noise,
        )
        with context.autocast(), frozen(discriminator_a, discriminator_b):
            found = self.translate(a, b, style_a, style_b, context.cache.pop("contents", None))
            logits = discriminator_a(found.fake_a), discriminator_b(found.fake_b)
            terms = self._reconstruction_terms(found, a, b, style_a, style_b)
            terms |= self._optional_terms(found, a, b)
        terms |= {
            f"adversarial_{domain}": self._adversarial("generator", fake_logits)
            for domain, fake_logits in zip("ab", logits, strict=True)
        }
        return backward({name: self._weight(name) * term for name, term in terms.items()}, context.scale)

    def translate(
        self, a: Tensor, b: Tensor, style_a: Tensor, style_b: Tensor, contents: Mapping[str, Tensor] | None = None
    ) -> Translation:
        """Encode images of both domains, decode them with their own and with drawn styles, and encode the latter.

        Args:
            a: images of domain A.
            b: images of domain B.
            style_a: drawn style codes of domain A, `[N, style_dim]`.
            style_b: drawn style codes of domain B.
            contents: content codes of the images by domain; None: they are computed.
        """
        of_a, of_b = _both(self.networks)
        content_a = of_a.enc_content(a) if contents is None else contents["a"]
        content_b = of_b.enc_content(b) if contents is None else contents["b"]
        own_a, own_b = of_a.enc_style(a), of_b.enc_style(b)
        fake_a, fake_b = of_a.decode(content_b, style_a), of_b.decode(content_a, style_b)
        return Translation(
            content_a=content_a,
            content_b=content_b,
            style_a=own_a,
            style_b=own_b,
            same_a=of_a.decode(content_a, own_a),
            same_b=of_b.decode(content_b, own_b),
            fake_a=fake_a,
            fake_b=fake_b,
            content_b_again=of_a.enc_content(fake_a),
            style_a_again=of_a.enc_style(fake_a),
            content_a_again=of_b.enc_content(fake_b),
            style_b_again=of_b.enc_style(fake_b),
        )

    def _reconstruction_terms(
        self, found: Translation, a: Tensor, b: Tensor, style_a: Tensor, style_b: Tensor
    ) -> dict[str, Tensor]:
        return {
            "image_a": l1_distance(found.same_a, a),
            "image_b": l1_distance(found.same_b, b),
            "style_a": l1_distance(found.style_a_again, style_a),
            "style_b": l1_distance(found.style_b_again, style_b),
            "content_a": l1_distance(found.content_a_again, found.content_a),
            "content_b": l1_distance(found.content_b_again, found.content_b),
        }

    def _optional_terms(self, found: Translation, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        of_a, of_b = _both(self.networks)
        terms = {}
        if self.config.loss.cycle:
            terms["cycle_a"] = l1_distance(of_a.decode(found.content_a_again, found.style_a), a)
            terms["cycle_b"] = l1_distance(of_b.decode(found.content_b_again, found.style_b), b)
        if self.perceptual is not None:
            terms["perceptual_a"] = self._perceptual_distance(self.perceptual, found.fake_a, b)
            terms["perceptual_b"] = self._perceptual_distance(self.perceptual, found.fake_b, a)
        return terms

    @staticmethod
    def _perceptual_distance(network: CaffeVGG16, fake: Tensor, source: Tensor) -> Tensor:
        """Return the mean squared difference of instance-normalized features."""
        with torch.no_grad():
            of_source = network(source).float()
        of_fake = network(fake).float()
        return F.mse_loss(F.instance_norm(of_fake), F.instance_norm(of_source))

    def _adversarial(self, role: Literal["generator", "real", "fake"], logits: Sequence[Tensor]) -> Tensor:
        """Return the sum over scales of the mean loss."""
        return torch.stack([adversarial(self.config.loss.adversarial, role, scale) for scale in logits]).sum()

    def _weight(self, name: str) -> float:
        """Return the weight of a term, such as `image_a`."""
        term = name.rpartition("_")[0]
        return float(getattr(self.config.loss, "adversarial_weight" if term == "adversarial" else term))

    def _draw_style(self, batch: Batch, context: StepContext) -> Tensor:
        return context.random.normal(len(batch), self.config.generator.style_dim)

    # --- scores -----------------------------------------------------------------------------------------------------

    @property
    def score_names(self) -> tuple[str, ...]:
        """`cycle`."""
        return ("cycle",)

    @torch.no_grad()
    def validation_scores(self, batch: Batch, generated: Tensor) -> dict[str, Tensor]:
        """Return `cycle`, the mean absolute difference between the input and the generated image translated back."""
        (of_a, of_b), a = _both(self.networks), self.sampling.condition(batch)
        return {"cycle": l1_distance(of_a.decode(of_b.enc_content(generated), of_a.enc_style(a)), a)}

    def feature_networks(self) -> Mapping[str, str]:
        """Return the network of the perceptual loss, if it is used."""
        return {} if self.perceptual is None else {_VGG16.name: "loss.perceptual"}

    # --- other programs ---------------------------------------------------------------------------------------------

    @classmethod
    def checkpoint_formats(cls) -> Mapping[str, CheckpointFormat]:
        """Return the format of the authors' generators, both in one file."""

        def matches(state: Mapping[str, Tensor]) -> bool:
            return all(f"{domain}.enc_content.model.0.conv.weight" in plain_names(state) for domain in "ab")

        return {"munit": CheckpointFormat(matches, _convert, both_directions=True)}

    @classmethod
    def check_vectors(cls, vectors: Vectors, *, fast: bool = False) -> Iterator[Row]:
        """Compare outputs, losses, gradients and the weights after one step, within the tolerances in the file."""
        return check_step(vectors, vector_results(vectors, fast=fast))


def _both(networks: Mapping[str, nn.Module]) -> tuple[MUNITGenerator, MUNITGenerator]:
    """Return the generators of A and B."""
    return cast(MUNITGenerator, networks["generator_a"]), cast(MUNITGenerator, networks["generator_b"])


# --- released weights: settings are inferred from names and shapes ----------------------------------------------------


def _generator_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a generator without statistics, which no layer of it uses."""
    return {name: weight for name, weight in weights.items() if not name.endswith(STATISTICS)}


def _infer_settings(weights: Mapping[str, Tensor]) -> tuple[MUNITGeneratorConfig, int]:
    """Return the settings of a generator and its image channels; activation and padding are the published ones."""

    def count(start: str, end: str) -> int:
        return sum(name.startswith(start) and name.endswith(end) for name in weights)

    first = weights["enc_content.model.0.conv.weight"]
    style_layers = count("enc_style.model.", ".conv.weight")
    settings = MUNITGeneratorConfig(
        width=first.shape[0],
        num_downsamples=sum(f"enc_content.model.{index}.conv.weight" in weights for index in range(1, len(weights))),
        blocks=count("dec.model.0.model.", ".model.0.conv.weight"),
        style_downsamples=style_layers - 1,
        style_dim=weights[f"enc_style.model.{style_layers + 1}.weight"].shape[0],
        mlp_width=weights["mlp.model.0.fc.weight"].shape[0],
    )
    return settings, first.shape[1]


def _convert(path: Path, state: dict[str, Tensor], options: ConversionOptions) -> Converted:
    """Convert the authors' generators to a translator from A to B, or from B to A with `options.reverse`."""
    state = _generator_weights(plain_names(state))
    sides = {domain: {n[2:]: w for n, w in state.items() if n.startswith(f"{domain}.")} for domain in "ab"}
    source, target = ("b", "a") if options.reverse else ("a", "b")
    networks: dict[str, MUNITGenerator] = {}
    channels: dict[str, int] = {}
    for domain, weights in sides.items():
        settings, channels[domain] = _infer_settings(weights)
        networks[domain] = MUNITGenerator.build(channels[domain], channels[domain], generator_settings(settings))
        load_renamed(networks[domain], (), weights, f"generator '{domain}'")
    config, space = infer_config(MUNIT, path, settings, (channels[source], channels[target]), options)
    return Converted(MUNITGenerator.translator(networks[source], networks[target]).eval(), config, space)


# --- vector files -----------------------------------------------------------------------------------------------------

_PREFIXES = {
    **{"generator_a": "gen_a", "generator_b": "gen_b"},
    **{"discriminator_a": "dis_a", "discriminator_b": "dis_b"},
}
_ADVERSARIAL = {"lsgan": "lsgan", "nsgan": "vanilla"}
_ACTIVATIONS = {"relu": "relu", "lrelu": "leaky-relu"}
_NORMS = {"none": "none", "in": "instance", "bn": "batch", "ln": "layer"}
_STYLES = ("s_a_dis", "s_b_dis", "s_a_gen", "s_b_gen")


def _vector_config(recorded: Mapping[str, Any], data: DataConfig, style_downsamples: int) -> MUNITConfig:
    """Return the configuration of a vector file."""
    gen, dis, lr = recorded["gen"], recorded["dis"], recorded["lr"]
    return MUNITConfig.model_validate(
        {
            "data": data,
            "generator": {
                "width": gen["dim"],
                "mlp_width": gen["mlp_dim"],
                "style_dim": gen["style_dim"],
                "num_downsamples": gen["n_downsample"],
                "blocks": gen["n_res"],
                "style_downsamples": style_downsamples,
                "activation": recorded_choice(gen, "activ", _ACTIVATIONS),
                "padding": gen["pad_type"],
            },
            "discriminator": {
                "width": dis["dim"],
                "layers": dis["n_layer"],
                "scales": dis["num_scales"],
                "norm": recorded_choice(dis, "norm", _NORMS),
                "activation": recorded_choice(dis, "activ", _ACTIVATIONS),
                "padding": dis["pad_type"],
            },
            "loss": {
                "adversarial": recorded_choice(dis, "gan_type", _ADVERSARIAL),
                "adversarial_weight": recorded["gan_w"],
                "image": recorded["recon_x_w"],
                "style": recorded["recon_s_w"],
                "content": recorded["recon_c_w"],
                "cycle": recorded["recon_x_cyc_w"],
                "perceptual": recorded["vgg_w"],
            },
            "optimizer": {
                "generator_lr": lr,
                "discriminator_lr": lr,
                "betas": (recorded["beta1"], recorded["beta2"]),
                "weight_decay": recorded["weight_decay"],
            },
        }
    )


def _from_vectors(vectors: Vectors, *, fast: bool) -> tuple[MUNIT, Batch, list[Tensor]]:
    """Build the method of a vector file with the recorded weights; return it, its batch and the style codes."""
    recorded = vectors.values["config"]
    classes, batch = input_classes(vectors, recorded["input_dim_a"], source="x_a", image="x_b", others=_STYLES)
    source = SourceConfig(channels=recorded["input_dim_a"])
    data = DataConfig(input="labels" if classes else "images", source=source)
    downsamples = _infer_settings(vectors.part("gen_a."))[0].style_downsamples
    method = MUNIT(_vector_config(recorded, data, downsamples), numbered_space(classes))
    for name, prefix in _PREFIXES.items():
        weights = vectors.part(f"{prefix}.")
        network = method.networks[name]
        load_renamed(network, (), _generator_weights(weights) if name.startswith("generator") else weights, name)
        if fast:
            accelerate(network, torch.device("cpu"))
    return method, batch, [vectors.tensors[f"in.{name}"].flatten(1) for name in _STYLES]


def vector_results(vectors: Vectors, *, fast: bool) -> StepResults:
    """Run the phases on a vector file, and return the results before, in and after a step."""
    results = StepResults(tuple(_PREFIXES.values()))
    for when in ("initial", "step"):
        method, batch, codes = _from_vectors(vectors, fast=fast)
        if when == "initial":
            results.outputs |= _vector_outputs(method, batch, codes[2], codes[3])
        record = StepRecord(
            method,
            batch,
            update=when == "step",
            noise=codes[3],
            random=RecordedRandom(normal=codes[:3]),
        )
        results.values[f"loss.{when}"] = _vector_losses(method, record.losses)
        norms = {prefix: record.gradients[name] for name, prefix in _PREFIXES.items()}
        results.add_gradients(when, norms)
    # The authors' adaptive instance norms have statistics that nothing uses or changes.
    results.state = {name: tensor for name, tensor in vectors.tensors.items() if name.endswith(STATISTICS)}
    for name, prefix in _PREFIXES.items():
        state = method.networks[name].state_dict()
        results.state |= {f"{prefix}.{weight}": tensor.clone() for weight, tensor in state.items()}
    with torch.no_grad():
        results.outputs["after.x_ab"] = method.sampling_generator(method.networks)(
            method.sampling.condition(batch), codes[3]
        )
    return results


@torch.no_grad()
def _vector_outputs(method: MUNIT, batch: Batch, style_a: Tensor, style_b: Tensor) -> dict[str, Tensor]:
    """Return codes, images and logits before the step under the authors' names."""
    a, b = method.sampling.condition(batch), require_images(batch)
    found = method.translate(a, b, style_a, style_b)
    outputs = {
        **{"c_a": found.content_a, "c_b": found.content_b, "x_ba": found.fake_a, "x_ab": found.fake_b},
        **{"c_a_recon": found.content_a_again, "c_b_recon": found.content_b_again},
        **{"x_a_recon": found.same_a, "x_b_recon": found.same_b},
    }
    styles = {
        **{"s_a": found.style_a, "s_b": found.style_b},
        **{"s_a_recon": found.style_a_again, "s_b_recon": found.style_b_again},
    }
    if method.config.loss.cycle:
        of_a, of_b = _both(method.networks)
        outputs["x_aba"] = of_a.decode(found.content_a_again, found.style_a)
        outputs["x_bab"] = of_b.decode(found.content_b_again, found.style_b)
    for domain, fake, real in (("a", found.fake_a, a), ("b", found.fake_b, b)):
        discriminator = method.networks[f"discriminator_{domain}"]
        for kind, image in (("fake", fake), ("real", real)):
            outputs |= {f"dis_{domain}_{kind}.{scale}": logits for scale, logits in enumerate(discriminator(image))}
    return outputs | {name: code[..., None, None] for name, code in styles.items()}


def _vector_losses(method: MUNIT, losses: Mapping[str, float]) -> dict[str, float]:
    """Return losses under the authors' names; terms are recorded without their weights, totals with them."""
    loss = method.config.loss
    terms = {"adv": "adversarial", "recon_x": "image", "recon_s": "style", "recon_c": "content"}
    terms |= {"cycrecon_x": "cycle", "vgg": "perceptual"}
    found: dict[str, float] = {}
    for domain in "ab":
        total = losses[f"discriminators.fake_{domain}"] + losses[f"discriminators.real_{domain}"]
        found[f"dis_{domain}"] = total / loss.adversarial_weight if loss.adversarial_weight else 0.0
        for recorded, term in terms.items():
            name = f"{term}_{domain}"
            weight = method._weight(name)
            found[f"gen_{recorded}_{domain}"] = losses[f"generators.{name}"] / weight if weight else 0.0
    for phase, name in (("discriminators", "dis_total"), ("generators", "gen_total")):
        found[name] = sum(value for key, value in losses.items() if key.startswith(f"{phase}."))
    return found
