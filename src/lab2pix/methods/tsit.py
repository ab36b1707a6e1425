"""TSIT: image synthesis by two streams of features, from label maps or from photos (Jiang et al., ECCV 2020)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.config.rules import check_size
from lab2pix.config.schema import DataConfig, RunConfig, Section, SourceConfig
from lab2pix.config.sizes import nearest_size
from lab2pix.errors import ConfigError, DataError
from lab2pix.interop.conversion import (
    UNKNOWN_FIRST,
    WIDE,
    CheckpointFormat,
    ConversionOptions,
    Converted,
    LabelFit,
    check_num_upsamples,
    fit_label_space,
)
from lab2pix.interop.keymap import Rules, load_renamed
from lab2pix.interop.spade_weights import (
    IMAGE_ENCODER_RULES,
    generator_rules,
    patch_discriminator_rules,
)
from lab2pix.interop.step_vectors import numbered_space, to_image
from lab2pix.interop.vectors import Row, Vectors
from lab2pix.labels.space import LabelSpace
from lab2pix.methods.base import require_images
from lab2pix.methods.multiscale_gan import (
    ImageLossConfig,
    MultiScaleGAN,
    MultiScaleGANConfig,
    PatchDiscriminatorConfig,
    Posterior,
    SemanticGANConfig,
    SemanticGeneratorConfig,
    StyleLossConfig,
    build_patch_discriminators,
    discriminate,
)
from lab2pix.methods.multiscale_vectors import check_recording, recorded_sections, recorded_space
from lab2pix.methods.replay import record_scales
from lab2pix.methods.sampling import Condition, Sampling
from lab2pix.methods.semantic_gan import SemanticGAN, convert_generator
from lab2pix.nn.discriminators import ScaleOutput
from lab2pix.nn.init import init_weights
from lab2pix.nn.tsit import TSITGenerator, TSITSettings

# --- settings ---------------------------------------------------------------------------------------------------------

PUBLISHED_UPSAMPLES = 7
"""Doublings of the authors' generator."""
_FULL_SIZE_LAYER = 3
"""Layer of the discriminators that keeps the size."""


class TSITStreamsConfig(Section):
    """Widths and depth of the generator and its streams."""

    width: int = Field(64, ge=1, description="Channels at full size; they double with each scale, to at most 16 times.")
    num_upsamples: int = Field(
        PUBLISHED_UPSAMPLES,
        ge=1,
        description="How often the size doubles: both sides are multiples of 2 to this power (7 as published: 128).",
    )


class TSITGeneratorConfig(TSITStreamsConfig, SemanticGeneratorConfig):
    """Generator and image encoder."""

    input: Literal["label", "noise", "style"] = Field(
        "style",
        description="Input of the first scale: the small label map; noise; or style, which an image encoder learns to "
        "read off photos and noise stands in for (`use_vae`).",
    )


class TSITTransferGeneratorConfig(TSITStreamsConfig):
    """Generator with a content stream and a style stream, and its sampling mode."""

    alpha: float = Field(1.0, ge=0, le=1, description="Strength of the style (FAdaIN).")
    sampling: Literal["train", "eval"] = Field(
        "eval", description="Batch norm by the statistics of the one image, or running statistics."
    )


class TransferDiscriminatorConfig(PatchDiscriminatorConfig):
    """Multi-scale PatchGAN discriminators of images alone."""

    layers: int = Field(3, ge=1, description="Convolutions before the one that predicts.")


class TSITLossConfig(StyleLossConfig):
    """Loss terms and weights."""

    perceptual: float = Field(20.0, ge=0, description="Weight of the perceptual loss; 0: off.")


class TSITTransferLossConfig(ImageLossConfig):
    """Loss terms and weights."""

    feature_matching: float = Field(1.0, ge=0, description="Weight of feature matching, with the style image; 0: off.")
    perceptual: float = Field(1.0, ge=0, description="Weight of the perceptual loss, with the content image; 0: off.")


class TSITConfig(SemanticGANConfig):
    """Settings of TSIT from label maps."""

    method: Literal["tsit"] = Field("tsit", description="TSIT: paired, from label maps.")
    generator: TSITGeneratorConfig = TSITGeneratorConfig()
    discriminator: PatchDiscriminatorConfig = PatchDiscriminatorConfig()
    loss: TSITLossConfig = TSITLossConfig()

    def check_rules(self) -> None:
        """Check the image size against the depth of the generator."""
        _check_size(self, self.generator.num_upsamples)


class TSITTransferConfig(MultiScaleGANConfig):
    """Settings of TSIT between photos: arbitrary style transfer and multi-modal translation."""

    takes_images: ClassVar[bool] = True

    method: Literal["tsit-transfer"] = Field("tsit-transfer", description="TSIT: unpaired, between photos.")
    generator: TSITTransferGeneratorConfig = TSITTransferGeneratorConfig()
    discriminator: TransferDiscriminatorConfig = TransferDiscriminatorConfig()
    loss: TSITTransferLossConfig = TSITTransferLossConfig()

    def check_rules(self) -> None:
        """Check the input, and the image size against the depth of the generator."""
        if self.data.input != "images":
            raise ConfigError(
                "data.input is 'labels', but method 'tsit-transfer' changes the style of images; set "
                "data.input=images, or choose method 'tsit'"
            )
        if self.loss.perceptual and self.data.source.channels != 3:
            raise ConfigError(
                f"data.source.channels is {self.data.source.channels}, but the perceptual loss compares with the "
                "source image, which must be RGB; set data.source.channels=3 or loss.perceptual=0"
            )
        _check_size(self, self.generator.num_upsamples)

    @property
    def size_rule(self) -> tuple[int, int]:
        """Divisor of the sides that the generator takes, and the smallest side."""
        return 2**self.generator.num_upsamples, 1


def _check_size(config: RunConfig, num_upsamples: int) -> None:
    """Check that the first scale has more than one pixel, which instance norm needs."""
    multiple = 2**num_upsamples
    check_size(config, f"generator.num_upsamples={num_upsamples}", squares=2)
    if config.padded_size == (multiple, multiple):
        raise ConfigError(
            f"data.size is {list(config.data.size)} (height, width), which makes the generator's first scale one pixel "
            f"with generator.num_upsamples={num_upsamples}; the nearest valid size is "
            f"{list(nearest_size(config.data.size, multiple, squares=2))}"
        )


# --- the methods ------------------------------------------------------------------------------------------------------


class TSIT(SemanticGAN):
    """TSIT from label maps: features of the label map at every scale modulate the generator's blocks."""

    name: ClassVar[str] = "tsit"
    Config = TSITConfig
    min_pixels = 2  # instance norm
    config: TSITConfig

    def __init__(self, config: TSITConfig, label_space: LabelSpace, *, pretrained: bool = True) -> None:
        super().__init__(config, label_space, pretrained=pretrained)
        channels = self.sampling.condition.channels + 3
        discriminator = build_patch_discriminators(config.discriminator, channels, full_size_layer=_FULL_SIZE_LAYER)
        init_weights(discriminator, "xavier", config.train.init_gain)
        self.networks = {"generator": self.build_generator(config, label_space), "discriminator": discriminator}

    @classmethod
    def build_generator(cls, config: TSITConfig, label_space: LabelSpace) -> nn.Module:
        """Return the generator, with its image encoder in style mode."""
        settings, size = config.generator, config.padded_size
        generator = TSITGenerator(
            cls.build_sampling(config, label_space).condition.channels,
            TSITSettings(
                width=settings.width,
                num_upsamples=settings.num_upsamples,
                input="label" if settings.input == "label" else "noise",
                noise_dim=settings.noise_dim,
                start_size=(size[0] >> settings.num_upsamples, size[1] >> settings.num_upsamples),
                image_encoder=settings.width if settings.input == "style" else 0,
            ),
        )
        init_weights(generator, "xavier", config.train.init_gain)
        return generator

    # --- the authors' code ------------------------------------------------------------------------------------------

    @classmethod
    def checkpoint_formats(cls) -> Mapping[str, CheckpointFormat]:
        """Return the format of the authors' generators, of both tasks."""
        return {"tsit": CheckpointFormat(_matches, _convert)}

    @classmethod
    def reads_vectors(cls, vectors: Vectors) -> bool:
        """Recognize recordings of semantic image synthesis."""
        return super().reads_vectors(vectors) and vectors.values["config"].get("task") == "SIS"

    @classmethod
    def check_vectors(cls, vectors: Vectors, *, fast: bool = False) -> Iterator[Row]:
        """Compare outputs, losses, gradients and the weights after one and two steps with a vector file."""
        method = cls(TSITConfig.model_validate(recorded_sections(vectors)), recorded_space(vectors))
        return check_recording(method, vectors, _rules(method), record_scales, fast=fast)


class TSITTransfer(MultiScaleGAN):
    """TSIT between photos: content stream, style stream and FAdaIN; discriminators see images alone."""

    name: ClassVar[str] = "tsit-transfer"
    systems = ("tsit",)
    Config = TSITTransferConfig
    paired: ClassVar[bool] = False
    config: TSITTransferConfig

    def __init__(self, config: TSITTransferConfig, label_space: LabelSpace, *, pretrained: bool = True) -> None:
        super().__init__(config, label_space, pretrained=pretrained)
        discriminator = build_patch_discriminators(config.discriminator, 3, full_size_layer=_FULL_SIZE_LAYER)
        init_weights(discriminator, "xavier", config.train.init_gain)
        self.networks = {"generator": self.build_generator(config, label_space), "discriminator": discriminator}

    @classmethod
    def build_sampling(cls, config: TSITTransferConfig, label_space: LabelSpace) -> Sampling:
        """Return the sampling: from an image and a style image, with a noise map of 3 channels at the first scale."""
        settings, stride = config.generator, 2**config.generator.num_upsamples
        return Sampling(
            Condition(label_space, "images", channels_of_images=config.data.source.channels),
            size_multiple=stride,
            min_pixels=2,
            noise_channels=3,
            noise_stride=stride,
            style="required",
            mode=settings.sampling,
        )

    @classmethod
    def build_generator(cls, config: TSITTransferConfig, label_space: LabelSpace) -> nn.Module:
        """Return the generator."""
        settings = config.generator
        generator = TSITGenerator(
            config.data.source.channels,
            TSITSettings(
                width=settings.width,
                num_upsamples=settings.num_upsamples,
                input="noise-map",
                style_stream=True,
                alpha=settings.alpha,
            ),
        )
        init_weights(generator, "xavier", config.train.init_gain)
        return generator

    def draw(self, batch: Batch, condition: Tensor, noise: Tensor | None) -> tuple[Tensor, Posterior | None]:
        """Generate images with the content of the source images and the style of the others."""
        image: Tensor = self.networks["generator"](condition, noise, style=require_images(batch))
        return image, None

    def discriminate(self, condition: Tensor, image: Tensor) -> list[ScaleOutput]:
        """Run the discriminators on images."""
        return discriminate(self.networks["discriminator"], image)

    def perceptual_target(self, batch: Batch) -> Tensor:
        """Return the source images, whose content the perceptual loss keeps."""
        if batch.source is None:
            raise DataError("TSIT changes the style of images; give source images")
        return batch.source

    @property
    def score_names(self) -> tuple[str, ...]:
        """`perceptual`, the distance from the content, if training uses it."""
        return () if self.perceptual is None else ("perceptual",)

    @torch.no_grad()
    def validation_scores(self, batch: Batch, generated: Tensor) -> dict[str, Tensor]:
        """Return `perceptual` if training uses the perceptual loss."""
        if self.perceptual is None:
            return {}
        return {"perceptual": self.perceptual(generated, self.perceptual_target(batch))}

    # --- the authors' code ------------------------------------------------------------------------------------------

    @classmethod
    def reads_vectors(cls, vectors: Vectors) -> bool:
        """Recognize recordings of arbitrary style transfer and of multi-modal image synthesis."""
        return super().reads_vectors(vectors) and vectors.values["config"].get("task") in ("AST", "MMIS")

    @classmethod
    def check_vectors(cls, vectors: Vectors, *, fast: bool = False) -> Iterator[Row]:
        """Compare outputs, losses, gradients and the weights after one and two steps with a vector file."""
        recorded, sections = vectors.values["config"], recorded_sections(vectors)
        content = to_image(vectors.tensors["in.content"])
        sections["data"] = {"input": "images", "size": sections["data"]["size"]}
        sections["loss"].pop("kl_divergence")
        sections["generator"] = {"width": recorded["ngf"], "alpha": recorded.get("alpha", 1.0)}
        sections["discriminator"]["layers"] = 3
        method = cls(TSITTransferConfig.model_validate(sections), numbered_space(1))
        empty = torch.empty(len(content), 0, 0, dtype=torch.int64)
        batch = Batch(empty, to_image(vectors.tensors["in.image"]), source=content)
        return check_recording(method, vectors, _rules(method), record_scales, fast=fast, batch=batch)


# --- the authors' code: names, settings and weights -------------------------------------------------------------------


def _rules(method: TSIT | TSITTransfer) -> dict[str, Rules]:
    """Return the rules from our names of the weights of each network to the authors'."""
    return {
        "generator": _GENERATOR_RULES,
        "discriminator": patch_discriminator_rules(method.config.discriminator.layers),
    }


_GENERATOR_RULES: Rules = [
    *generator_rules(PUBLISHED_UPSAMPLES),
    *IMAGE_ENCODER_RULES,
    (r"^(content|style)\.blocks\.(\d+)\.", r"\1_stream.res_\2."),
]


def _matches(state: Mapping[str, Tensor]) -> bool:
    return "content_stream.res_0.conv_0.weight_orig" in state and "head_0.conv_0.weight_orig" in state


def _convert(path: Path, state: dict[str, Tensor], options: ConversionOptions) -> Converted:
    """Convert a generator and, in style mode, the image encoder in the file next to it."""
    check_num_upsamples(options, {PUBLISHED_UPSAMPLES})
    width = state["conv_img.weight"].shape[1]
    if any(name.startswith("style_stream.") for name in state):
        space = LabelSpace.load(options.label_space or DataConfig().label_space)
        channels = state["content_stream.res_0.conv_0.weight_orig"].shape[1]
        data = DataConfig(
            input="images",
            size=options.size or (256, 256),
            label_space=options.label_space or space.name,
            source=SourceConfig(channels=channels),
        )
        config = TSITTransferConfig(name="tsit-transfer", data=data, generator=TSITTransferGeneratorConfig(width=width))
        TSITTransfer.build_sampling(config, space).check_size(*data.size)
        generator = TSITTransfer.build_generator(config, space)
        load_renamed(generator, _GENERATOR_RULES, state, "generator")
        return Converted(generator.eval(), config, space)
    fit = fit_label_space(path, state["content_stream.res_0.conv_0.weight_orig"].shape[1], options, edges_possible=True)
    _fit_channels(state, fit)
    data = fit.data(_size(state["fc.weight"], width, fit, options), options)
    return convert_generator(TSIT, path, state, data, fit.space, {"width": width}, _GENERATOR_RULES)


def _size(first: Tensor, width: int, fit: LabelFit, options: ConversionOptions) -> tuple[int, int]:
    """Return the image size of a generator, the usual one unless another is asked for.

    Raises:
        ConfigError: the first scale, which a linear layer fixes, has another number of pixels.
    """
    stride = 2**PUBLISHED_UPSAMPLES
    size = options.size or ((2 * stride, 4 * stride) if fit.space.name == WIDE else (2 * stride, 2 * stride))
    if first.ndim == 2:
        area = first.shape[0] // (16 * width)
        if (size[0] // stride) * (size[1] // stride) != area:
            raise ConfigError(
                f"a size of {size[0]}x{size[1]} (height x width) does not fit this checkpoint, whose noise becomes a "
                f"map of {area} pixels; say --size with {area} squares of {stride}x{stride}"
            )
    return size


def _fit_channels(state: dict[str, Tensor], fit: LabelFit) -> None:
    """Give a generator a channel for unknown pixels if it has none, and move that of ADE20K from first to last."""
    place, channels = fit.space.num_classes, fit.space.num_channels
    first = "content_stream.res_0"

    def insert(weight: Tensor, dim: int) -> Tensor:
        before, after = weight.tensor_split([place], dim)
        return torch.cat([before, torch.zeros_like(weight.narrow(dim, 0, 1)), after], dim)

    def rotate(weight: Tensor, dim: int) -> Tensor:
        order = [*range(1, channels), 0, *range(channels, weight.shape[dim])]
        return weight.index_select(dim, torch.tensor(order))

    if fit.without_unknown:
        # The first convolution has as many output channels as the label map; the new one stays 0.
        for name in (f"{first}.conv_0.weight_orig", f"{first}.conv_0.bias", f"{first}.conv_0.weight_u"):
            state[name] = insert(state[name], 0)
        _change_inputs(state, ("fc", f"{first}.conv_0", f"{first}.conv_1", f"{first}.conv_s"), insert)
    elif fit.space.name == UNKNOWN_FIRST:
        _change_inputs(state, ("fc", f"{first}.conv_0", f"{first}.conv_s"), rotate)


def _change_inputs(state: dict[str, Tensor], layers: Sequence[str], change: Callable[[Tensor, int], Tensor]) -> None:
    """Change the input channels of convolutions, and of their singular vectors, in place; other layers are left."""
    for layer in layers:
        name = f"{layer}.weight_orig" if f"{layer}.weight_orig" in state else f"{layer}.weight"
        if name not in state or state[name].ndim != 4:
            continue
        inputs = state[name].shape[1]
        state[name] = change(state[name], 1)
        if f"{layer}.weight_v" in state:
            state[f"{layer}.weight_v"] = change(state[f"{layer}.weight_v"].view(inputs, -1), 0).flatten()
