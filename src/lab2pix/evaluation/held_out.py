"""Evaluation of a generator on held-out label maps, during training or after it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from lab2pix.batch import Batch
from lab2pix.data.build import AnyDataset
from lab2pix.data.datasets import SampleSource
from lab2pix.data.samples import collate
from lab2pix.data.transforms import float_to_uint8
from lab2pix.evaluation.accumulator import MetricAccumulator
from lab2pix.evaluation.evaluator import gather
from lab2pix.evaluation.features import distance_names, feature_name
from lab2pix.evaluation.loading import ReadingLog
from lab2pix.methods import latent_from_seed
from lab2pix.utils.distributed import DistributedContext

__all__ = ["SEGMENTATION_SCORES", "evaluate_generator", "held_out_noise", "sample_key", "score_names"]

SEGMENTATION_SCORES = ("ppa", "pca", "ciou")
"""Scores that need a segmenter."""


def sample_key(index: int) -> str:
    """Return the name of a held-out label map within an evaluation."""
    return f"{index:06d}"


def held_out_noise(seed: int, indices: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """Return the noise of held-out label maps, `[len(indices), *shape]`."""
    return torch.stack([latent_from_seed(seed, index, shape) for index in indices])


def score_names(
    features: Iterable[str], *, segmenter: bool, pairs: bool, photos: bool, samples: int
) -> tuple[str, ...]:
    """Return the names of the scores that an evaluation will give; loads nothing.

    `pairs`: each label map has a photo; `photos`: there are photos at all; `samples`: images per label map.
    """
    distances = [name for spec in features for name in distance_names(feature_name(spec))]
    return (
        *(SEGMENTATION_SCORES if segmenter else ()),
        *(distances if photos else ()),
        *(("psnr", "ssim") if pairs else ()),
        *(("diversity_pixels",) if samples > 1 else ()),
    )


def evaluate_generator(
    judge: MetricAccumulator,
    dataset: AnyDataset,
    draw: Callable[[Batch, Sequence[int], int], Tensor],
    *,
    photos: SampleSource | None = None,
    count: int | None = None,
    seed: int,
    batch_size: int,
    team: DistributedContext,
    on_progress: Callable[[int, int], None] | None = None,
) -> ReadingLog:
    """Accumulate metrics over held-out label maps; each process takes its share, and process 0 gets the sum.

    `draw` returns images `[N, 3, H, W]` uint8 of a batch, given the indices of its label maps and a seed, which is
    `seed` for the first sample set and counts up. The first `count` label maps and `photos` are used; None: all.

    Returns:
        The sizes of the images.
    """
    log = ReadingLog()
    mine = _share(len(dataset), count, team)
    for start in range(0, len(mine), batch_size):
        indices = mine[start : start + batch_size]
        batch = collate([dataset[(0, index)] for index in indices])
        drawn = [draw(batch, indices, seed + number) for number in range(judge.sample_sets)]
        real = None if batch.image is None else float_to_uint8(batch.image)
        label = None if judge.networks.segmenter is None else batch.label
        judge.update([sample_key(index) for index in indices], drawn, real, label)
        log.sizes[(drawn[0].shape[-2], drawn[0].shape[-1])] += len(indices)
        if on_progress is not None:
            on_progress(start + len(indices), len(mine))
    if photos is not None:
        _update_real(judge, photos, _share(len(photos), count, team), batch_size)
    gather(judge, log, team)
    return log


def _share(length: int, count: int | None, team: DistributedContext) -> list[int]:
    """Return the indices that this process evaluates."""
    return list(range(team.rank, length if count is None else min(count, length), team.size))


def _update_real(judge: MetricAccumulator, photos: SampleSource, indices: Sequence[int], batch_size: int) -> None:
    nothing = torch.Generator()  # held-out photos are neither cropped nor flipped
    for start in range(0, len(indices), batch_size):
        some = indices[start : start + batch_size]
        pictures = [photos.transform.photo(photos.read_photo(index), nothing) for index in some]
        judge.update_real([sample_key(index) for index in some], torch.stack(pictures))
