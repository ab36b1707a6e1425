"""Pix2PixHD: paired label-to-image synthesis at high resolution (Wang et al., CVPR 2018)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.config.rules import check_size
from lab2pix.config.schema import Beta, DataConfig, Section, SourceConfig
from lab2pix.errors import CheckpointError, ConfigError, DataError
from lab2pix.interop.checkpoints import read_checkpoint
from lab2pix.interop.conversion import (
    WIDE,
    CheckpointFormat,
    ConversionOptions,
    Converted,
    LabelFit,
    fit_label_space,
)
from lab2pix.interop.keymap import Rules, load_renamed
from lab2pix.interop.step_vectors import numbered_space
from lab2pix.interop.two_step_vectors import check_two_steps, recorded_batch
from lab2pix.interop.vectors import Row, Vectors
from lab2pix.labels.space import LabelSpace
from lab2pix.losses import feature_matching_loss
from lab2pix.methods.backprop import backward, frozen, trainable
from lab2pix.methods.base import Losses, OptimizerSpec, Phase, StepContext, require_images
from lab2pix.methods.image_translation import ImageTranslationTrainConfig, plain_weights
from lab2pix.methods.multiscale_gan import (
    EpochAdamConfig,
    ImageLossConfig,
    PatchDiscriminatorConfig,
    PerceptualGAN,
    PerceptualGANConfig,
    adversarial_mean,
    build_patch_discriminators,
    discriminate,
)
from lab2pix.methods.replay import RecordedNetwork, StepReplay, record_scales
from lab2pix.methods.sampling import INSTANCE_IDS, Condition, Sampling
from lab2pix.methods.schedules import late_epoch_decay
from lab2pix.nn.discriminators import MultiScaleDiscriminator, ScaleOutput
from lab2pix.nn.fast import accelerate
from lab2pix.nn.image_pool import ImagePool
from lab2pix.nn.init import init_weights
from lab2pix.nn.instance_features import InstanceFeatureGenerator, instance_features
from lab2pix.nn.local_enhancer import LocalEnhancer
from lab2pix.nn.resnet import ResNetGenerator

__all__ = ["Pix2PixHD", "Pix2PixHDConfig"]

NormName = Literal["instance", "batch"]

# --- settings ---------------------------------------------------------------------------------------------------------


class Pix2PixHDGeneratorConfig(Section):
    """Generator: the global generator alone, or local enhancers around a smaller one."""

    network: Literal["global", "local"] = Field("global", description="Global generator, or local enhancers around it.")
    width: int = Field(
        64, ge=1, description="Channels at full size; each halving doubles them (64 global, 32 local as published)."
    )
    downsamplings: int = Field(4, ge=1, description="Halvings of the global generator.")
    blocks: int = Field(9, ge=1, description="Residual blocks of the global generator.")
    enhancers: int = Field(1, ge=1, description="Local enhancers; each doubles the size (only `network: local`).")
    enhancer_blocks: int = Field(3, ge=1, description="Residual blocks of each local enhancer.")
    norm: NormName = Field("instance", description="Normalization: instance (without weights) or batch.")


class InstanceFeatureConfig(Section):
    """Instance features: an encoder of the image, averaged over each instance, as a further input."""

    per: Literal["none", "instance", "class"] = Field(
        "none",
        description="Average over each instance (needs data.instance_edges, which reads instance maps) or each class; "
        "none: no features.",
    )
    channels: int = Field(3, ge=1, description="Channels of the features.")
    width: int = Field(16, ge=1, description="Channels of the encoder at full size.")
    downsamplings: int = Field(4, ge=1, description="Halvings of the encoder.")
    clusters: int = Field(10, ge=1, description="Most clusters of features per class, from which images are drawn.")
    images: int = Field(
        500, ge=1, description="Training images whose features are clustered when the model is scored or saved."
    )


class Pix2PixHDDiscriminatorConfig(PatchDiscriminatorConfig):
    """Multi-scale PatchGAN discriminators."""

    norm: NormName = Field("instance", description="Normalization: instance (without weights) or batch.")


class Pix2PixHDLossConfig(ImageLossConfig):
    """Loss terms and weights."""

    adversarial: Literal["hinge", "vanilla", "lsgan", "wgangp"] = Field(
        "lsgan", description="Least squares, cross entropy (vanilla), hinge, or the mean without a penalty (wgangp)."
    )
    feature_matching: float = Field(
        10.0,
        ge=0,
        description="Weight of feature matching: four times the mean over layers and discriminators; 0: off.",
    )
    pool_size: int = Field(0, ge=0, description="Generated images that discriminators see again; 0: off.")


class OptimizerConfig(EpochAdamConfig):
    """Adam, its learning-rate schedule, and the two stages of a local enhancer."""

    generator_lr: float = Field(2e-4, gt=0, description="Learning rate of the generator and the encoder of features.")
    discriminator_lr: float = Field(2e-4, gt=0, description="Learning rate of the discriminators.")
    betas: tuple[Beta, Beta] = Field((0.5, 0.999), description="Adam's two decay rates.")
    enhancer_epochs: int = Field(
        0,
        ge=0,
        description="First epochs in which only the last local enhancer trains; then all of the generator trains, with "
        "a fresh optimizer.",
    )


class Pix2PixHDConfig(PerceptualGANConfig):
    """Settings of Pix2PixHD."""

    takes_images: ClassVar[bool] = True

    method: Literal["pix2pixhd"] = Field("pix2pixhd", description="Pix2PixHD: paired.")
    generator: Pix2PixHDGeneratorConfig = Pix2PixHDGeneratorConfig()
    features: InstanceFeatureConfig = InstanceFeatureConfig()
    discriminator: Pix2PixHDDiscriminatorConfig = Pix2PixHDDiscriminatorConfig()
    loss: Pix2PixHDLossConfig = Pix2PixHDLossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: ImageTranslationTrainConfig = ImageTranslationTrainConfig()

    @property
    def enhancers(self) -> int:
        """Number of local enhancers."""
        return self.generator.enhancers if self.generator.network == "local" else 0

    @property
    def size_multiple(self) -> int:
        """Divisor of valid heights and widths."""
        of_encoder = self.features.downsamplings if self.features.per != "none" else 0
        return 1 << max(self.generator.downsamplings + self.enhancers, of_encoder)

    @property
    def size_rule(self) -> tuple[int, int]:
        """Divisor of valid heights and widths, and the smallest one."""
        return self.size_multiple, 2 * self.size_multiple

    def check_rules(self) -> None:
        """Check the image size, the two stages and the features."""
        reason = f"generator.downsamplings={self.generator.downsamplings} with {self.enhancers} local enhancers"
        check_size(self, reason)
        if self.optimizer.enhancer_epochs and not self.enhancers:
            raise ConfigError(
                f"optimizer.enhancer_epochs is {self.optimizer.enhancer_epochs}, but generator.network is 'global', "
                "which has no local enhancer; set optimizer.enhancer_epochs=0 or generator.network=local"
            )
        if self.features.per != "none" and (self.data.input == "images" or self.data.label_space == "sketch"):
            raise ConfigError(
                f"features.per is '{self.features.per}', but features are drawn per class and the run generates from "
                f"{'images' if self.data.input == 'images' else 'line drawings'}; set features.per=none"
            )
        if self.features.per == "instance" and not self.data.instance_edges:
            raise ConfigError(
                "features.per is 'instance', but data.instance_edges is false, so no instance maps are read; set "
                "data.instance_edges=true, or features.per=class, which needs none"
            )


# --- networks ---------------------------------------------------------------------------------------------------------


def _build_generator(settings: Pix2PixHDGeneratorConfig, channels: int) -> nn.Module:
    """Build the generator without its features."""
    if settings.network == "local":
        return LocalEnhancer(channels, **settings.model_dump(exclude={"network"}))
    options = settings.model_dump(exclude={"network", "enhancers", "enhancer_blocks"})
    return ResNetGenerator(channels, **options, bias=True)


def _build_encoder(settings: InstanceFeatureConfig, norm: NormName) -> nn.Module:
    """Build the encoder of instance features: a global generator without blocks."""
    options = settings.model_dump(include={"width", "downsamplings"})
    return ResNetGenerator(3, settings.channels, blocks=0, **options, norm=norm, bias=True)


# --- the method -------------------------------------------------------------------------------------------------------


class Pix2PixHD(PerceptualGAN):
    """Pix2PixHD: a global generator or local enhancers, multi-scale discriminators, feature matching, VGG loss.

    A step runs the generator once and the discriminators three times: on generated images for the generator, on real
    ones for both phases, and on the same generated images, or those of a pool, for the discriminators.
    """

    name: ClassVar[str] = "pix2pixhd"
    Config = Pix2PixHDConfig
    config: Pix2PixHDConfig

    def __init__(self, config: Pix2PixHDConfig, label_space: LabelSpace, *, pretrained: bool = True) -> None:
        super().__init__(config, label_space, pretrained=pretrained)
        condition = self.sampling.condition
        self.label_channels = condition.channels - condition.instance_ids
        self.networks = {
            "generator": self.build_generator(config, label_space),
            "discriminator": build_patch_discriminators(
                config.discriminator, self.label_channels + 3, spectral_norm=False
            ),
        }
        for network in self.networks.values():
            init_weights(network, config.train.init, config.train.init_gain, biases=False)
        self.pool = ImagePool(config.loss.pool_size)

    @classmethod
    def build_sampling(cls, config: Pix2PixHDConfig, label_space: LabelSpace) -> Sampling:
        """Return the sampling; with features, noise or a style image decides them."""
        data, per = config.data, config.features.per
        if data.input == "images":
            condition = Condition(
                label_space, "images", edges=data.instance_edges, channels_of_images=data.source.channels
            )
        elif label_space.name == "sketch":
            condition = Condition(label_space, "lines")
        else:
            condition = Condition(label_space, edges=data.instance_edges, instance_ids=per == "instance")
        return Sampling(
            condition,
            size_multiple=config.size_multiple,
            min_side=2,
            noise_channels=0 if per == "none" else INSTANCE_IDS,
            style="none" if per == "none" else "optional",
        )

    @classmethod
    def build_generator(cls, config: Pix2PixHDConfig, label_space: LabelSpace) -> nn.Module:
        """Return the generator; with features it includes the encoder and the clusters."""
        condition, features = cls.build_sampling(config, label_space).condition, config.features
        channels = condition.channels - condition.instance_ids
        if features.per == "none":
            return _build_generator(config.generator, channels)
        return InstanceFeatureGenerator(
            _build_generator(config.generator, channels + features.channels),
            _build_encoder(features, config.generator.norm),
            classes=label_space.num_channels,
            clusters=features.clusters,
            channels=features.channels,
            by_instance=features.per == "instance",
        )

    @property
    def refresh_batches(self) -> int:
        """Number of training batches whose features are clustered."""
        train, features = self.config.train, self.config.features
        return 0 if features.per == "none" else -(-features.images // (train.batch_size // train.accumulate))

    @torch.no_grad()
    def refresh(self, generator: nn.Module, batches: Iterable[tuple[Batch, Tensor | None]]) -> None:
        """Cluster the features of training instances."""
        assert isinstance(generator, InstanceFeatureGenerator)
        generator.eval()
        generator.fit(
            found
            for batch, _ in batches
            for found in instance_features(
                generator.encoder(require_images(batch)), self._instances(batch), batch.label
            )
        )

    @property
    def compile_targets(self) -> Sequence[nn.Module]:
        """The generator, its encoder, and each discriminator."""
        generator, discriminator = self.networks["generator"], self.networks["discriminator"]
        assert isinstance(discriminator, MultiScaleDiscriminator)
        with_features = isinstance(generator, InstanceFeatureGenerator)
        parts = [generator.generator, generator.encoder] if with_features else [generator]
        return [*parts, *discriminator.networks]

    @property
    def optimizers(self) -> dict[str, OptimizerSpec]:
        """Adam for the generator, for the discriminators and, if it has a stage of its own, the last local enhancer."""
        settings = self.config.optimizer
        schedule = late_epoch_decay(settings.decay_fraction)

        def adam(network: str, lr: float, pattern: str = "") -> OptimizerSpec:
            return OptimizerSpec((network,), lr, settings.betas, schedule=schedule, pattern=pattern)

        specs = {
            "generator": adam("generator", settings.generator_lr),
            "discriminator": adam("discriminator", settings.discriminator_lr),
        }
        if settings.enhancer_epochs:
            # The encoder of features trains in both stages, as in the authors' code.
            pattern = rf"(generator\.)?model{self.config.enhancers}_|encoder\."
            specs["enhancer"] = adam("generator", settings.generator_lr, pattern)
        return specs

    @property
    def phases(self) -> Sequence[Phase]:
        """The generator phase (in the first stage of the last local enhancer alone), then the discriminator phase."""
        epochs = self.config.optimizer.enhancer_epochs
        discriminator = Phase("discriminator", self.discriminator_backward, ("discriminator",))
        if not epochs:
            return (Phase("generator", self.generator_backward, ("generator",)), discriminator)
        return (
            Phase("enhancer", self.enhancer_backward, ("enhancer",), lambda progress: progress.epoch < epochs),
            Phase("generator", self.generator_backward, ("generator",), lambda progress: progress.epoch >= epochs),
            discriminator,
        )

    # --- losses -----------------------------------------------------------------------------------------------------

    def enhancer_backward(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Same as `generator_backward` for the last local enhancer and the encoder of features alone."""
        generator = self.networks["generator"]
        whole = generator.generator if isinstance(generator, InstanceFeatureGenerator) else generator
        last = f"model{self.config.enhancers}_"
        with frozen(*(part for name, part in whole.named_children() if not name.startswith(last))):
            return self.generator_backward(batch, noise, context)

    def generator_backward(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Backpropagate the sum of `generator_losses` to the generator."""
        with frozen(self.networks["discriminator"]):
            losses = self.generator_losses(batch, noise, context)
        return backward(losses, context.scale)

    def generator_losses(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Return the weighted terms `adversarial`, `feature_matching` and `perceptual`, except those of weight 0."""
        loss, image = self.config.loss, require_images(batch)
        condition = self.sampling.condition(batch)
        labels = self.labels(condition)
        with context.autocast():
            fake = self.generate(condition, batch)
            of_fake = self.discriminate(labels, fake)
        losses = {"adversarial": self._adversarial(of_fake, "generator")}
        # With several micro-batches no graph is kept, to save memory; the discriminator phase runs again.
        keeps = context.micro_batches == 1
        if keeps:
            with trainable(self.networks["discriminator"]), context.autocast():
                context.cache["of_real"] = of_real = self.discriminate(labels, image)
        elif loss.feature_matching:
            with torch.no_grad(), context.autocast():
                of_real = self.discriminate(labels, image)
        if loss.feature_matching:
            real = [[feature.detach() for feature in output.features] for output in of_real]
            distance = feature_matching_loss([output.features for output in of_fake], real)
            losses["feature_matching"] = loss.feature_matching * 4 / len(of_fake) * distance
        if self.perceptual is not None:
            with context.autocast():
                losses["perceptual"] = loss.perceptual * self.perceptual(fake, image)
        context.cache["fake"] = fake.detach().float()
        return losses

    def discriminator_backward(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Backpropagate the halved terms `fake`, on the images of the generator phase or of the pool, and `real`."""
        labels = self.labels(self.sampling.condition(batch))
        pairs = self.pool.query(torch.cat([labels, context.cache.pop("fake")], 1), context.random.uniform)
        with context.autocast():
            of_fake = discriminate(self.networks["discriminator"], pairs)
            of_real = context.cache.pop("of_real", None)
            if of_real is None:
                of_real = self.discriminate(labels, require_images(batch))
        losses = {
            "fake": 0.5 * self._adversarial(of_fake, "fake"),
            "real": 0.5 * self._adversarial(of_real, "real"),
        }
        return backward(losses, context.scale)

    def labels(self, condition: Tensor) -> Tensor:
        """Return the condition without instance ids, as the discriminators see it."""
        return condition[:, : self.label_channels] if self.sampling.condition.instance_ids else condition

    def generate(self, condition: Tensor, batch: Batch) -> Tensor:
        """Generate the training images of a batch, with features of the real images."""
        generator = self.networks["generator"]
        image: Tensor
        if self.config.features.per == "none":
            image = generator(condition)
        else:
            image = generator(condition, style=require_images(batch), instances=self._instances(batch))
        return image

    def encode_features(self, batch: Batch) -> Tensor | None:
        """Return the features of the real images, `[N, F, H, W]`; None if the generator takes none."""
        generator = self.networks["generator"]
        if not isinstance(generator, InstanceFeatureGenerator):
            return None
        return generator.encode(require_images(batch), self._instances(batch))

    def _instances(self, batch: Batch) -> Tensor:
        """Return the ids over which features are averaged, `[N, H, W]`."""
        if self.config.features.per == "class":
            return batch.label
        if batch.instances is None:
            raise DataError("there is no instance map, but features.per is 'instance'; give instance maps")
        return batch.instances

    def discriminate(self, labels: Tensor, image: Tensor) -> list[ScaleOutput]:
        """Run the discriminators on labels and images."""
        return discriminate(self.networks["discriminator"], torch.cat([labels, image], 1))

    def _adversarial(self, outputs: Sequence[ScaleOutput], term: Literal["generator", "real", "fake"]) -> Tensor:
        """Return the adversarial loss, summed over the discriminators."""
        return len(outputs) * adversarial_mean(outputs, term, self.config.loss.adversarial)

    def recorded(self, outputs: Sequence[ScaleOutput]) -> list[ScaleOutput]:
        """Return outputs of the discriminators as the authors record them: with cross entropy, as probabilities."""
        if self.config.loss.adversarial != "vanilla":
            return list(outputs)
        return [ScaleOutput([one.sigmoid() for one in output.predictions], output.features) for output in outputs]

    def extra_state(self) -> dict[str, Tensor]:
        """Return the pairs in the image pool."""
        return {"pool": self.pool.state()} if self.pool.size else {}

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the image pool."""
        if self.pool.size:
            if "pool" not in state:
                raise CheckpointError("the checkpoint lacks Pix2PixHD's image pool; take a whole one")
            self.pool.load_state(state["pool"])

    # --- the authors' code ------------------------------------------------------------------------------------------

    @classmethod
    def checkpoint_formats(cls) -> Mapping[str, CheckpointFormat]:
        """Return the format of the authors' generators."""
        return {"pix2pixhd": CheckpointFormat(_matches, _convert)}

    @classmethod
    def check_vectors(cls, vectors: Vectors, *, fast: bool = False) -> Iterator[Row]:
        """Compare outputs, losses, gradients and the weights after one and two steps with a vector file."""
        method, batch = _from_vectors(cls, vectors, fast)
        networks = {
            prefix: RecordedNetwork(network, rules) for prefix, (network, rules) in _recorded_networks(method).items()
        }
        replay = StepReplay(
            method,
            batch,
            networks,
            noises={},
            record=lambda calls: record_scales(*(method.recorded(outputs) for outputs in calls)),
            terms={
                "generator": {"adversarial": ("G_GAN", 1.0), "feature_matching": ("G_GAN_Feat", 1.0)},
                # The authors record these terms before they halve them.
                "discriminator": {"fake": ("D_fake", 2.0), "real": ("D_real", 2.0)},
            },
        )

        def evaluate() -> dict[str, Tensor]:
            condition = method.sampling.condition(batch)
            outputs = {
                "condition_sum": method.labels(condition).sum((2, 3)),
                "eval.fake": method.generate(condition, batch),
            }
            if (features := method.encode_features(batch)) is not None:
                outputs["eval.features"] = features
            return outputs

        return check_two_steps(vectors, replay.run(evaluate), ("in.image", "in.label", "in.instance"))


# --- vector files -----------------------------------------------------------------------------------------------------


def _recorded_networks(method: Pix2PixHD) -> dict[str, tuple[nn.Module, Rules]]:
    """Return the networks by their prefix in a vector file, with the rules from our names of weights."""
    generator, settings = method.networks["generator"], method.config.discriminator
    matching = method.config.loss.feature_matching > 0
    rules = _discriminator_rules(settings.scales, settings.layers, matching)
    networks: dict[str, tuple[nn.Module, Rules]] = {"D": (method.networks["discriminator"], rules)}
    if isinstance(generator, InstanceFeatureGenerator):
        return {"G": (generator.generator, ()), "E": (generator.encoder, ()), **networks}
    return {"G": (generator, ()), **networks}


def _discriminator_rules(scales: int, layers: int, feature_matching: bool) -> Rules:
    """Return the rules from our names of the discriminators to the authors', who count from the smallest size.

    Args:
        scales: number of discriminators.
        layers: convolutions before the one that predicts.
        feature_matching: whether the authors' code keeps layers apart, or numbers all modules of a discriminator.
    """

    def name(match: re.Match[str]) -> str:
        scale, layer, module = scales - 1 - int(match[1]), int(match[2] or layers), int(match[3] or 0)
        if feature_matching:
            return f"scale{scale}_layer{layer}.{module}."
        return f"layer{scale}.{(3 * layer - 1 if layer else 0) + module}."

    return [(r"^networks\.(\d+)\.(?:head|layers\.(\d+)\.(\d+))\.", name)]


def _from_vectors(cls: type[Pix2PixHD], vectors: Vectors, fast: bool) -> tuple[Pix2PixHD, Batch]:
    """Build the method of a vector file with the recorded weights, and its batch.

    Raises:
        CheckpointError: weights, inputs or settings do not match the method.
    """
    recorded = vectors.values["config"]
    if recorded.get("load_features"):
        raise CheckpointError("config.load_features is set, but features are encoded here, not read from files")
    classes, unknown = recorded.get("label_nc", 35), bool(recorded.get("contain_dontcare_label"))
    space = numbered_space(classes, unknown=unknown)
    method = cls(_recorded_config(cls, vectors, classes), space)
    for prefix, (network, rules) in _recorded_networks(method).items():
        load_renamed(network, rules, plain_weights(vectors.part(f"{prefix}.")), f"network {prefix}")
        if fast:
            accelerate(network, torch.device("cpu"))
    return method, recorded_batch(vectors, space, classes)


def _recorded_config(cls: type[Pix2PixHD], vectors: Vectors, classes: int) -> Pix2PixHDConfig:
    """Return the settings of a recording."""
    recorded, optimizer = vectors.values["config"], vectors.values["optimizer"]
    generator, _ = infer_generator_settings(plain_weights(vectors.part("G.")))
    features = InstanceFeatureConfig()
    if recorded.get("instance_feat") or recorded.get("label_feat"):
        features = InstanceFeatureConfig(
            per="class" if recorded.get("label_feat") else "instance",
            channels=recorded.get("feat_num", 3),
            width=recorded.get("nef", 16),
            downsamplings=recorded.get("n_downsample_E", 4),
        )
    return cls.Config(
        data=DataConfig(
            input="labels" if classes else "images",
            size=(recorded["height"], recorded["width"]),
            instance_edges=not recorded.get("no_instance"),
        ),
        generator=generator,
        features=features,
        discriminator=Pix2PixHDDiscriminatorConfig(
            scales=recorded.get("num_D", 2),
            width=recorded.get("ndf", 64),
            layers=recorded.get("n_layers_D", 3) + 1,
            norm=generator.norm,
        ),
        loss=Pix2PixHDLossConfig(
            adversarial="vanilla" if recorded.get("no_lsgan") else "lsgan",
            feature_matching=0 if recorded.get("no_ganFeat_loss") else recorded.get("lambda_feat", 10.0),
            perceptual=0,
            pool_size=recorded.get("pool_size", 0),
        ),
        optimizer=OptimizerConfig(
            generator_lr=optimizer["lr_generator"],
            discriminator_lr=optimizer["lr_discriminator"],
            betas=tuple(optimizer["betas"]),
            enhancer_epochs=recorded.get("niter_fix_global", 0),
        ),
    )


# --- the authors' checkpoints: settings are inferred from names and shapes --------------------------------------------


def _matches(state: Mapping[str, Tensor]) -> bool:
    """Return whether a state dict is of a global generator or of local enhancers."""
    first = state.get("model.1.weight")
    return first is not None and first.shape[2:] == (7, 7) and any(".conv_block." in name for name in state)


def infer_generator_settings(weights: Mapping[str, Tensor]) -> tuple[Pix2PixHDGeneratorConfig, int]:
    """Infer the settings of a generator, and its input channels.

    Raises:
        KeyError: a weight is missing.
    """
    first = weights["model.1.weight"]
    enhancers = 0
    while f"model{enhancers + 1}_1.1.weight" in weights:
        enhancers += 1
    downsamplings = 0
    while f"model.{4 + 3 * downsamplings}.weight" in weights:
        downsamplings += 1
        if any(name.startswith(f"model.{4 + 3 * downsamplings}.conv_block.") for name in weights):
            break
    full_size = weights[f"model{enhancers}_1.1.weight"] if enhancers else first
    settings = Pix2PixHDGeneratorConfig(
        network="local" if enhancers else "global",
        width=full_size.shape[0],
        downsamplings=downsamplings,
        blocks=_count_blocks(weights, "model"),
        enhancers=max(1, enhancers),
        enhancer_blocks=_count_blocks(weights, "model1_2") if enhancers else 3,
        norm="batch" if "model.2.weight" in weights else "instance",
    )
    return settings, first.shape[1]


def _count_blocks(weights: Mapping[str, Tensor], prefix: str) -> int:
    pattern = re.compile(rf"{prefix}\.(\d+)\.conv_block\.")
    return len({match[1] for match in map(pattern.match, weights) if match})


def _convert(path: Path, state: dict[str, Tensor], options: ConversionOptions) -> Converted:
    """Convert a generator and, if it takes features, the encoder in the file next to it."""
    weights = plain_weights(state)
    generator, channels = infer_generator_settings(weights)
    data: dict[str, Any] = {}
    features, encoder = InstanceFeatureConfig(), None
    if channels == 3 and options.label_space is None:
        space = LabelSpace.load(DataConfig().label_space)
        data |= {"input": "images", "source": SourceConfig(channels=3)}
    else:
        fit, features, encoder = _fit(path, channels, options)
        fit.pad_unknown_channel(weights, r"^model(\d+_1)?\.1\.weight$")
        space, data["instance_edges"] = fit.space, fit.edges
    config = Pix2PixHDConfig(name="pix2pixhd", generator=generator, features=features)
    side = 512 << config.enhancers
    wide = space.name == WIDE and data.get("input") != "images"
    data |= {
        "size": options.size or (side, 2 * side if wide else side),
        "label_space": options.label_space or space.name,
    }
    config = config.model_copy(update={"data": DataConfig(**data)})
    Pix2PixHD.build_sampling(config, space).check_size(*config.data.size)
    network = Pix2PixHD.build_generator(config, space)
    if isinstance(network, InstanceFeatureGenerator):
        assert encoder is not None
        load_renamed(network.generator, (), weights, "generator")
        load_renamed(network.encoder, (), encoder, "encoder")
    else:
        load_renamed(network, (), weights, "generator")
    return Converted(network.eval(), config, space)


def _fit(
    path: Path, channels: int, options: ConversionOptions
) -> tuple[LabelFit, InstanceFeatureConfig, dict[str, Tensor] | None]:
    """Return the label space of a generator and, if none fits without features, its features and their encoder.

    Raises:
        CheckpointError: no label space fits, or the encoder is missing or has weights of another network.
    """
    try:
        return fit_label_space(path, channels, options, edges_possible=True), InstanceFeatureConfig(), None
    except CheckpointError as error:
        file = path.with_name(path.name.replace("net_G", "net_E"))
        if file == path or not file.is_file():
            raise CheckpointError(
                f"{error}; if it takes instance features, put their encoder, such as latest_net_E.pth, next to it"
            ) from error
    encoder = plain_weights(read_checkpoint(file))
    if not _is_encoder(encoder):
        raise CheckpointError(f"{file} holds no encoder of instance features; give that of the generator")
    settings = _encoder_settings(encoder)
    fit = fit_label_space(path, channels - settings.channels, options, edges_possible=True)
    # Without instance maps, features can only have been averaged over classes.
    return fit, settings.model_copy(update={"per": "instance" if fit.edges else "class"}), encoder


def _is_encoder(weights: Mapping[str, Tensor]) -> bool:
    first = weights.get("model.1.weight")
    return first is not None and tuple(first.shape[1:]) == (3, 7, 7) and not _count_blocks(weights, "model")


def _encoder_settings(weights: Mapping[str, Tensor]) -> InstanceFeatureConfig:
    """Infer the settings of an encoder, whose convolutions halve the size as often as they double it."""
    convolutions = sorted(int(name.split(".")[1]) for name, weight in weights.items() if weight.ndim == 4)
    return InstanceFeatureConfig(
        channels=weights[f"model.{convolutions[-1]}.weight"].shape[0],
        width=weights["model.1.weight"].shape[0],
        downsamplings=len(convolutions) // 2 - 1,
    )
