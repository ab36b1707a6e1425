"""From label maps and noise to images: condition, noise from a seed, and the generator's forward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.config.schema import Config
from lab2pix.errors import DataError
from lab2pix.labels.space import LabelSpace
from lab2pix.utils.seeding import latent_generator

__all__ = [
    "condition_channels",
    "encode_condition",
    "generate",
    "generate_deterministic",
    "generate_pyramid",
    "latent_from_seed",
]


def condition_channels(config: Config, label_space: LabelSpace) -> int:
    """Return C: 1 for sketches; else one per class, one for unknown if the space has it, one for instance edges."""
    if config.generator.encoder == "sketch":
        return 1
    return label_space.num_channels + int(config.data.instance_edges)


def encode_condition(config: Config, label_space: LabelSpace, batch: Batch) -> Tensor:
    """Return the one-hot label maps with their instance edges, or sketches with paper +1 and line -1.

    Returns:
        `[N, C, H, W]` float32.

    Raises:
        DataError: the run wants instance edges and the batch has none.
    """
    if config.generator.encoder == "sketch":
        return 1 - 2 * batch.label.unsqueeze(1).float()
    one_hot = label_space.one_hot(batch.label)
    if not config.data.instance_edges:
        return one_hot
    if batch.edges is None:
        names = ", ".join(batch.names[:3]) or "the label maps"
        raise DataError(
            f"{names}: no instance map, but data.instance_edges is true; "
            "give instance maps, or train with data.instance_edges=false."
        )
    return torch.cat([one_hot, batch.edges], dim=1)


def generate_pyramid(
    generator: nn.Module, config: Config, label_space: LabelSpace, batch: Batch, noise: Tensor
) -> list[Tensor]:
    """Return all images of one pass, in [-1, 1], largest first: X3, X2, X1 of V1 (Eq. 17), X3 alone of V2.

    Args:
        generator: a method's generator.
        config: the run that it is of.
        label_space: what the class ids mean.
        batch: label maps.
        noise: `[N, noise_dim]`.
    """
    images: Tensor | list[Tensor] = generator(encode_condition(config, label_space, batch), noise)
    return [images] if isinstance(images, Tensor) else images


def generate(generator: nn.Module, config: Config, label_space: LabelSpace, batch: Batch, noise: Tensor) -> Tensor:
    """Return X3, `[N, 3, H, W]` in [-1, 1], for a batch of label maps and `[N, noise_dim]` noise."""
    return generate_pyramid(generator, config, label_space, batch, noise)[0]


def generate_deterministic(
    generator: nn.Module, config: Config, label_space: LabelSpace, batch: Batch, noise: Tensor
) -> list[Tensor]:
    """Return what `generate_pyramid` does, in full precision, so that images of a batch do not depend on each other.

    The generator is in evaluation mode; no graph is kept.
    """
    # The shortened float32 of newer GPUs rounds otherwise at another batch size.
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False):
        return generate_pyramid(generator, config, label_space, batch, noise)


def latent_from_seed(seed: int, sample: int, length: int) -> Tensor:
    """Return z (Eq. 21) of a seed's n-th picture: `[length]` float32 that depends on seed and sample alone."""
    return torch.randn(length, generator=latent_generator(seed, sample))
