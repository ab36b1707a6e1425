"""Sampling: generator input, seeded noise, and the generator's forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.config.sizes import can_pad, nearest_size, padded_size
from lab2pix.data.transforms import float_to_uint8, instance_edges
from lab2pix.errors import ConfigError, DataError
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.seeding import content_seed, latent_generator

INSTANCE_IDS = 256
"""Instance ids in a condition are taken modulo this number, the largest range of integers that bfloat16 holds."""


@dataclass(frozen=True)
class Condition:
    """Encoder of the generator's input (condition) from a batch.

    Attributes:
        label_space: label space of the class ids.
        source: type of input: class ids, line drawings (ids 0 and 1), or source images.
        encoding: encoding of class ids: `one-hot`, one channel per class and one for unknown if the space has it; or
            `colors`, the colors of the label space in [-1, 1], 3 channels.
        edges: whether to append the instance-boundary channel.
        channels_of_images: channels of a source image.
        instance_ids: whether to append a last channel of instance ids modulo `INSTANCE_IDS`, for instance features.
    """

    label_space: LabelSpace
    source: Literal["labels", "lines", "images"] = "labels"
    encoding: Literal["one-hot", "colors"] = "one-hot"
    edges: bool = False
    channels_of_images: int = 3
    instance_ids: bool = False

    @property
    def channels(self) -> int:
        """Number of input channels C."""
        if self.source == "images":
            own = self.channels_of_images
        elif self.source == "lines":
            own = 1
        else:
            own = 3 if self.encoding == "colors" else self.label_space.num_channels
        return own + int(self.edges) + int(self.instance_ids)

    def __call__(self, batch: Batch) -> Tensor:
        """Return the condition, `[N, C, H, W]` float32.

        Raises:
            DataError: the batch lacks the instance maps or source images that the method needs.
        """
        parts = [self._encoded(batch)]
        if self.edges:
            parts.append(_given(batch, batch.edges))
        if self.instance_ids:
            parts.append(_ids_channel(_given(batch, batch.instances), torch.float32))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _encoded(self, batch: Batch) -> Tensor:
        """Return the condition without the channels of instances."""
        if self.source == "images":
            if batch.source is None:
                raise DataError(f"{_names(batch)}: this method generates from images; give source images")
            return batch.source
        if self.source == "lines":
            return 1 - 2 * batch.label.unsqueeze(1).float()
        return self._colors(batch.label) if self.encoding == "colors" else self.label_space.one_hot(batch.label)

    def traceable(self, source: Tensor, instances: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Return the condition for export: comparison instead of scatter, whose zero tensor would be a constant.

        Args:
            source: ids `[N, H, W]` int64, or images `[N, C, H, W]`.
            instances: instance ids `[N, H, W]` int64, if `edges` or `instance_ids` is set.
            dtype: dtype of the result.
        """
        if self.source == "images":
            return source.to(dtype)
        if self.source == "lines":
            return 1 - 2 * source.unsqueeze(1).to(dtype)
        if self.encoding == "colors":
            parts = [self._colors(source).to(dtype)]
        else:
            ids = torch.arange(self.label_space.num_channels, device=source.device).view(1, -1, 1, 1)
            parts = [(source.unsqueeze(1) == ids).to(dtype)]
        if instances is not None and self.edges:
            parts.append(instance_edges(instances).to(dtype))
        if instances is not None and self.instance_ids:
            parts.append(_ids_channel(instances, dtype))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def preview(self, batch: Batch) -> Tensor:
        """Return inputs for display, `[N, 3, H, W]` uint8: label maps in color, or source images (first channels)."""
        if self.source != "images" or batch.source is None:
            return self.label_space.to_colors(batch.label.cpu()).cpu()
        three = batch.source[:, :3] if batch.source.shape[1] >= 3 else batch.source[:, :1].expand(-1, 3, -1, -1)
        return float_to_uint8(three)

    def _colors(self, ids: Tensor) -> Tensor:
        palette = self.label_space.palette.to(ids.device).float() / 127.5 - 1
        return palette[ids].movedim(-1, 1).contiguous()


def _names(batch: Batch) -> str:
    return ", ".join(batch.names[:3]) or "the batch"


def _given(batch: Batch, part: Tensor | None) -> Tensor:
    if part is None:
        raise DataError(
            f"{_names(batch)}: no instance map, but data.instance_edges is true; "
            "give instance maps, or train with data.instance_edges=false."
        )
    return part


def _ids_channel(instances: Tensor, dtype: torch.dtype) -> Tensor:
    return (instances % INSTANCE_IDS).unsqueeze(1).to(dtype)


@dataclass(frozen=True)
class Sampling:
    """Sampling interface of a method: everything that code outside `lab2pix.methods` needs to generate images.

    The generator is called as `generator(condition, noise)`, or, unless `style` is `none`, with the keyword argument
    `style`, `[N, 3, H, W]` or None. It returns images `[N, 3, H, W]` in [-1, 1], or a list of them, largest first.

    Attributes:
        condition: encoder of the generator's input.
        size_multiple: divisor of valid heights and widths.
        min_pixels: smallest image area, in squares of `size_multiple`.
        min_side: smallest height and width, in multiples of `size_multiple`.
        noise_channels: length of the noise vector, or channels of the noise map; 0: no noise, one image per input.
        noise_stride: 0: vector `[N, noise_channels]`; s > 0: map `[N, noise_channels, H / s, W / s]`.
        outputs: number of images the generator returns; 3: X3, X2, X1.
        style: whether a style image is unused, optional or required.
        mode: `eval`; or `train`: batch norm with the statistics of the single image, and dropout seeded by the noise,
            without a change of state.
    """

    condition: Condition
    size_multiple: int = 1
    min_pixels: int = 1
    min_side: int = 1
    noise_channels: int = 0
    noise_stride: int = 0
    outputs: int = 1
    style: Literal["none", "optional", "required"] = "none"
    mode: Literal["eval", "train"] = "eval"

    def noise_shape(self, size: tuple[int, int]) -> tuple[int, ...] | None:
        """Return the noise shape of one image of a size (height, width); None if the method uses no noise."""
        if not self.noise_channels:
            return None
        if not self.noise_stride:
            return (self.noise_channels,)
        height, width = self.padded_size(size)
        return (self.noise_channels, height // self.noise_stride, width // self.noise_stride)

    @property
    def size_rule(self) -> tuple[int, int, int]:
        """Divisor of the sides that the generator takes, smallest side, and smallest area in squares of the divisor."""
        return self.size_multiple, self.min_side * self.size_multiple, self.min_pixels

    def padded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the smallest size at or above a height and width that the generator takes."""
        return padded_size(size, *self.size_rule)

    def check_size(self, height: int, width: int) -> None:
        """Check an image size: reflection must be able to pad it to one that the generator takes.

        Raises:
            ConfigError: the size is too small; the message has the nearest valid one.
        """
        if can_pad((height, width), *self.size_rule):
            return
        near = nearest_size((height, width), *self.size_rule)
        squares = "" if self.min_pixels == 1 else f", {self.min_pixels} or more squares of that side,"
        squares += "" if self.min_side == 1 else f", at least {self.min_side * self.size_multiple},"
        raise ConfigError(
            f"a size of {height}x{width} (height x width) is too small to be padded to the multiples of "
            f"{self.size_multiple}{squares} that this generator takes; the nearest valid size is {near[0]}x{near[1]}"
        )


def example_inputs(
    sampling: Sampling, size: tuple[int, int], count: int = 1, seed: int = 0
) -> tuple[Batch, Tensor | None]:
    """Return random inputs with smooth, realistic regions, and noise, for benchmarks and tests."""
    random, condition = torch.Generator().manual_seed(seed), sampling.condition
    coarse = [max(2, side // 32) for side in size]
    channels = condition.channels_of_images if condition.source == "images" else condition.label_space.num_channels
    smooth = F.interpolate(
        torch.rand(count, channels, *coarse, generator=random), size=size, mode="bilinear", align_corners=False
    )
    ids, source = smooth.argmax(1), None
    if condition.source == "images":
        ids, source = torch.empty(count, 0, 0, dtype=torch.int64), smooth * 2 - 1
    elif condition.source == "lines":
        ids = (ids != ids.roll(1, -1)).long()
    instances = ids.roll(1, -1) if condition.edges or condition.instance_ids else None
    edges = instance_edges(instances) if instances is not None and condition.edges else None
    shape = sampling.noise_shape(size)
    noise = None if shape is None else torch.randn(count, *shape, generator=random)
    style = None if sampling.style == "none" else torch.rand(count, 3, *size, generator=random) * 2 - 1
    return Batch(label=ids, edges=edges, instances=instances, source=source, style=style), noise


def generate_pyramid(generator: nn.Module, sampling: Sampling, batch: Batch, noise: Tensor | None) -> list[Tensor]:
    """Generate all images of one forward pass, in [-1, 1], largest first: X3, X2, X1 for V1 (Eq. 17), one otherwise.

    Inputs of a size that the generator does not take are padded by reflection, and images are cropped to their size.

    Args:
        generator: generator of a method.
        sampling: sampling of the same method.
        batch: inputs, with style images if the method uses them.
        noise: noise of shape `Sampling.noise_shape` per image; None if the method uses none.

    Raises:
        DataError: the batch lacks an input that the method needs.
    """
    height, width = batch.size
    padded = sampling.padded_size((height, width))
    batch = batch.pad(padded)
    condition = sampling.condition(batch)
    if sampling.style == "none":
        images: Tensor | list[Tensor] = generator(condition, noise)
    elif sampling.style == "required" and batch.style is None:
        raise DataError(f"{_names(batch)}: this method needs a style image; give one with --style")
    else:
        images = generator(condition, noise, style=batch.style)
    scales = [images] if isinstance(images, Tensor) else images
    if padded == (height, width):
        return scales
    factors = [padded[0] // scale.shape[-2] for scale in scales]
    return [
        scale[..., : -(-height // factor), : -(-width // factor)] for scale, factor in zip(scales, factors, strict=True)
    ]


def generate(generator: nn.Module, sampling: Sampling, batch: Batch, noise: Tensor | None) -> Tensor:
    """Generate images `[N, 3, H, W]` in [-1, 1]: the largest of `generate_pyramid`."""
    return generate_pyramid(generator, sampling, batch, noise)[0]


def generate_deterministic(
    generator: nn.Module, sampling: Sampling, batch: Batch, noise: Tensor | None
) -> list[Tensor]:
    """Same as `generate_pyramid`, in full precision, without a graph, and independent of the other images in the batch.

    On a CPU, and in train mode, samples are generated one by one: PyTorch and oneDNN select convolution kernels by
    batch size, and kernels differ in rounding. The generator must be in eval mode.
    """
    # The rounding of TensorFloat-32 depends on the batch size.
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False):
        if sampling.mode == "eval" and batch.label.device.type != "cpu":
            return generate_pyramid(generator, sampling, batch, noise)
        one = generate_pyramid if sampling.mode == "eval" else _generate_in_train_mode
        rows = [slice(row, row + 1) for row in range(len(batch))]
        # Clone each row: the rounding of a matrix product can depend on memory alignment.
        images = [one(generator, sampling, batch[row], None if noise is None else noise[row].clone()) for row in rows]
        return [torch.cat(scale) for scale in zip(*images, strict=True)]


def _generate_in_train_mode(
    generator: nn.Module, sampling: Sampling, batch: Batch, noise: Tensor | None
) -> list[Tensor]:
    """Generate the images of one sample with batch norm and dropout in train mode."""
    # Seed dropout with the noise, the only difference between two images of the same input.
    seed = content_seed(b"" if noise is None else noise.cpu().contiguous().numpy().tobytes())
    device = next(generator.parameters()).device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), _norms_and_dropout_in_train_mode(generator):
        torch.manual_seed(seed)
        return generate_pyramid(generator, sampling, batch, noise)


_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


@contextmanager
def _norms_and_dropout_in_train_mode(network: nn.Module) -> Iterator[None]:
    """Switch batch norm and dropout to train mode without updating running statistics."""
    norms = [module for module in network.modules() if isinstance(module, _BATCH_NORMS)]
    switched = [*norms, *(module for module in network.modules() if isinstance(module, _DROPOUTS))]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    for module in switched:
        module.training = True
    try:
        yield
    finally:
        for module in switched:
            module.training = False
        for norm, (momentum, counter) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter


def latent_from_seed(seed: int, sample: int, shape: tuple[int, ...]) -> Tensor:
    """Return the noise of image `sample` of a seed, float32; depends only on the arguments (Eq. 21)."""
    return torch.randn(shape, generator=latent_generator(seed, sample))
