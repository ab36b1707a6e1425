"""GAN with a segmenting network, the base of OASIS, DP-GAN and USIS: settings, losses by class, released weights."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.config.rules import check_first_scale, check_size, squares_per_image
from lab2pix.config.schema import Beta, RunConfig, Section
from lab2pix.errors import CheckpointError, ConfigError, did_you_mean
from lab2pix.interop.checkpoints import read_checkpoint
from lab2pix.interop.conversion import (
    WIDE,
    CheckpointFormat,
    ConversionOptions,
    Converted,
    LabelFit,
    check_num_upsamples,
    fit_label_space,
)
from lab2pix.interop.keymap import SPECTRAL_NORM, Rules, load_renamed
from lab2pix.labels.space import LabelSpace
from lab2pix.methods.backprop import backward, frozen
from lab2pix.methods.base import Averaging, Losses, Method, OptimizerSpec, Phase, StepContext, always
from lab2pix.methods.multiscale_gan import GeneratorTrainConfig
from lab2pix.methods.sampling import Condition, Sampling
from lab2pix.methods.schedules import Progress
from lab2pix.nn.init import init_weights

# --- settings ---------------------------------------------------------------------------------------------------------


class SegmentationGeneratorConfig(Section):
    """Generator."""

    width: int = Field(64, ge=1, description="Channels at the last scale; the first has up to 16 times as many.")
    num_upsamples: int = Field(
        5, ge=1, description="How often the size doubles; sides are multiples of 2 to the power of it."
    )
    noise_dim: int = Field(
        64, ge=0, description="Length of the noise vector at every pixel (3D noise); 0: one image per label map."
    )


class SegmenterConfig(Section):
    """U-Net that segments images."""

    widths: tuple[int, ...] = Field(
        (128, 128, 256, 256, 512, 512), min_length=1, description="Channels after each halving of the size."
    )
    last_width: int = Field(64, ge=1, description="Channels before the logits, at full size.")


class SegmentationLossConfig(Section):
    """Loss terms and weights."""

    ignored_classes: tuple[str, ...] = Field(
        (), description="Classes without weight in the losses of labels, such as unlabeled; unknown always is one."
    )


class SegmentationAdamConfig(Section):
    """Adam, with constant learning rates."""

    generator_lr: float = Field(1e-4, gt=0, description="Learning rate of the generator.")
    discriminator_lr: float = Field(4e-4, gt=0, description="Learning rate of the discriminator.")
    betas: tuple[Beta, Beta] = Field((0.0, 0.999), description="Adam's two decay rates.")


class SegmentationTrainConfig(GeneratorTrainConfig):
    """Training duration, batch size, precision and initialization."""

    ema_decay: float | None = Field(
        0.9999, gt=0, lt=1, description="Decay of the exponential moving average of the generator; null: off."
    )
    refresh_batches: int = Field(
        51,
        ge=0,
        description="Training batches that the averaged generator sees in train mode before it is scored or saved, for "
        "its batch statistics; 0: the averaged ones.",
    )


class SegmentationGANConfig(RunConfig):
    """Settings common to OASIS, DP-GAN and USIS."""

    generator: SegmentationGeneratorConfig = SegmentationGeneratorConfig()
    optimizer: SegmentationAdamConfig = SegmentationAdamConfig()
    train: SegmentationTrainConfig = SegmentationTrainConfig()

    def check_rules(self) -> None:
        """Check the image size against the networks."""
        squares = squares_per_image(self, self.generator.num_upsamples)
        check_size(self, "generator.num_upsamples and the depth of the other networks", squares=squares)

    def check_samples_per_pass(self, samples: int, advice: str) -> None:
        """Check that batch norm at the first scale has more than one value per channel."""
        check_first_scale(self, self.generator.num_upsamples, samples, advice)


# --- losses -----------------------------------------------------------------------------------------------------------


def class_weights(label: Tensor, classes: int, ignored: Collection[int] = ()) -> Tensor:
    """Return weights that balance the classes of a batch, `[classes]`: pixels / (classes present * pixels of a class).

    Args:
        label: `[N, H, W]` ids.
        classes: number of classes.
        ignored: ids whose weight is 0, and which do not count as present.
    """
    counts = torch.bincount(label.flatten(), minlength=classes).float()
    counts[list(ignored)] = 0
    present = counts > 0
    return torch.where(present, label.numel() / (present.sum() * counts), 0.0)


def segmentation_loss(logits: Tensor, label: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted cross-entropy of each pixel's class against all other classes and "fake".

    Args:
        logits: `[N, K + 1, H, W]`: "fake", then the classes.
        label: `[N, H, W]` ids below K.
        weights: weight of each class, `[K]`.

    Returns:
        Mean over all pixels, those of weight 0 among them.
    """
    total = F.cross_entropy(logits.float(), label + 1, weight=F.pad(weights, (1, 0)), reduction="sum")
    return total / label.numel()


def labelmix_mask(label: Tensor, uniform: Tensor) -> Tensor:
    """Return where mixtures show the real image, `[N, 1, H, W]`: all pixels of a class or none, by a fair coin.

    Args:
        label: `[N, H, W]` ids.
        uniform: a random number in [0, 1) for each id.
    """
    return (uniform < 0.5)[label].unsqueeze(1)


def labelmix_loss(mask: Tensor, of_real: Tensor, of_fake: Tensor, of_mixed: Tensor) -> Tensor:
    """Return the mean squared difference of the logits of mixed images and the mixed logits (LabelMix).

    Args:
        mask: see `labelmix_mask`.
        of_real: logits `[N, K + 1, H, W]` of the real images.
        of_fake: logits of the generated ones.
        of_mixed: logits of `where(mask, real, fake)`.
    """
    mixed = torch.where(mask, of_real.float(), of_fake.float())
    return (mixed - of_mixed.float()).square().mean()


def fake_loss(logits: Tensor) -> Tensor:
    """Return the mean cross-entropy of every pixel against "fake", channel 0 of `[N, K + 1, H, W]` logits."""
    return -logits.float().log_softmax(1)[:, 0].mean()


# --- the method -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """Part of a step: losses that train one network.

    Attributes:
        name: name of the phase.
        network: name of the network and of its optimizer.
        losses: returns the weighted terms with their graph, given batch, noise and context.
        when: whether the part is in a step.
    """

    name: str
    network: str
    losses: Callable[[Batch, Tensor | None, StepContext], Losses]
    when: Callable[[Progress], bool] = always


class SegmentationGAN(Method):
    """GAN whose generator must draw images that a U-Net segments into the given label map.

    A subclass puts "generator" and other networks into `networks`.
    """

    averaged: ClassVar[Mapping[str, Averaging]] = {"generator": Averaging(buffers="average", warmup=False)}
    weight_rules: ClassVar[Mapping[str, Rules]]
    """Rules from our names of each network's weights to the authors'."""
    config: Any

    def __init__(self, config: Any, label_space: LabelSpace, *, pretrained: bool = True) -> None:
        super().__init__(config, label_space, pretrained=pretrained)
        self.ignored = _ignored_ids(config.loss.ignored_classes, label_space)

    # --- generation -------------------------------------------------------------------------------------------------

    @classmethod
    def build_sampling(cls, config: Any, label_space: LabelSpace) -> Sampling:
        """Return the sampling: from one-hot classes and a noise vector."""
        return Sampling(
            Condition(label_space, edges=config.data.instance_edges),
            size_multiple=2**config.generator.num_upsamples,
            noise_channels=config.generator.noise_dim,
        )

    def class_offset(self, network: str, tensor: str) -> int:
        """Return the number of places before the first class: of noise in a generator, of "fake" in a segmenter."""
        return int(self.config.generator.noise_dim) if network == "generator" else 1

    @classmethod
    def build_generator(cls, config: Any, label_space: LabelSpace) -> nn.Module:
        """Return the generator with initial weights."""
        generator = cls.new_generator(config, cls.build_sampling(config, label_space).condition.channels)
        init_weights(generator, "xavier", config.train.init_gain)
        return generator

    @classmethod
    @abstractmethod
    def new_generator(cls, config: Any, channels: int) -> nn.Module:
        """Return the generator, for conditions of a number of channels, with PyTorch's initial weights."""

    def draw(self, batch: Batch, noise: Tensor | None) -> Tensor:
        """Return the images that the generator draws for a batch."""
        images: Tensor = self.networks["generator"](self.sampling.condition(batch), noise)
        return images

    @torch.no_grad()
    def draw_again(self, batch: Batch, noise: Tensor | None, context: StepContext) -> Tensor:
        """Return images of new noise without a graph."""
        with context.autocast():
            return self.draw(batch, None if noise is None else context.random.normal(*noise.shape))

    @property
    def refresh_batches(self) -> int:
        """Number of training batches for the statistics of the averaged generator."""
        train = self.config.train
        return 0 if train.ema_decay is None else int(train.refresh_batches)

    @torch.no_grad()
    def refresh(self, generator: nn.Module, batches: Iterable[tuple[Batch, Tensor | None]]) -> None:
        """Move the batch statistics of the averaged generator to those of training batches."""
        generator.train()
        for batch, noise in batches:
            generator(self.sampling.condition(batch), noise)

    # --- training ---------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def parts(self) -> Sequence[Part]:
        """The parts of a step, in order."""

    @property
    def optimizers(self) -> Mapping[str, OptimizerSpec]:
        """One Adam optimizer per network, whose learning rate is the setting `NETWORK_lr`."""
        settings = self.config.optimizer
        return {name: OptimizerSpec((name,), getattr(settings, f"{name}_lr"), settings.betas) for name in self.networks}

    @property
    def phases(self) -> Sequence[Phase]:
        """One phase per part."""
        return tuple(Phase(part.name, partial(self._backward, part), (part.network,), part.when) for part in self.parts)

    def _backward(self, part: Part, batch: Batch, noise: Tensor | None, context: StepContext) -> Losses:
        """Backpropagate the sum of a part's losses to its network."""
        with frozen(*(network for name, network in self.networks.items() if name != part.network)):
            return backward(part.losses(batch, noise, context), context.scale)

    def label_loss(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the segmentation loss with the weights of the classes in this batch."""
        return segmentation_loss(logits, label, class_weights(label, self.label_space.num_channels, self.ignored))

    # --- other programs ---------------------------------------------------------------------------------------------

    @classmethod
    def checkpoint_formats(cls) -> Mapping[str, CheckpointFormat]:
        """Return the format of the authors' generators."""

        def convert(path: Path, state: dict[str, Tensor], options: ConversionOptions) -> Converted:
            return _convert(cls, path, state, options)

        return {cls.name: CheckpointFormat(cls.is_generator, convert)}

    @classmethod
    @abstractmethod
    def is_generator(cls, state: Mapping[str, Tensor]) -> bool:
        """Return whether a state dict is of a generator of the authors."""

    @classmethod
    def without_unused(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a network's state dict without the weights and buffers that this package does without."""
        return dict(state)

    @classmethod
    @abstractmethod
    def infer_generator(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the settings of a released generator, without `noise_dim`, which shapes leave open."""


# --- released weights -------------------------------------------------------------------------------------------------

GENERATOR_RULES: Rules = [
    *SPECTRAL_NORM,
    (r"^blocks\.", "body."),
    (r"\.(norm_[01s])\.shared\.", r".\1.mlp_shared.0."),
    (r"\.(norm_[01s])\.(gamma|beta)\.", r".\1.mlp_\2."),
    (r"\.(norm_[01s])\.norm\.", r".\1.first_norm."),
    (r"^to_image\.", "conv_img."),
]
"""Rules from our names of a generator's weights to the authors' of OASIS."""

U_NET_RULES: Rules = [
    *SPECTRAL_NORM,
    # The authors' indices count activations and upsampling before a convolution.
    (r"^down\.0\.conv1\.", "body_down.0.conv1.0."),
    (r"^down\.(\d+)\.conv1\.", r"body_down.\1.conv1.1."),
    (r"^up\.(\d+)\.conv1\.", r"body_up.\1.conv1.2."),
    (r"^(down|up)\.(\d+)\.conv2\.", r"body_\1.\2.conv2.1."),
    (r"^(down|up)\.(\d+)\.conv_s\.", r"body_\1.\2.conv_s."),
    (r"^head\.", "layer_up_last."),
]
"""Rules from our names of the U-Net's weights to the authors'."""

GUIDED = r"^fc\.weight$|\.mlp_shared\.0\.weight$|^seg_pyrmid\.0\.0\.weight$"
"""Names of the weights that are applied to noise and label map."""


def count_blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    """Return how many numbered parts a network has under a prefix."""
    return len({name.split(".")[1] for name in state if name.startswith(f"{prefix}.")})


def infer_u_net(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the settings of a released U-Net."""
    depth = count_blocks(state, "body_down")
    widths = [len(state[f"body_down.{index}.conv2.1.bias"]) for index in range(depth)]
    return {"widths": widths, "last_width": len(state[f"body_up.{depth - 1}.conv2.1.bias"])}


def _ignored_ids(names: Sequence[str], space: LabelSpace) -> list[int]:
    """Return the ids of classes without weight, unknown among them."""
    for name in names:
        if name not in space.names:
            raise ConfigError(
                f"loss.ignored_classes names '{name}', which label space '{space.name}' has not"
                f"{did_you_mean(name, space.names)}"
            )
    return [*map(space.names.index, names), *range(space.num_classes, space.num_channels)]


NOISE_DIM = 64
"""Length of the authors' noise vectors."""


def _fit(path: Path, channels: int, options: ConversionOptions) -> tuple[LabelFit, int]:
    """Return the label space of a generator that sees noise and label map in `channels` channels, and those of noise.

    The U-Net in `best_D.pth` next to `best_EMA.pth` has a logit per class; without it the noise has 64 channels, or
    none.
    """
    segmenter = path.with_name(re.sub(r"EMA|G", "D", path.stem) + path.suffix)
    if segmenter != path and segmenter.is_file() and "layer_up_last.bias" in (held := read_checkpoint(segmenter)):
        classes = len(held["layer_up_last.bias"]) - 1
        return fit_label_space(path, classes, options, edges_possible=False), channels - classes
    for noise_dim in (NOISE_DIM, 0):
        try:
            return fit_label_space(path, channels - noise_dim, options, edges_possible=False), noise_dim
        except CheckpointError:
            continue
    raise CheckpointError(
        f"{path} sees noise and label maps of {channels} channels together, and neither all of them nor {channels} - "
        f"{NOISE_DIM} are those of "
        + (f"label space '{options.label_space}'" if options.label_space else "one shipped label space")
        + f"; set the --label-space that it was trained with, or put its best_D{path.suffix}, which tells the number "
        "of classes, next to it"
    )


def _to_our_channels(weight: Tensor, noise_dim: int, fit: LabelFit) -> Tensor:
    """Move the channel of unknown pixels, the authors' class 0, to the end, or add one that has no effect."""
    noise, label = weight[:, :noise_dim], weight[:, noise_dim:]
    if fit.without_unknown:
        label = F.pad(label, (0, 0, 0, 0, 0, 1))
    elif fit.space.unknown_value is not None:
        label = label.roll(-1, 1)
    return torch.cat([noise, label], 1)


def _convert(cls: type[SegmentationGAN], path: Path, state: dict[str, Tensor], options: ConversionOptions) -> Converted:
    """Convert a released generator, averaged or not."""
    guided = [name for name in state if re.search(GUIDED, name)]
    fit, noise_dim = _fit(path, state[guided[0]].shape[1], options)
    state |= {name: _to_our_channels(state[name], noise_dim, fit) for name in guided}
    settings = cls.infer_generator(state)
    check_num_upsamples(options, {settings["num_upsamples"]})
    size = options.size or (256, 512 if fit.space.name == WIDE else 256)
    config = cls.Config.model_validate(
        {
            "name": cls.name,
            "data": {"label_space": options.label_space or fit.space.name, "size": size},
            "generator": {**settings, "noise_dim": noise_dim},
        }
    )
    cls.build_sampling(config, fit.space).check_size(*size)
    generator = cls.build_generator(config, fit.space)
    load_renamed(generator, cls.weight_rules["generator"], cls.without_unused(state), "generator")
    return Converted(generator.eval(), config, fit.space)
