"""High-level inference API, used by the command line, the demo, the painter and evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, cast

import torch
from huggingface_hub import ModelHubMixin
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.config.schema import RunConfig
from lab2pix.data.line_drawings import resize_label
from lab2pix.data.transforms import float_to_uint8, instance_edges, resize_image, resize_nearest
from lab2pix.errors import CheckpointError, ConfigError, DataError
from lab2pix.inference import weights
from lab2pix.inference.images import GeneratedImages
from lab2pix.inference.label_input import (
    InstanceSource,
    LabelSource,
    StyleSource,
    check_source,
    read_ids,
    read_instance_ids,
    read_source_image,
    read_style_image,
)
from lab2pix.inference.model_files import MODEL_CARD, ModelFiles
from lab2pix.inference.modes import InferenceMode, Mode, choose
from lab2pix.inference.noise import slerp
from lab2pix.inference.regions import RegionStyle, SeedSource, paste, split_regions
from lab2pix.inference.weights import ModelInfo
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import Sampling, build_sampling, generate_deterministic, latent_from_seed
from lab2pix.utils.distributed import choose_device

__all__ = ["LabelSource", "StyleSource", "Synthesizer"]


class Synthesizer(  # type: ignore[misc]  # from_pretrained refuses options that it does not know
    ModelFiles,
    ModelHubMixin,
    library_name="lab2pix",
    license="apache-2.0",
    pipeline_tag="image-to-image",
    tags=["lab2pix", "semantic-image-synthesis", "label-to-image"],
    model_card_template=MODEL_CARD,
):
    """Trained generator with its configuration and label space, for sampling.

    An image depends only on the weights, the label map and the seed, not on other images of the batch or earlier calls.

    Args:
        model: a model that `load` finds, such as `scenes`, a run folder or `org/name`; or a generator, which is moved
            to the device and set to evaluation mode.
        info: configuration and label space that a generator was trained with.
        device: `cpu`, `cuda`, `cuda:1` or `mps`; None: the best one available.
        optimize: inference mode; see `optimize`.

    Attributes:
        generator: the network, in evaluation mode.
        mode: active inference mode: `plain`, `fast` or `fast-bf16`.
        config: configuration of the training run.
        label_space: meaning of the class ids.
        sampling: inputs, noise and output sizes of the generator.
        step: number of optimizer steps trained.
        size: training height and width, to which label maps are resized by default.
        device: device of the generator.
    """

    def __init__(
        self,
        model: nn.Module | str | Path,
        info: ModelInfo | None = None,
        *,
        device: str | torch.device | None = None,
        optimize: Mode = "plain",
    ) -> None:
        if not isinstance(model, nn.Module):
            model, info = weights.read(weights.find(model) or weights.fetch(str(model)))
        if info is None:
            raise ConfigError("a generator alone does not say what its inputs mean; pass its ModelInfo, too")
        self.info = info
        self.config: RunConfig = info.config
        self.label_space: LabelSpace = info.label_space
        self.sampling: Sampling = build_sampling(info.config, info.label_space)
        self.step = info.step
        self.size = info.config.data.size
        self.device = choose_device(None if device is None else str(device))
        self.generator = model.to(device=self.device, dtype=torch.float32).eval().requires_grad_(False)
        self.optimize(optimize)

    def __repr__(self) -> str:
        """Return the method, label space, size, device and inference mode."""
        config, space = self.config, self.label_space
        return (
            f"Synthesizer({config.method} '{config.name}', {space.num_classes} classes of '{space.name}', "
            f"{self.size[0]}x{self.size[1]} (height x width), step {self.step}, {self.device}, {self.mode})"
        )

    def to(self, device: str | torch.device) -> Self:
        """Move the model to a device, in place, and choose the same inference mode there; return the synthesizer."""
        self.device = choose_device(str(device))
        self.generator.to(self.device)
        self.optimize(cast(Mode, self.mode))
        return self

    def optimize(self, mode: Mode = "auto") -> InferenceMode:
        """Set the inference mode, one of `lab2pix.inference.modes.MODES`.

        Call it again after changing the weights: a fused generator works on a copy of them.

        Returns:
            The chosen mode, with the measured times.

        Raises:
            ConfigError: unknown mode, or a fast mode for a generator that cannot be fused.
        """
        chosen = choose(self.generator, self.sampling, self.size, mode)
        self.mode, self._network = chosen.mode, chosen.generator
        return chosen

    # --- images ---------------------------------------------------------------------------------------------------

    def __call__(
        self,
        label: LabelSource | Sequence[LabelSource],
        *,
        seed: SeedSource = 0,
        samples: int = 1,
        instances: InstanceSource | Sequence[InstanceSource] | None = None,
        style: RegionStyle | None = None,
        keep_size: bool = False,
    ) -> GeneratedImages:
        """Generate images from a label map, or a list of them.

        Args:
            label: class ids `[H, W]`, an image or a file, or a list of these; see `read`.
            seed: seed of the noise, the same for each label map; or seeds of regions, see `lab2pix.inference.regions`:
                `{"tree": 3}` by class name, with that of all other classes under None, or a map `[H, W]` of seeds.
            samples: number of images per label map; the first ones do not depend on it.
            instances: instance map, or one per label map, for a generator with instance edges; see `read`.
            style: style image, for a generator with an image encoder; see `read`; or style images by class name.
            keep_size: generate at the size of the label map.

        Returns:
            The images, by label map, then sample: `.images` are Pillow images, `.tensor` is `[N, 3, H, W]` uint8 RGB.

        Raises:
            ConfigError: several samples or seeds from a generator without noise, an unsupported size, or not as many
                instance maps as label maps.
            DataError: unreadable file, or a map of seeds of another size than the label map.
            LabelError: ids, colors or class names that the label space does not define.
        """
        labels: list[Any] = list(label) if isinstance(label, list | tuple) else [label]
        if not labels:
            raise ConfigError("the list of label maps is empty; give one label map or more")
        maps: list[Any] = list(instances) if isinstance(instances, list | tuple) else [instances] * len(labels)
        if len(maps) != len(labels):
            raise ConfigError(f"{len(labels)} label maps and {len(maps)} instance maps do not pair; give one for each")
        first = next(iter(style.values()), None) if isinstance(style, Mapping) else style
        pixels: list[Tensor] = []
        for one, instance_map in zip(labels, maps, strict=True):
            batch, input_size = self._read(one, instance_map, first, keep_size)
            images: list[Tensor] = []
            for region in split_regions(seed, style, self.sampling, batch, input_size):
                if isinstance(style, Mapping):
                    batch = replace(batch, style=self.read_style(region.style, batch.size))
                new = self._generate_one(batch, self.noise_samples(region.seed, samples, batch.size))
                images = paste(images, new, region.mask)
            pixels += images
        return GeneratedImages(pixels)

    def interpolate(
        self,
        label: LabelSource,
        seed_a: int,
        seed_b: int,
        steps: int = 8,
        *,
        instances: InstanceSource | None = None,
        style: StyleSource | None = None,
        keep_size: bool = False,
    ) -> GeneratedImages:
        """Generate images from a label map while interpolating between the noise of two seeds.

        Args:
            label: class ids `[H, W]`, an image or a file; see `read`.
            seed_a: seed of the first image.
            seed_b: seed of the last image.
            steps: number of images, including both ends.
            instances: instance map; see `read`.
            style: style image; see `read`.
            keep_size: generate at the size of the label map.

        Returns:
            The images, from the first seed's to the last one's.

        Raises:
            ConfigError, DataError, LabelError: see `__call__`.
        """
        batch = self.read(label, instances=instances, style=style, keep_size=keep_size)
        return GeneratedImages(self._generate_one(batch, self.interpolate_noise(seed_a, seed_b, steps, batch.size)))

    def read(
        self,
        label: LabelSource,
        *,
        instances: InstanceSource | None = None,
        style: StyleSource | None = None,
        keep_size: bool = False,
    ) -> Batch:
        """Read a label map or source image as a batch of one for `generate`.

        Args:
            label: class ids `[H, W]` (0 to K-1, K for unknown) as tensor or array; or a Pillow image or file, decoded
                by the label space (ids, palette or colors). For a method that generates from images: a file, a Pillow
                image, an array `[H, W, C]` or a tensor `[C, H, W]`.
            instances: instance map `[H, W]` or its file, for a generator with instance edges; None: edges between
                classes are used.
            style: style image for a generator with an image encoder, resized to the size of the image; the noise then
                varies the encoded style. None: the style is the noise.
            keep_size: keep the size of the label map instead of resizing to the training size.

        Raises:
            ConfigError: with `keep_size`, a size too small to be padded to one that the generator takes; or a style
                image that the generator does not take, or lacks.
            DataError: unreadable file, or an instance map of another size.
            LabelError: ids or colors that the label space does not define.
        """
        return self._read(label, instances, style, keep_size)[0]

    def _read(
        self, label: LabelSource, instances: InstanceSource | None, style: StyleSource | None, keep_size: bool
    ) -> tuple[Batch, tuple[int, int]]:
        """Return the batch of `read`, and the input's height and width before it was resized."""
        check_source(label)
        if self.sampling.condition.source == "images":
            source = read_source_image(label, self.config.data.source)
            batch = self.source_batch(source, style=style, keep_size=keep_size)
            return batch, (int(source.shape[1]), int(source.shape[2]))
        ids = read_ids(label, self.label_space, self.config.data.sketch.lines)
        input_size = (int(ids.shape[0]), int(ids.shape[1]))
        size = input_size if keep_size else self.size
        self.sampling.check_size(*size)
        edges = resized = None
        if self.config.data.instance_edges:
            instance_ids = ids if instances is None else read_instance_ids(instances)
            if instance_ids.shape != ids.shape:
                raise DataError(
                    f"the label map is {tuple(ids.shape)} pixels (height, width) and its instance map "
                    f"{tuple(instance_ids.shape)}; give both the same size"
                )
            resized = resize_nearest(instance_ids, size)[None]
            edges = instance_edges(resized)
        label_map = resize_label(ids, size, self.label_space)[None]
        style_image = self.read_style(style, size)
        return Batch(label=label_map, edges=edges, instances=resized, style=style_image), input_size

    def source_batch(self, source: Tensor, *, style: StyleSource | None = None, keep_size: bool = False) -> Batch:
        """Return a source image, `[C, H, W]` in [-1, 1], as a batch of one for `generate`.

        Raises:
            ConfigError, DataError: see `read`.
        """
        size = (int(source.shape[1]), int(source.shape[2])) if keep_size else self.size
        self.sampling.check_size(*size)
        return Batch(
            label=torch.empty(1, 0, 0, dtype=torch.int64),
            source=resize_image(source, size)[None],
            style=self.read_style(style, size),
        )

    def read_style(self, style: StyleSource | None, size: tuple[int, int] | None = None) -> Tensor | None:
        """Read a style image as `[1, 3, H, W]` in [-1, 1], or return None for None.

        Args:
            style: the style image, or None.
            size: height and width to resize to; None: the training size.

        Raises:
            ConfigError: a style image for a generator that takes none, or None for one that requires it.
            DataError: unreadable file, or not an RGB image.
        """
        wants, who = self.sampling.style, f"this generator ({self.config.name})"
        if style is None:
            if wants == "required":
                raise ConfigError(f"{who} needs a style image; give one with --style")
            return None
        if wants == "none":
            raise ConfigError(f"{who} has no image encoder for a style image; leave out --style")
        return read_style_image(style, size or self.size)[None]

    def generate(self, batch: Batch, noise: Tensor) -> Tensor:
        """Generate a batch deterministically; images do not depend on each other.

        Args:
            batch: inputs of equal size, with instance edges if the generator needs them.
            noise: `[N, noise_dim]`, or noise maps.

        Returns:
            `[N, 3, H, W]` float32 in [-1, 1], on the device of the synthesizer.

        Raises:
            CheckpointError: the images are not finite.
        """
        return self._generate(batch, noise)[0]

    def generate_pyramid(self, batch: Batch, noise: Tensor) -> list[Tensor]:
        """Generate a batch at all output scales of a generator with several (Eq. 17).

        Args:
            batch: inputs of equal size.
            noise: `[N, noise_dim]`.

        Returns:
            X3, X2, X1: `[N, 3, H, W]`, `[N, 3, H/2, W/2]`, `[N, 3, H/4, W/4]`, float32 in [-1, 1].

        Raises:
            CheckpointError: the images are not finite.
            ConfigError: the generator has only one output size.
        """
        self.require_scales()
        return self._generate(batch, noise)

    def require_scales(self) -> None:
        """Raise ConfigError if the generator has only one output size."""
        if self.sampling.outputs == 1:
            raise ConfigError(
                f"this generator ({self.config.name}) generates images of one size; omit --scales or give another"
            )

    def _generate(self, batch: Batch, noise: Tensor) -> list[Tensor]:
        self.generator.eval()
        given = noise.to(self.device) if self.sampling.noise_channels else None
        images = generate_deterministic(self._network, self.sampling, batch.to(self.device), given)
        if not all(bool(image.isfinite().all()) for image in images):
            raise CheckpointError(
                f"the weights of step {self.step} generate pixels that are not finite; use an earlier checkpoint"
            )
        return images

    def _generate_one(self, batch: Batch, noise: Tensor) -> list[Tensor]:
        # One at a time, so that memory does not grow with the number of samples.
        return [float_to_uint8(self.generate(batch, row[None]))[0] for row in noise]

    # --- noise ----------------------------------------------------------------------------------------------------

    def noise(self, seed: int, sample: int = 0, size: tuple[int, int] | None = None) -> Tensor:
        """Return the noise z of one sample of a seed (Eq. 21), identical on every machine.

        Without `size`, spatial noise has the training size.

        Returns:
            float32, `[noise_dim]` or the shape of `Sampling.noise_shape`; `[0]` if the method takes no noise.
        """
        return latent_from_seed(seed, sample, self.sampling.noise_shape(size or self.size) or (0,))

    def noise_samples(self, seed: int, samples: int, size: tuple[int, int] | None = None) -> Tensor:
        """Return the noise of the first samples of a seed, `[samples, ...]`.

        Raises:
            ConfigError: `samples` is below 1, or above 1 for a generator without noise.
        """
        if samples < 1:
            raise ConfigError(f"samples is {samples} but must be 1 or more")
        self._require_noise(samples > 1, "it generates one image per label map, so samples must be 1")
        return torch.stack([self.noise(seed, sample, size) for sample in range(samples)])

    def interpolate_noise(self, seed_a: int, seed_b: int, steps: int, size: tuple[int, int] | None = None) -> Tensor:
        """Interpolate spherically between the noise of two seeds, `[steps, ...]`.

        Linear interpolation would yield vectors with a smaller norm than those seen in training.

        Raises:
            ConfigError: fewer than two steps, or a generator without noise.
        """
        if steps < 2:
            raise ConfigError(f"steps is {steps} but must be 2 or more")
        return self.slerp(seed_a, seed_b, torch.linspace(0, 1, steps, dtype=torch.float64), size)

    def slerp(self, seed_a: int, seed_b: int, parts: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Interpolate spherically (slerp) between the noise of two seeds, `[N, ...]`.

        The `parts`, `[N]` float64, are 0 at `seed_a` and 1 at `seed_b`. Without `size`, noise has the training size.

        Raises:
            ConfigError: a generator without noise.
        """
        self._require_noise(True, "it generates one image per label map, so there is nothing to interpolate")
        shape = self.noise(seed_a, size=size).shape
        a, b = (self.noise(seed, size=size).double().flatten() for seed in (seed_a, seed_b))
        return slerp(a, b, parts).float().view(len(parts), *shape)

    def _require_noise(self, wanted: bool, because: str) -> None:
        if wanted and not self.sampling.noise_channels:
            raise ConfigError(f"this generator ({self.config.name}) takes no noise: {because}")
