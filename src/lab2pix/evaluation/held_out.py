"""Evaluation of a generator on held-out label maps, during training or after it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from lab2pix.batch import Batch
from lab2pix.data.build import AnyDataset
from lab2pix.data.datasets import SampleSource
from lab2pix.data.samples import collate
from lab2pix.data.transforms import float_to_uint8, uint8_to_float
from lab2pix.errors import ConfigError
from lab2pix.evaluation.accumulator import MetricAccumulator
from lab2pix.evaluation.evaluator import gather
from lab2pix.evaluation.features import distance_names, feature_name
from lab2pix.evaluation.loading import ReadingLog
from lab2pix.methods import Sampling, latent_from_seed
from lab2pix.utils.distributed import DistributedContext

StyleFrom = Literal["noise", "photos"]
"""Origin of the style in an evaluation: noise, or held-out photos, encoded."""

SEGMENTATION_SCORES = ("ppa", "pca", "ciou")
"""Scores that need a segmenter."""


def sample_key(index: int) -> str:
    """Return the name of a held-out label map within an evaluation."""
    return f"{index:06d}"


def held_out_noise(seed: int, indices: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """Return the noise of held-out label maps, `[len(indices), *shape]`."""
    return torch.stack([latent_from_seed(seed, index, shape) for index in indices])


def style_origin(sampling: Sampling, asked: StyleFrom) -> StyleFrom | None:
    """Return where the style comes from, or None for a method without an image encoder.

    Methods that require a style image take it from held-out photos, whatever is asked for.

    Raises:
        ConfigError: photos are asked for, but the method has no image encoder.
    """
    if sampling.style == "none":
        if asked == "photos":
            raise ConfigError("the run has no image encoder for the style of photos; leave out --style-from")
        return None
    return "photos" if sampling.style == "required" else asked


def with_styles(batch: Batch, indices: Sequence[int], origin: StyleFrom | None, photos: SampleSource | None) -> Batch:
    """Return a batch of held-out inputs with the style images of an evaluation, and without photos.

    Args:
        batch: the inputs, with their own photos if the data is paired.
        indices: indices of the inputs.
        origin: see `style_origin`; input i gets the style of its own photo, or of photo i if it has none.
        photos: held-out photos of an unpaired run.

    Raises:
        ConfigError: there are no photos.
    """
    if origin != "photos":
        return replace(batch, image=None, style=None)
    style = batch.image
    if style is None:
        if photos is None:
            raise ConfigError("the style is encoded from photos, but the run holds none out; add them to its data")
        style = uint8_to_float(torch.stack([_photo(photos, index % len(photos)) for index in indices]))
    return replace(batch, image=None, style=style.to(batch.label.device))


def score_names(
    features: Iterable[str], *, segmenter: bool, pairs: bool, photos: bool, samples: int
) -> tuple[str, ...]:
    """Return the names of the scores that an evaluation will give; loads nothing.

    `pairs`: each label map has a photo; `photos`: there are photos at all; `samples`: images per label map.
    """
    distances = [name for spec in features for name in distance_names(feature_name(spec))]
    names = (
        *(SEGMENTATION_SCORES if segmenter else ()),
        *(distances if photos else ()),
        *(("psnr", "ssim") if pairs else ()),
        *(("diversity_pixels",) if samples > 1 else ()),
    )
    return (*names, "checkerboard") if names else ()


def evaluate_generator(
    accumulator: MetricAccumulator,
    dataset: AnyDataset,
    draw: Callable[[Batch, Sequence[int], int], Tensor],
    *,
    photos: SampleSource | None = None,
    labels: AnyDataset | None = None,
    count: int | None = None,
    seed: int,
    batch_size: int,
    distributed: DistributedContext,
    on_progress: Callable[[int, int], None] | None = None,
) -> ReadingLog:
    """Accumulate metrics over held-out label maps; each process takes its share, and process 0 gets the sum.

    Args:
        accumulator: an empty accumulator in every process.
        dataset: the held-out part.
        draw: returns images `[N, 3, H, W]` uint8 of a batch, given the indices of its label maps and a seed.
        photos: held-out photos without label maps.
        labels: the held-out part at the segmenter's `label_size`; None: `dataset`.
        count: number of label maps, and of these photos, the first ones; None: all.
        seed: seed of the first sample set; the next ones count up.
        batch_size: images per batch.
        distributed: the processes, which must all call this.
        on_progress: called with the number of finished label maps of this process and their total.

    Returns:
        The sizes of the images.
    """
    log = ReadingLog()
    mine = _share(len(dataset), count, distributed)
    for start in range(0, len(mine), batch_size):
        indices = mine[start : start + batch_size]
        batch = collate([dataset[(0, index)] for index in indices])
        drawn = [draw(batch, indices, seed + number) for number in range(accumulator.sample_sets)]
        real = None if batch.image is None else float_to_uint8(batch.image)
        label = None
        if accumulator.networks.segmenter is not None:
            label = batch.label if labels is None else collate([labels[(0, index)] for index in indices]).label
        accumulator.update([sample_key(index) for index in indices], drawn, real, label)
        log.sizes[(drawn[0].shape[-2], drawn[0].shape[-1])] += len(indices)
        if on_progress is not None:
            on_progress(start + len(indices), len(mine))
    if photos is not None:
        _update_real(accumulator, photos, _share(len(photos), count, distributed), batch_size)
    gather(accumulator, log, distributed)
    return log


def _share(length: int, count: int | None, distributed: DistributedContext) -> list[int]:
    """Return the indices that this process evaluates."""
    return list(range(distributed.rank, length if count is None else min(count, length), distributed.size))


def _update_real(accumulator: MetricAccumulator, photos: SampleSource, indices: Sequence[int], batch_size: int) -> None:
    for start in range(0, len(indices), batch_size):
        some = indices[start : start + batch_size]
        images = [_photo(photos, index) for index in some]
        accumulator.update_real([sample_key(index) for index in some], torch.stack(images))


def _photo(photos: SampleSource, index: int) -> Tensor:
    nothing = torch.Generator()  # held-out photos are neither cropped nor flipped
    return photos.transform.photo(photos.read_photo(index), nothing)
